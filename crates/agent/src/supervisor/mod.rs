//! The rank supervisor: a small process of its own for every rank, which outlives the agent.
//!
//! The hidden subcommand `supernode rank-supervisor RANKS --lease FILE` calls [`main`] before any thread or runtime exists. That
//! process reads on its standard input which ranks are to be supervised, forks itself for each, and ends with the agent, whose end of
//! the socket then closes. The fork is the supervisor: it leaves the agent's session, starts the program, and stays until nothing of
//! the program's process tree is left. From then on it takes no input but the files of its rank directory, the lease file and SIGTERM
//! ("look at `stop.json` now"), so an agent that was killed with `kill -9` finds everything again by reading the directory.
//!
//! ```text
//!  agent                                   rank directory                         supervisor
//!  "rank, deadline of the grant" --------- standard input ----------------------> fork; "ok", or why not
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

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::ForkResult;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::files::{Directory, Durability, Permissions, one_line};
use crate::ranks::RankId;
use crate::ranks::records::{
    LAUNCH, LOCK, LaunchRecord, RECORD_LIMIT_BYTES, STARTED, StartedRecord, boot_id, wall_micros,
};

/// The answer to a rank that is supervised now.
pub(crate) const STARTED_WELL: &str = "ok";
/// Somebody may hold the lock for a moment, to look whether it is held.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A rank that is to be supervised, as one line: its id, and the deadline of the lease under which that was decided, in nanoseconds
/// of the boot clock.
struct Request {
    rank: RankId,
    granted: i64,
}

impl Request {
    /// `None` when nobody asks any more.
    fn read(from: &mut impl BufRead) -> Option<Result<Self, String>> {
        let mut line = String::new();
        match from.read_line(&mut line) {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        let parse = || {
            let (rank, granted) = line.trim_end().split_once(' ')?;
            let (rank, granted) = (RankId::parse(rank).ok()?, granted.parse().ok()?);
            Some(Self { rank, granted })
        };
        Some(parse().ok_or_else(|| format!("{line:?} is not a rank and a deadline")))
    }
}

/// Supervises the ranks in the directory `ranks` that are asked for on standard input, under the lease in `lease_file`.
///
/// Each request is answered with one line on the same socket as soon as the rank is claimed (or was claimed before):
/// [`STARTED_WELL`], or why not. It returns in the process that was called when nobody asks any more, and in every supervisor that
/// was forked from it when its rank has ended.
pub fn main(ranks: &Path, lease_file: &Path) -> ExitCode {
    // Nothing may end a supervisor half way; it looks at the signals that it wants. Whoever ended is not waited for.
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    wait_for_children(false);
    // SAFETY: standard input belongs to this function alone.
    let mut channel = BufReader::new(unsafe { UnixStream::from_raw_fd(0) });
    while let Some(request) = Request::read(&mut channel) {
        let answer = match request.and_then(|request| Ok((fork()?, request))) {
            Err(why) => why,
            Ok((Fork::Parent(answer), _)) => await_claim(answer),
            Ok((Fork::Supervisor(mut ready), request)) => {
                let claimed = detach().and_then(|()| claim(&ranks.join(request.rank.as_str())));
                // If the other end is gone, nobody asks any more.
                let said = claimed.as_ref().err().map_or(STARTED_WELL, String::as_str);
                let _ = ready.write_all(said.as_bytes());
                drop(ready);
                return match claimed {
                    Ok(Some(claim)) => watch::supervise(claim, request.granted, lease_file),
                    Ok(None) => ExitCode::SUCCESS,
                    Err(_) => ExitCode::FAILURE,
                };
            }
        };
        if writeln!(channel.get_mut(), "{answer}").is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// Where a fork returned.
enum Fork {
    /// In the process that goes on listening: from here comes what the supervisor says.
    Parent(File),
    /// In the supervisor: what it says goes here.
    Supervisor(File),
}

fn fork() -> Result<Fork, String> {
    let (answer, ready) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|errno| format!("cannot make a pipe: {errno}"))?;
    // SAFETY: the caller of `main` guarantees that there are no threads, so the child may run any code.
    match unsafe { nix::unistd::fork() } {
        Err(errno) => Err(format!("cannot start a process: {errno}")),
        Ok(ForkResult::Parent { .. }) => Ok(Fork::Parent(answer.into())),
        Ok(ForkResult::Child) => {
            wait_for_children(true);
            Ok(Fork::Supervisor(ready.into()))
        }
    }
}

/// Whether children that have ended stay until somebody asks how.
fn wait_for_children(wait: bool) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    let handler = if wait {
        SigHandler::SigDfl
    } else {
        SigHandler::SigIgn
    };
    // SAFETY: neither disposition runs code of ours.
    let _ = unsafe { signal(Signal::SIGCHLD, handler) };
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

/// What the supervisor says about its claim.
fn await_claim(mut answer: File) -> String {
    let mut said = String::new();
    match answer.read_to_string(&mut said) {
        Ok(_) if said.is_empty() => "the supervisor ended before it could say why".to_owned(),
        Ok(_) => said,
        Err(error) => format!("no answer from the supervisor: {error}"),
    }
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
