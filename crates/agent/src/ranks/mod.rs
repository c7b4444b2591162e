//! The ranks of this node: launch, observe, stop, read the log, remove.
//!
//! Plain blocking functions over directories; the work is done by one supervisor process per rank ([`crate::supervisor`], where
//! the files are described). Nothing is remembered in memory, so an agent that starts anew has adopted every rank as soon as it has
//! listed the directories. Every call says what *is* and may be repeated at any time; two calls at once do no harm.
//!
//! ```text
//!  NotStarted --launch (agent), claim (supervisor)--> Running --exit.json (supervisor)--> Ended --remove (agent)--> gone
//!       \--stop (agent)------------------------------------------------------------------^
//!                                                  Running --supervisor killed: strays killed, exit.json (agent)--> Ended(Lost)
//! ```
//! It refuses to launch other things under a known id, to remove a rank that runs, and to call a rank ended while a process of it
//! is alive.

pub mod environment;
mod error;
pub mod id;
pub mod log;
pub mod records;
mod spawner;
mod strays;
pub mod watcher;
pub mod work;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use supernode_types::job::RankEnd;

use crate::files::{Directory, Durability, FileError, Permissions};
use crate::supervisor::lease::{LeaseFile, NO_DEADLINE};
use crate::supervisor::tree;
pub use error::RanksError;
pub use id::{InvalidRankId, RankId};
pub use log::LogChunk;
use records::{
    EXIT, LAUNCH, LOCK, LaunchRecord, RECORD_LIMIT_BYTES, SMALLEST_LOG_CAP_BYTES, STARTED, STOP,
    StartedRecord, StopRecord, boot_id, wall_micros,
};
pub use records::{Launch, RankExit, User};
use spawner::Spawner;
pub use watcher::Watcher;
pub use work::Work;

/// Rank directories that are being removed begin with this.
const REMOVED: &str = ".removed-";
/// How long a supervisor that has written its last record may take to end.
const SUPERVISOR_END: Duration = Duration::from_secs(2);

/// How the process that supervisors come from is started: the program and the arguments before the directory of the ranks.
#[derive(Debug, Clone)]
pub struct SupervisorCommand {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
}

impl SupervisorCommand {
    /// The running program itself with the hidden subcommand, also if its file was replaced by an upgrade meanwhile.
    pub fn own_executable() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec!["rank-supervisor".into()],
        }
    }
}

/// How a rank stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RankObservation {
    /// Nothing of it ever ran here, as far as is known.
    NotStarted,
    /// Its supervisor is alive.
    Running {
        /// The process id of the program, once there is one.
        pid: Option<i32>,
        /// Since when, microseconds since 1970.
        since_micros: i64,
    },
    /// Nothing of it runs any more. [`RankEnd::Lost`] if its supervisor or the host went down under it.
    Ended(RankExit),
}

/// All ranks below one data directory.
#[derive(Debug)]
pub struct Ranks {
    directory: Directory,
    lease: LeaseFile,
    spawner: Spawner,
    /// Held while a stop record is written: one writer per file.
    stopping: Mutex<()>,
}

/// Whether somebody supervises a rank.
enum Lock {
    Held,
    /// Nobody does, and nobody begins to while this is held.
    Free(
        #[expect(
            dead_code,
            reason = "held for its effect: the kernel releases the lock when it is closed"
        )]
        Option<OwnedFd>,
    ),
}

impl Ranks {
    /// Opens or creates the rank directories below `data_directory`, an absolute path that only the agent may write to.
    pub fn open(data_directory: &Path, supervisor: SupervisorCommand) -> Result<Self, RanksError> {
        Directory::open_or_create(data_directory, 0o711)?;
        let canonical = data_directory
            .canonicalize()
            .map_err(|source| FileError::System {
                path: data_directory.to_owned(),
                step: "find the real path",
                source,
            })?;
        let directory = Directory::open_or_create(&canonical.join("ranks"), 0o700)?;
        let lease = canonical.join("lease");
        let spawner = Spawner {
            command: supervisor,
            ranks: directory.path().to_owned(),
            lease: lease.clone(),
            process: Mutex::new(None),
        };
        let ranks = Self {
            directory,
            lease: LeaseFile::new(lease),
            spawner,
            stopping: Mutex::new(()),
        };
        ranks.finish_removals()?;
        Ok(ranks)
    }

    /// The lease that all supervisors of this data directory obey.
    pub fn lease(&self) -> &LeaseFile {
        &self.lease
    }

    /// A wake-up for changes.
    pub fn watcher(&self) -> Result<Watcher, RanksError> {
        Watcher::open(self.directory.path().to_owned(), &self.list()?)
    }

    /// The ranks that have a directory, sorted.
    pub fn list(&self) -> Result<Vec<RankId>, RanksError> {
        Ok(self
            .directory
            .names()?
            .iter()
            .filter_map(|name| RankId::parse(name).ok())
            .collect())
    }

    /// What a rank was launched with.
    pub fn launched(&self, id: &RankId) -> Result<Option<Launch>, RanksError> {
        let Some(directory) = self.directory.subdirectory(id.as_str())? else {
            return Ok(None);
        };
        Ok(record::<LaunchRecord>(&directory, LAUNCH)?.map(|record| record.launch))
    }

    /// [`Ranks::launch_under`] whatever lease there is.
    pub fn launch(&self, id: &RankId, launch: &Launch) -> Result<RankObservation, RanksError> {
        self.launch_under(id, launch, NO_DEADLINE)
    }

    /// Starts a rank unless it was started before, and says how it stands. A program that cannot be run is no error here: it ends as
    /// [`RankEnd::NotStarted`]. The lease must have been written before; `granted` is the deadline that it had when the launch was
    /// decided, and a rank that has not started by then has lost it.
    pub fn launch_under(
        &self,
        id: &RankId,
        launch: &Launch,
        granted: i64,
    ) -> Result<RankObservation, RanksError> {
        check(id, launch)?;
        let (directory, _) = self.directory.create_subdirectory(id.as_str(), 0o700)?;
        let known = LaunchRecord {
            boot_id: boot_id(),
            launch: launch.clone(),
        };
        let text = serde_json::to_vec(&known).expect("records are JSON");
        if !directory.create_new(LAUNCH, &text, 0o600)? {
            match record::<LaunchRecord>(&directory, LAUNCH)? {
                Some(before) if before.launch != *launch => {
                    return Err(RanksError::Conflict { id: id.clone() });
                }
                Some(_) => {}
                // Torn by a loss of power: written in an earlier boot, never acted on in this one.
                None => write(&directory, LAUNCH, &known, Durability::Process)?,
            }
        }
        let observation = self.observe(id)?;
        if observation != RankObservation::NotStarted {
            return Ok(observation);
        }
        self.spawner
            .supervise(id, granted)
            .map_err(|why| RanksError::Supervisor {
                id: id.clone(),
                why,
            })?;
        self.observe(id)
    }

    /// How a rank stands. A rank whose supervisor was killed is cleaned up by this call before it is said to have ended.
    pub fn observe(&self, id: &RankId) -> Result<RankObservation, RanksError> {
        let Some(directory) = self.directory.subdirectory(id.as_str())? else {
            return Ok(RankObservation::NotStarted);
        };
        if let Some(exit) = exit(&directory)? {
            return Ok(RankObservation::Ended(exit));
        }
        // Before the lock: a supervisor takes the lock first and marks the start then, so "started and not locked" in this order
        // means that it is gone, and in the other order could mean that it has just come.
        let started = directory.status(STARTED)?.is_some();
        let lock = lock(&directory)?;
        match lock {
            Lock::Held if started || directory.status(STARTED)?.is_some() => {
                let record: Option<StartedRecord> = record(&directory, STARTED)?;
                Ok(RankObservation::Running {
                    pid: record.as_ref().and_then(|record| record.rank),
                    since_micros: record
                        .map_or_else(wall_micros, |record| record.started_at_micros),
                })
            }
            Lock::Held => Ok(RankObservation::NotStarted),
            Lock::Free(_) => {
                // The supervisor may have finished between the first look and the lock.
                if let Some(exit) = exit(&directory)? {
                    return Ok(RankObservation::Ended(exit));
                }
                let launch: Option<LaunchRecord> = record(&directory, LAUNCH)?;
                if launch.is_some_and(|launch| launch.boot_id != boot_id()) {
                    let why = "the host restarted, and nothing of it runs any more".to_owned();
                    return lost(&directory, why).map(RankObservation::Ended);
                }
                if !started {
                    return Ok(RankObservation::NotStarted);
                }
                let killed = strays::kill(id, &directory)?;
                let why = format!(
                    "its supervisor was killed; it took its program along, and {killed} other processes were killed"
                );
                lost(&directory, why).map(RankObservation::Ended)
            }
        }
    }

    /// Ends a rank: `signal` to all its processes, and after `grace` the kill. Says how it stands now; it ends later. A rank that
    /// was not started never will be. Repeating it changes nothing, another signal or a shorter grace is acted on.
    pub fn stop(
        &self,
        id: &RankId,
        signal: i32,
        grace: Duration,
        why: &str,
    ) -> Result<RankObservation, RanksError> {
        if Signal::from_named_raw(signal).is_none() {
            return Err(RanksError::InvalidSignal {
                id: id.clone(),
                signal,
            });
        }
        let Some(directory) = self.directory.subdirectory(id.as_str())? else {
            return Ok(RankObservation::NotStarted);
        };
        let grace_milliseconds = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let stop = StopRecord {
            signal,
            grace_milliseconds,
            why: why.to_owned(),
        };
        {
            let _writing = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
            let known: Option<StopRecord> = record(&directory, STOP)?;
            if !known.is_some_and(|known| {
                known.signal == signal && known.grace_milliseconds == grace_milliseconds
            }) {
                write(&directory, STOP, &stop, Durability::Process)?;
            }
        }
        match self.observe(id)? {
            RankObservation::NotStarted => {
                never_start(&directory, stop)?;
                self.observe(id)
            }
            running @ RankObservation::Running { .. } => {
                // Only makes it quicker: the supervisor looks for the file four times a second.
                if let Some(started) = record::<StartedRecord>(&directory, STARTED)? {
                    tree::signal_if(started.supervisor, Signal::TERM, |status| {
                        status.began == started.supervisor_began
                    });
                }
                Ok(running)
            }
            ended @ RankObservation::Ended(_) => Ok(ended),
        }
    }

    /// Output of a rank from `offset` on.
    pub fn read_log(
        &self,
        id: &RankId,
        offset: u64,
        limit_bytes: usize,
    ) -> Result<LogChunk, RanksError> {
        match self.directory.subdirectory(id.as_str())? {
            Some(directory) => Ok(log::read(&directory, offset, limit_bytes)?),
            None => Ok(LogChunk {
                offset,
                bytes: Vec::new(),
                next_offset: offset,
                start: 0,
                end_of_file: false,
            }),
        }
    }

    /// Forgets a rank that does not run, with its log; it need not be there. From then on the same id could be launched again, so
    /// the caller must know that nobody will ask for that.
    pub fn remove(&self, id: &RankId) -> Result<(), RanksError> {
        let Some(directory) = self.directory.subdirectory(id.as_str())? else {
            return Ok(());
        };
        if let RankObservation::Running { .. } = self.observe(id)? {
            return Err(RanksError::Running { id: id.clone() });
        }
        let mut waited = Duration::ZERO;
        let _lock = loop {
            match lock(&directory)? {
                Lock::Held if waited > SUPERVISOR_END => {
                    return Err(RanksError::Running { id: id.clone() });
                }
                Lock::Held => {
                    // It has written its last record and is about to end.
                    let pause = Duration::from_millis(1);
                    std::thread::sleep(pause);
                    waited += pause;
                }
                free @ Lock::Free(_) => break free,
            }
        };
        let aside = format!("{REMOVED}{id}");
        rustix::fs::renameat(
            &self.directory,
            id.as_str(),
            &self.directory,
            aside.as_str(),
        )
        .map_err(|errno| FileError::System {
            path: self.directory.path().join(id.as_str()),
            step: "remove",
            source: errno.into(),
        })?;
        self.finish_removals()
    }

    /// Removes what an interrupted removal left.
    fn finish_removals(&self) -> Result<(), RanksError> {
        let path = self.directory.path();
        let failed = |source| FileError::System {
            path: path.to_owned(),
            step: "remove what is left in",
            source,
        };
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                match std::fs::remove_dir_all(entry.path()) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(failed(error).into());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn check(id: &RankId, launch: &Launch) -> Result<(), RanksError> {
    let refuse = |why: &str| {
        Err(RanksError::InvalidLaunch {
            id: id.clone(),
            why: why.to_owned(),
        })
    };
    if launch.argv.first().is_none_or(String::is_empty) {
        return refuse("names no program to run");
    }
    if launch
        .argv
        .iter()
        .chain(launch.env.values())
        .any(|text| text.contains('\0'))
    {
        return refuse("an argument or variable has a zero byte");
    }
    if launch
        .env
        .keys()
        .any(|name| name.is_empty() || name.contains(['=', '\0']))
    {
        return refuse("a variable has no name, or a `=` or zero byte in it");
    }
    if !launch.workdir.starts_with('/') || launch.workdir.contains('\0') {
        return refuse("the working directory is not an absolute path");
    }
    if launch.log_cap_bytes < SMALLEST_LOG_CAP_BYTES {
        return refuse("the log cap is below 64 KiB");
    }
    Ok(())
}

/// A JSON file of a rank directory. One that is missing or torn (by a loss of power) counts as not there.
fn record<T: DeserializeOwned>(directory: &Directory, name: &str) -> Result<Option<T>, FileError> {
    Ok(directory
        .read(name, RECORD_LIMIT_BYTES)?
        .and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn write(
    directory: &Directory,
    name: &str,
    record: &impl serde::Serialize,
    durability: Durability,
) -> Result<(), FileError> {
    let text = serde_json::to_vec(record).expect("records are JSON");
    directory.write_atomic(name, &text, Permissions::mode(0o600), durability)
}

fn exit(directory: &Directory) -> Result<Option<RankExit>, FileError> {
    record(directory, EXIT)
}

fn lock(directory: &Directory) -> Result<Lock, FileError> {
    let failed = |errno: Errno| FileError::System {
        path: directory.path().join(LOCK),
        step: "lock",
        source: errno.into(),
    };
    // Read-only, so that closing it is not the event that tells a watcher of a supervisor's end.
    match rustix::fs::openat(
        directory,
        LOCK,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => Ok(Lock::Free(None)),
        Err(errno) => Err(failed(errno)),
        Ok(handle) => match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock::Free(Some(handle))),
            Err(Errno::AGAIN) => Ok(Lock::Held),
            Err(errno) => Err(failed(errno)),
        },
    }
}

/// Writes the end of a rank that nobody else can write.
fn lost(directory: &Directory, why: String) -> Result<RankExit, RanksError> {
    let started: Option<StartedRecord> = record(directory, STARTED)?;
    let last_lines = match directory.open_file(records::OUTPUT)? {
        Some(file) => crate::supervisor::output::last_lines_of(&file, log::window(directory)?),
        None => Vec::new(),
    };
    let exit = RankExit {
        end: RankEnd::Lost { why },
        stop_why: None,
        started_at_micros: started.map(|started| started.started_at_micros),
        ended_at_micros: wall_micros(),
        last_lines,
    };
    write(directory, EXIT, &exit, Durability::Power)?;
    Ok(exit)
}

/// Ends a rank that was never started; if a supervisor was quicker, it will find the stop record.
fn never_start(directory: &Directory, stop: StopRecord) -> Result<(), RanksError> {
    let nobody = StartedRecord {
        supervisor: 0,
        supervisor_began: 0,
        rank: None,
        started_at_micros: wall_micros(),
        cgroup: None,
    };
    let text = serde_json::to_vec(&nobody).expect("the record is JSON");
    if directory.create_new(STARTED, &text, 0o600)? {
        let exit = RankExit {
            end: RankEnd::Stopped {
                code: 128 + stop.signal,
            },
            stop_why: Some(stop.why),
            started_at_micros: None,
            ended_at_micros: wall_micros(),
            last_lines: Vec::new(),
        };
        write(directory, EXIT, &exit, Durability::Power)?;
    }
    Ok(())
}
