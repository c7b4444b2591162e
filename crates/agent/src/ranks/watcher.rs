//! Learning at once that something changed in a rank directory: that a rank was started, has ended, or lost its supervisor.
//!
//! One inotify descriptor watches the directory of all ranks and each rank directory in it. `exit.json` arrives by a rename, and the
//! kernel closes the lock file of a supervisor that was killed: both are events. What it says is a hint ("look at these"), never a
//! fact; the agent looks at every rank from time to time anyway, because a machine may have no watch left to give.

use std::collections::{BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::RanksError;
use super::id::RankId;

/// Tells which ranks to look at. The descriptor becomes readable when there is something (usable with `tokio::io::unix::AsyncFd`).
#[derive(Debug)]
pub struct Watcher {
    inotify: OwnedFd,
    directory: PathBuf,
    ranks: HashMap<i32, RankId>,
}

impl Watcher {
    /// Watches all ranks in `directory`, present and future.
    pub(super) fn open(directory: PathBuf, present: &[RankId]) -> Result<Self, RanksError> {
        let failed = |errno: Errno| RanksError::Watch {
            source: errno.into(),
        };
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        add_watch(
            &inotify,
            &directory,
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR,
        )
        .map_err(failed)?;
        let mut watcher = Self {
            inotify,
            directory,
            ranks: HashMap::new(),
        };
        for rank in present {
            watcher.add(rank.clone());
        }
        Ok(watcher)
    }

    /// The ranks in whose directories something happened since the last call; does not wait.
    pub fn changed(&mut self) -> Result<BTreeSet<RankId>, RanksError> {
        let mut changed = BTreeSet::new();
        let mut created = Vec::new();
        let mut overflowed = false;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    return Err(RanksError::Watch {
                        source: errno.into(),
                    });
                }
            };
            overflowed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if event.events().contains(ReadFlags::IGNORED) {
                self.ranks.remove(&event.wd());
            } else if let Some(rank) = self.ranks.get(&event.wd()) {
                changed.insert(rank.clone());
            } else if let Some(rank) = event
                .file_name()
                .and_then(|name| RankId::parse(name.to_str().ok()?).ok())
            {
                created.push(rank);
            }
        }
        for rank in created {
            // Whatever happened in it before the watch was there is told by naming it now.
            self.add(rank.clone());
            changed.insert(rank);
        }
        if overflowed {
            changed.extend(self.ranks.values().cloned());
        }
        Ok(changed)
    }

    /// Waits until something happened or the time is over, then says what; for callers without an event loop.
    pub fn wait(&mut self, timeout: Duration) -> Result<BTreeSet<RankId>, RanksError> {
        let milliseconds = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let mut descriptors = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        // Interrupted is the same as timed out: the caller asks again.
        let _ = nix::poll::poll(&mut descriptors, PollTimeout::from(milliseconds));
        self.changed()
    }

    fn add(&mut self, rank: RankId) {
        let interesting = WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        // A directory that is gone again, or a machine without watches to give, is covered by the agent's regular look.
        if let Ok(watch) = add_watch(
            &self.inotify,
            self.directory.join(rank.as_str()),
            interesting,
        ) {
            self.ranks.insert(watch, rank);
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}
