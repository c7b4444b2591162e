//! The rank supervisor: a small process of its own for every rank, which outlives the agent.
//!
//! The hidden subcommand `supernode rank-supervisor DIR --lease FILE` calls [`main`] before any thread or runtime exists. The
//! supervisor leaves the agent's session, starts the program, and stays until nothing of the program's process tree is left. It
//! takes no input but the files of its rank directory, the lease file, [`GRANTED`] and SIGTERM ("look at `stop.json` now"), so an agent
//! that was killed with `kill -9` finds everything again by reading the directory.
//!
//! ```text
//!  agent                                   rank directory                         supervisor
//!  launch: write aside, rename ----------> launch.json  ------------------------> read once; refused in another boot
//!                                          lock         <------------------------ flock, held while it lives
//!                                          started.json <-- O_EXCL, then rename - before the program is started / with its process id
//!                                          output.log   <------------------------ descriptors 1 and 2 of the program
//!                                          output.start <------------------------ when the oldest output is taken out
//!  stop: write aside, rename, SIGTERM ---> stop.json    ------------------------> signal the tree, grace, SIGKILL the tree
//!  after each acknowledged sync ---------> ../../lease  ------------------------> expired: SIGKILL the tree at once ("fenced")
//!  read, report, remove <----------------- exit.json    <-- flush, rename ------- the last thing: nothing runs any more
//! ```
//!
//! What follows from it:
//! - *At most once.* `started.json` is created with `O_EXCL` under the lock before anything runs and is never removed while the
//!   directory exists; a second supervisor on the same directory does nothing.
//! - *Running means locked.* A process id proves nothing, the kernel's lock does. No lock, `started.json` and no `exit.json`
//!   means that the supervisor was killed: the program dies with it (parent-death signal), and the agent kills what is left by
//!   control group and by the environment variable `SUPERNODE_RANK_DIR` before it says that the rank is gone.
//! - *The whole tree.* The supervisor is the subreaper of its tree; it ends when it has no child left. A process that cannot be
//!   killed (uninterruptible in a driver) keeps the rank running, because it does hold the device.
//!
//! It refuses: a shell, a second start, running without a lease, talking to the network, threads.

pub mod cgroup;
pub mod lease;
pub(crate) mod output;
mod spawn;
pub mod tree;
mod watch;

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::ForkResult;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::files::{Directory, Durability, Permissions, one_line};
use crate::ranks::records::{
    LAUNCH, LOCK, LaunchRecord, RECORD_LIMIT_BYTES, STARTED, StartedRecord, boot_id, wall_micros,
};

/// The environment variable with the deadline of the lease under which the launch was decided, in nanoseconds of the boot clock. The
/// rank does not get it.
pub const GRANTED: &str = "SUPERNODE_LEASE_GRANTED";

const STARTED_WELL: &[u8] = b"ok";
/// Somebody may hold the lock for a moment, to look whether it is held.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Supervises the rank in `directory` under the lease in `lease_file`.
///
/// The calling process returns as soon as the rank is claimed (or was claimed before): success, or a sentence on standard error.
/// A child of it, detached in a session of its own, does the work and returns from here when the rank has ended.
pub fn main(directory: &Path, lease_file: &Path) -> ExitCode {
    // Nothing may end this process half way; the child looks at the signals that it wants.
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    let (answer, ready) = match nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) {
        Ok(pipe) => pipe,
        Err(errno) => return refuse(&format!("cannot make a pipe: {errno}")),
    };
    // SAFETY: the caller guarantees that there are no threads, so the child may run any code.
    match unsafe { nix::unistd::fork() } {
        Err(errno) => refuse(&format!("cannot start a process: {errno}")),
        Ok(ForkResult::Parent { .. }) => {
            drop(ready);
            await_claim(answer)
        }
        Ok(ForkResult::Child) => {
            drop(answer);
            let mut ready = std::fs::File::from(ready);
            match detach().and_then(|()| claim(directory)) {
                Err(why) => {
                    // The parent prints it; if the parent is gone, nobody asks any more.
                    let _ = ready.write_all(why.as_bytes());
                    ExitCode::FAILURE
                }
                Ok(claim) => {
                    let _ = ready.write_all(STARTED_WELL);
                    drop(ready);
                    match claim {
                        Some(claim) => watch::supervise(claim, lease_file),
                        None => ExitCode::SUCCESS,
                    }
                }
            }
        }
    }
}

/// The right to start the rank: held by one process, once.
#[derive(Debug)]
struct Claim {
    directory: Directory,
    launch: LaunchRecord,
    started: StartedRecord,
    /// Released by the kernel when the process ends, however it ends.
    _lock: OwnedFd,
}

impl Claim {
    /// Writes down what was started, now that more of it is known.
    fn record(&self) {
        let text = serde_json::to_vec(&self.started).expect("the record is JSON");
        // Without it the agent still sees the rank running (lock) and ending (exit.json), only not its process id.
        let _ = self.directory.write_atomic(
            STARTED,
            &text,
            Permissions::mode(0o600),
            Durability::Process,
        );
    }
}

fn await_claim(answer: OwnedFd) -> ExitCode {
    let mut text = String::new();
    let read = std::fs::File::from(answer).read_to_string(&mut text);
    if text.as_bytes() == STARTED_WELL {
        return ExitCode::SUCCESS;
    }
    match read {
        Ok(_) if text.is_empty() => refuse("the supervisor ended before it could say why"),
        Ok(_) => refuse(&text),
        Err(error) => refuse(&format!("no answer from the supervisor: {error}")),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// Leaves the session, the working directory and the open files of whoever started us.
fn detach() -> Result<(), String> {
    nix::unistd::setsid().map_err(|errno| format!("cannot open a session: {errno}"))?;
    nix::unistd::chdir("/").map_err(|errno| format!("cannot change to /: {errno}"))?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| format!("cannot open /dev/null: {error}"))?;
    for descriptor in 0..=2 {
        // SAFETY: plain descriptor numbers; this process owns its descriptor table.
        unsafe { libc::dup2(null.as_raw_fd(), descriptor) };
    }
    rustix::thread::set_name(c"supernode-rank")
        .map_err(|errno| format!("cannot set the process name: {errno}"))?;
    Ok(())
}

/// Takes the lock and marks the rank as started; `None` if that was done before, by whomever.
fn claim(path: &Path) -> Result<Option<Claim>, String> {
    let directory = Directory::open(path).map_err(|error| one_line(&error))?;
    let bytes = directory
        .read(LAUNCH, RECORD_LIMIT_BYTES)
        .map_err(|error| one_line(&error))?
        .ok_or_else(|| format!("{}: has no {LAUNCH}", path.display()))?;
    let launch: LaunchRecord = serde_json::from_slice(&bytes)
        .map_err(|error| format!("{}: {LAUNCH} is damaged: {error}", path.display()))?;
    if launch.boot_id != boot_id() {
        return Err(format!(
            "{}: was to be launched before the host restarted",
            path.display()
        ));
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(&directory, LOCK, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| format!("{}: cannot open the lock: {errno}", path.display()))?;
    let mut waited = Duration::ZERO;
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if directory
            .status(STARTED)
            .map_err(|error| one_line(&error))?
            .is_some()
        {
            return Ok(None);
        }
        if waited > LOCK_PATIENCE {
            return Err(format!(
                "{}: locked by another process, but not started",
                path.display()
            ));
        }
        let pause = Duration::from_millis(1);
        std::thread::sleep(pause);
        waited += pause;
    }
    let own = nix::unistd::getpid().as_raw();
    let started = StartedRecord {
        supervisor: own,
        supervisor_began: tree::process_status(own).map_or(0, |status| status.began),
        rank: None,
        started_at_micros: wall_micros(),
        cgroup: None,
    };
    let text = serde_json::to_vec(&started).expect("the record is JSON");
    let first = directory
        .create_new(STARTED, &text, 0o600)
        .map_err(|error| one_line(&error))?;
    Ok(first.then_some(Claim {
        directory,
        launch,
        started,
        _lock: lock,
    }))
}
