//! Watching one rank until nothing of it is left.
//!
//! ```text
//!                         stop.json (agent)                        grace over
//!  Running --------------------------------------> Stopping --------------------------+
//!     |  \--- program ended, others of its tree left ---> Leftovers --- 1 s over ---> Killing
//!     |   \-- lease expired ------------------------------------------------------------^  |
//!     +---- program ended, no child left ----> exit.json <---- no child left --------------+
//! ```
//! There is one wait: signals, the report pipe of the start, and a timeout that is never above 250 ms and never later than the end
//! of the lease or of a grace period.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use rustix::process::Signal;
use supernode_types::job::RankEnd;

use super::lease::{Lease, boottime_nanoseconds};
use super::output::Output;
use super::{Claim, cgroup, spawn, tree};
use crate::files::{Durability, Permissions};
use crate::ranks::records::{EXIT, RECORD_LIMIT_BYTES, RankExit, STOP, StopRecord, wall_micros};

/// The longest time between two looks at the lease, the stop file and the size of the log.
const TICK: Duration = Duration::from_millis(250);
/// How often a log that grows fast is looked at.
const FAST_TICK: Duration = Duration::from_millis(20);
/// How soon the kill is repeated while something is left; each repetition waits this much longer, up to a tick.
const KILL_TICK: Duration = Duration::from_millis(10);
/// What other processes of the tree have after the program itself has ended.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// What the tree has when somebody ends the supervisor without saying more.
const DEFAULT_GRACE_MILLISECONDS: u64 = 10_000;
/// How often writing the exit record is tried, a tick apart, while the disk is full.
const EXIT_TRIES: u32 = 240;

struct Watch<'a> {
    claim: &'a Claim,
    output: Output,
    group: Option<PathBuf>,
    lease: Lease,
    signals: SignalFd,
    rank: Pid,
    report: Option<OwnedFd>,
    not_started: Option<String>,
    /// How the program itself ended.
    status: Option<WaitStatus>,
    /// The stop that was acted on last.
    stop: Option<StopRecord>,
    /// Whether that was before the program had ended.
    stopped: bool,
    fenced: bool,
    /// When everything that is left is killed, on the boot clock.
    kill_at_nanoseconds: Option<i64>,
}

/// Starts and watches the rank, unless the deadline `granted` has passed; returns when its exit record is written.
pub(super) fn supervise(mut claim: Claim, granted: i64, lease_file: &Path) -> ExitCode {
    let exit = run(&mut claim, granted, lease_file);
    let written = write_exit(&claim, exit);
    if let Some(group) = &claim.started.cgroup {
        cgroup::remove(Path::new(group));
    }
    if written {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(claim: &mut Claim, granted: i64, lease_file: &Path) -> RankExit {
    let mut lease = Lease::open(lease_file.to_owned(), granted);
    if lease.left_nanoseconds() == 0 {
        return never_started(RankEnd::Fenced, None);
    }
    if let Some(stop) = read_stop(claim) {
        return never_started(
            RankEnd::Stopped {
                code: 128 + stop.signal,
            },
            Some(stop.why),
        );
    }
    let launch = claim.launch.launch.clone();
    let not_started = |why: String| never_started(RankEnd::NotStarted { why }, None);
    let output = match Output::create(&claim.directory, launch.log_cap_bytes, launch.user.as_ref())
    {
        Ok(output) => output,
        Err(error) => return not_started(format!("cannot create the output file: {error}")),
    };
    if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
        return not_started(format!("cannot take care of orphaned processes: {errno}"));
    }
    let mut wanted = SigSet::empty();
    wanted.add(nix::sys::signal::Signal::SIGCHLD);
    wanted.add(nix::sys::signal::Signal::SIGTERM);
    let signals =
        match SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) {
            Ok(signals) => signals,
            Err(errno) => return not_started(format!("cannot receive signals: {errno}")),
        };
    let path = claim.directory.path().to_owned();
    let group = cgroup::create(&group_name(&path));
    claim.started.cgroup = group.as_ref().map(|group| group.display().to_string());
    let (rank, report) = match spawn::start(&launch, &path, output.file(), group.as_deref()) {
        Ok(started) => started,
        Err(why) => return not_started(why),
    };
    claim.started.rank = Some(rank.as_raw());
    claim.started.started_at_micros = wall_micros();
    claim.record();
    let mut watch = Watch {
        claim,
        output,
        group,
        lease,
        signals,
        rank,
        report: Some(report),
        not_started: None,
        status: None,
        stop: None,
        stopped: false,
        fenced: false,
        kill_at_nanoseconds: None,
    };
    watch.until_nothing_is_left();
    watch.exit()
}

impl Watch<'_> {
    fn until_nothing_is_left(&mut self) {
        let mut timeout = TICK;
        let mut kills = 0;
        loop {
            let terminated = self.wait(timeout);
            self.read_report();
            let had_ended = self.status.is_some();
            if self.reap() {
                return;
            }
            if self.status.is_some() && !had_ended {
                self.end_leftovers();
            }
            self.look_for_stop(terminated);
            let lease_left = self.lease.left_nanoseconds();
            if lease_left == 0 {
                self.fenced |= self.status.is_none();
                self.kill_at_nanoseconds = Some(0);
            }
            timeout = if self.output.limit(&self.claim.directory) {
                FAST_TICK
            } else {
                TICK
            };
            timeout = timeout.min(from_nanoseconds(lease_left));
            if let Some(at) = self.kill_at_nanoseconds {
                let left = at.saturating_sub(boottime_nanoseconds());
                if left <= 0 {
                    self.kill();
                    kills += 1;
                    timeout = TICK.min(KILL_TICK * kills);
                } else {
                    timeout = timeout.min(from_nanoseconds(left));
                }
            }
        }
    }

    /// Waits for something to happen; says whether it was SIGTERM.
    fn wait(&mut self, timeout: Duration) -> bool {
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(report) = &self.report {
            descriptors.push(PollFd::new(report.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up: waking just before a deadline would only mean to wait again.
        let milliseconds =
            u16::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX);
        // Interrupted or failed is the same as timed out: everything is looked at after every wait.
        let _ = nix::poll::poll(&mut descriptors, PollTimeout::from(milliseconds));
        let mut terminated = false;
        while let Ok(Some(received)) = self.signals.read_signal() {
            terminated |=
                i32::try_from(received.ssi_signo).is_ok_and(|signal| signal == libc::SIGTERM);
        }
        terminated
    }

    /// Takes the sentence that the start left in its pipe, if it failed; an end without one means that the program runs.
    fn read_report(&mut self) {
        let Some(report) = self.report.take() else {
            return;
        };
        let mut file = std::fs::File::from(report);
        let mut text = [0; 4096];
        match file.read(&mut text) {
            Ok(0) => {}
            Ok(length) => {
                self.not_started = Some(String::from_utf8_lossy(&text[..length]).into_owned());
            }
            Err(_) => self.report = Some(file.into()),
        }
    }

    /// Collects ended processes; says whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            match nix::sys::wait::waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return false,
                Ok(status) if status.pid() == Some(self.rank) => {
                    self.status = Some(status);
                    // A program that failed to start has written why before it ended.
                    self.read_report();
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// The program has ended, but not all that it started.
    fn end_leftovers(&mut self) {
        if self.kill_at_nanoseconds.is_none() {
            signal_tree(Signal::TERM);
            self.kill_by(LEFTOVER_GRACE);
        }
    }

    fn look_for_stop(&mut self, terminated: bool) {
        let stop = match read_stop(self.claim) {
            Some(stop) => stop,
            None if terminated && self.stop.is_none() => StopRecord {
                signal: libc::SIGTERM,
                grace_milliseconds: DEFAULT_GRACE_MILLISECONDS,
                why: "its supervisor was told to end".into(),
            },
            None => return,
        };
        let same = self.stop.as_ref().is_some_and(|known| {
            known.signal == stop.signal && known.grace_milliseconds == stop.grace_milliseconds
        });
        if same {
            return;
        }
        self.stopped |= self.status.is_none();
        signal_tree(Signal::from_named_raw(stop.signal).unwrap_or(Signal::TERM));
        self.kill_by(Duration::from_millis(stop.grace_milliseconds));
        self.stop = Some(stop);
    }

    /// Brings the moment of the kill forward to `grace` from now, never back.
    fn kill_by(&mut self, grace: Duration) {
        let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
        let at = boottime_nanoseconds().saturating_add(grace);
        self.kill_at_nanoseconds = Some(self.kill_at_nanoseconds.map_or(at, |known| known.min(at)));
    }

    fn kill(&self) {
        if let Some(group) = &self.group {
            cgroup::kill(group);
        }
        tree::signal_descendants(nix::unistd::getpid().as_raw(), Signal::KILL);
    }

    fn exit(self) -> RankExit {
        let (code, signal) = match self.status {
            Some(WaitStatus::Exited(_, code)) => (code, None),
            Some(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, Some(signal as i32)),
            // The program's end is always seen before "no child is left"; anything else is no end.
            _ => (128 + libc::SIGKILL, Some(libc::SIGKILL)),
        };
        let started = self
            .not_started
            .is_none()
            .then_some(self.claim.started.started_at_micros);
        let end = match (self.not_started, signal) {
            (Some(why), _) => RankEnd::NotStarted { why },
            (None, _) if self.fenced => RankEnd::Fenced,
            (None, _) if self.stopped => RankEnd::Stopped { code },
            (None, Some(signal)) => RankEnd::Signalled { signal },
            (None, None) => RankEnd::Exited { code },
        };
        RankExit {
            end,
            stop_why: self.stop.filter(|_| self.stopped).map(|stop| stop.why),
            started_at_micros: started,
            ended_at_micros: wall_micros(),
            last_lines: self.output.last_lines(),
        }
    }
}

/// Signals the whole tree, and wakes what was halted so that it can act on the signal.
fn signal_tree(signal: Signal) {
    let own = nix::unistd::getpid().as_raw();
    tree::signal_descendants(own, signal);
    tree::signal_descendants(own, Signal::CONT);
}

fn never_started(end: RankEnd, stop_why: Option<String>) -> RankExit {
    RankExit {
        end,
        stop_why,
        started_at_micros: None,
        ended_at_micros: wall_micros(),
        last_lines: Vec::new(),
    }
}

/// The stop file; one that cannot be understood still means "stop".
fn read_stop(claim: &Claim) -> Option<StopRecord> {
    let bytes = claim.directory.read(STOP, RECORD_LIMIT_BYTES).ok()??;
    Some(
        serde_json::from_slice(&bytes).unwrap_or_else(|_| StopRecord {
            signal: libc::SIGTERM,
            grace_milliseconds: DEFAULT_GRACE_MILLISECONDS,
            why: "a stop was asked for, and its record is damaged".into(),
        }),
    )
}

/// Writes the exit record; a full disk is waited for, first with and then without the last lines.
fn write_exit(claim: &Claim, mut exit: RankExit) -> bool {
    for _ in 0..EXIT_TRIES {
        let text = serde_json::to_vec(&exit).expect("the record is JSON");
        match claim
            .directory
            .write_atomic(EXIT, &text, Permissions::mode(0o600), Durability::Power)
        {
            Ok(()) => return true,
            // The rank directory itself is gone: nobody is left who would read it.
            Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => return false,
            Err(_) => {}
        }
        exit.last_lines.clear();
        std::thread::sleep(TICK);
    }
    false
}

/// A name that no other rank of this host has: ranks of two agents may share an id.
fn group_name(rank_directory: &Path) -> String {
    let unique: String = rank_directory
        .to_string_lossy()
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '_'
            }
        })
        .collect();
    let tail = unique.len().saturating_sub(200);
    format!("supernode-{}", &unique[tail..])
}

fn from_nanoseconds(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
