//! Runs the system's own tools, one at a time, with argument vectors and time limits.
//!
//! Each tool gets the lock file as its standard input. So the lock is held for as long as any process of the tool lives, also when
//! the agent that started it was killed: the next agent waits until it is over, and two tools never work on one disk. A tool that reads
//! a script finds it in that file; for all others it is empty.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process_group};
use supernode_probe::SystemTools;
use supernode_probe::system_disk::missing;
use supernode_types::Clock;

const LOCK_FILE: &str = "disk-expand.lock";
/// How long a tool of a killed agent is waited for.
const LOCK_PATIENCE: Duration = Duration::from_mins(20);
const LOCK_PERIOD: Duration = Duration::from_millis(50);
/// The most of a tool's output that is kept.
const MAXIMUM_OUTPUT_BYTES: u64 = 64 * 1024;
/// The most characters of it that are told.
const MAXIMUM_SHOWN_CHARACTERS: usize = 400;
/// How long a killed tool may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// How long a machine may take to go down.
const RESTART_PATIENCE: Duration = Duration::from_mins(2);
/// Where tools find their own helpers.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The tools, under a lock.
#[derive(Debug)]
pub(super) struct Toolbox {
    tools: SystemTools,
    path: String,
    lock: std::fs::File,
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// Absent when a signal ended it.
    pub(super) code: Option<i32>,
    /// Both streams, as on a terminal.
    pub(super) text: String,
}

impl Output {
    pub(super) fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// What it said, in one line.
    pub(super) fn line(&self) -> String {
        let lines: Vec<&str> = self
            .text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
        let line: String = lines.join("; ").chars().map(printable).collect();
        let surplus = line
            .chars()
            .count()
            .saturating_sub(MAXIMUM_SHOWN_CHARACTERS);
        // The end says what went wrong.
        line.chars().skip(surplus).collect()
    }
}

impl Toolbox {
    /// Waits until no tool of an earlier agent is left.
    pub(super) fn open(
        data_directory: &Path,
        directories: Vec<PathBuf>,
        clock: &dyn Clock,
    ) -> Result<Self, String> {
        let path = data_directory.join(LOCK_FILE);
        let lock = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let deadline = clock.monotonic() + LOCK_PATIENCE;
        while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if errno != rustix::io::Errno::AGAIN {
                return Err(format!("{}: {errno}", path.display()));
            }
            if clock.monotonic() >= deadline {
                return Err(format!(
                    "a tool of an earlier try still runs after {} minutes",
                    LOCK_PATIENCE.as_secs() / 60
                ));
            }
            std::thread::sleep(LOCK_PERIOD);
        }
        let mut path: Vec<String> = directories
            .iter()
            .map(|directory| directory.display().to_string())
            .collect();
        path.push(PATH.to_owned());
        Ok(Self {
            tools: SystemTools::with_directories(directories),
            path: path.join(":"),
            lock,
        })
    }

    /// Whether a tool is installed.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tools.system_program(name).is_some()
    }

    /// Runs a tool to its end; an error is that it could not run, or not within `limit`.
    pub(super) fn run(
        &self,
        name: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Output, String> {
        self.run_with(name, arguments, "", limit)
    }

    /// [`Toolbox::run`] with a script on the standard input.
    pub(super) fn run_with(
        &self,
        name: &str,
        arguments: &[&str],
        script: &str,
        limit: Duration,
    ) -> Result<Output, String> {
        let program = self
            .tools
            .system_program(name)
            .ok_or_else(|| missing(name))?;
        let failed = |error: std::io::Error| format!("{name} cannot be run: {error}");
        let input = self.input(script).map_err(failed)?;
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", &self.path)
            // The disk may be full: what tools write on the way goes into memory.
            .env("TMPDIR", temporary_directory())
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .current_dir("/")
            .process_group(0)
            .stdin(input)
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        let mut child = command.spawn().map_err(failed)?;
        // It holds the writing ends of the pipe, which must close for the reading to end.
        drop(command);
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = (&reader).take(MAXIMUM_OUTPUT_BYTES).read_to_end(&mut text);
            let _ = std::io::copy(&mut &reader, &mut std::io::sink());
            let status = child.wait();
            let _ = sender.send(status.map(|status| Output {
                code: status.code(),
                text: String::from_utf8_lossy(&text).into_owned(),
            }));
        });
        receiver
            .recv_timeout(limit)
            .unwrap_or_else(|_| {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let gone = receiver.recv_timeout(KILL_GRACE).is_ok();
                let rest = if gone { "" } else { " and cannot be killed" };
                Err(std::io::Error::other(format!(
                    "it took longer than {} s{rest}",
                    limit.as_secs()
                )))
            })
            .map_err(|error| format!("{name}: {error}"))
    }

    /// The lock file as standard input, with nothing or with a script in it.
    fn input(&self, script: &str) -> std::io::Result<Stdio> {
        let mut file = &self.lock;
        file.set_len(0)?;
        file.rewind()?;
        if !script.is_empty() {
            file.write_all(script.as_bytes())?;
            file.rewind()?;
        }
        Ok(Stdio::from(self.lock.try_clone()?))
    }
}

fn temporary_directory() -> &'static str {
    if Path::new("/run").is_dir() {
        "/run"
    } else {
        "/tmp"
    }
}

/// Runs the program that restarts the machine, and waits for it as long as such a program may take to be obeyed.
pub(super) fn restart(program: &Path) -> Result<(), String> {
    let status = Command::new(program)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    if may_be_obeyed(status) {
        std::thread::sleep(RESTART_PATIENCE);
        Ok(())
    } else {
        Err(format!("{} ended with {status}", program.display()))
    }
}

/// A machine that goes down ends its programs with signals, the one that asked for it among them.
fn may_be_obeyed(status: ExitStatus) -> bool {
    status.success() || status.signal().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_program_that_is_ended_with_the_machine_has_not_failed() {
        let ended = |raw| may_be_obeyed(ExitStatus::from_raw(raw));
        assert!(ended(0), "it said that it will be done");
        assert!(ended(15), "a signal ended it");
        assert!(!ended(1 << 8), "it refused");
    }
}
