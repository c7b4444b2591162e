//! The agent's end of the process that every supervisor is forked from ([`crate::supervisor`]).
//!
//! Forking a process that is already loaded takes a tenth of the processor time of starting the program anew, and a gang starts as
//! fast as its slowest node. The process is started with the first rank, is told one rank at a time, and ends with the agent. If it
//! is gone or does not answer, another takes its place: a rank is claimed once, so asking twice does no harm.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{RankId, SupervisorCommand};
use crate::files::one_line;
use crate::supervisor::STARTED_WELL;

/// Claiming a rank takes two seconds at most; the rest is for a machine that swaps.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts supervisors for the ranks of one data directory.
#[derive(Debug)]
pub(super) struct Spawner {
    pub(super) command: SupervisorCommand,
    /// The directory with the rank directories.
    pub(super) ranks: PathBuf,
    /// The file with the lease.
    pub(super) lease: PathBuf,
    pub(super) process: Mutex<Option<Process>>,
}

impl Spawner {
    /// Has a rank supervised, if it is not already: started by the deadline `granted` or never. The error says why it is not.
    pub(super) fn supervise(&self, id: &RankId, granted: i64) -> Result<(), String> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = process.as_mut() {
            match running.ask(id, granted) {
                Ok(answer) => return answer,
                Err(error) => tracing::warn!(
                    rank = %id, error = one_line(&error),
                    "the process that starts supervisors is gone; starting another"
                ),
            }
        }
        let started = Process::start(self)
            .map_err(|error| format!("cannot start {}: {error}", self.command.program.display()))?;
        let answer = process.insert(started).ask(id, granted);
        answer.unwrap_or_else(|error| Err(format!("no answer from the supervisor: {error}")))
    }
}

/// The process, running.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    channel: BufReader<UnixStream>,
}

impl Process {
    fn start(spawner: &Spawner) -> std::io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let child = Command::new(&spawner.command.program)
            .arg0("supernode")
            .args(&spawner.command.arguments)
            .arg(&spawner.ranks)
            .arg("--lease")
            .arg(&spawner.lease)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            channel: BufReader::new(ours),
        })
    }

    /// The outer error: it did not answer.
    fn ask(&mut self, id: &RankId, granted: i64) -> std::io::Result<Result<(), String>> {
        self.channel
            .get_mut()
            .write_all(format!("{id} {granted}\n").as_bytes())?;
        let mut answer = String::new();
        self.channel.read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
            Some(STARTED_WELL) => Ok(Ok(())),
            Some(why) => Ok(Err(why.to_owned())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its supervisors are processes of their own and go on.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
