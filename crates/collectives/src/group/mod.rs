//! A group of processes: the same node as in the simulated network, on real sockets and shared memory.
//!
//! One thread at a time drives a group. A thread that waits for an operator drives it itself, so that a small operator needs no switch of
//! threads; while nobody waits, the group's own thread does, so that heartbeats, acknowledgements and repairs go on while the
//! program computes.
//!
//! ```text
//! own thread:   drives, asleep in epoll  --a caller waits--> steps back until nobody drives
//! caller:       drives: looks for a moment, then asleep in epoll  --its operator ended--> goes
//! other caller: waits until its operator ended or nobody drives
//! ```
//!
//! It refuses to let go of memory that an operator still uses: a handle that is dropped waits.

mod driver;
pub mod environment;
mod rendezvous;
mod shared;
mod tcp;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::Timespec;

use crate::engine::{Ending, Limits, OperatorId};
use crate::failure::Failure;
use crate::handshake::Secret;
use crate::memory::{Buffer, Input, Memory};
use crate::node::{Carrier, Config, Node, Route, Statistics, Timing};
use crate::operator::{Operator, OperatorRefusal, Rank};
use crate::system;
use driver::{Driver, Lane};
use shared::Outbox;

pub use environment::{Environment, EnvironmentError, JoinError};
pub use rendezvous::{Card, RendezvousError, Roster};
pub use shared::{Inbox, Location};

/// How long the own thread leaves a group alone after a caller has stopped driving; another operator often follows.
const BREATH: Duration = Duration::from_millis(5);
/// How long a caller looks before it sleeps.
const LOOK: Duration = Duration::from_micros(50);
/// How long a group that is left waits for acknowledgements.
const LINGER: Duration = Duration::from_secs(10);
/// How long last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a process needs to be a member of a group.
#[derive(Debug)]
pub struct Membership {
    /// Who it is.
    pub rank: Rank,
    /// What members know.
    pub secret: Secret,
    /// Listeners on this rank's lanes, bound to the addresses that the roster names.
    pub listeners: Vec<TcpListener>,
    /// Who is where.
    pub roster: Roster,
    /// This rank's shared memory, if it may be used.
    pub inbox: Option<Inbox>,
    /// What it may keep.
    pub limits: Limits,
    /// How often an operator may be executed again.
    pub max_retries: u64,
    /// How long to wait for what.
    pub timing: Timing,
}

/// What is usually kept: a window that holds what TCP has on its way, and copies of inputs where they cost little.
pub const LIMITS: Limits = Limits {
    window: 4 * 1024 * 1024,
    inputs: 256 * 1024,
};
/// How often an operator may usually be executed again.
pub const MAX_RETRIES: u64 = 3;

/// One rank of a group of processes.
pub struct Group {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    rank: Rank,
    world: usize,
}

struct Shared {
    driver: Mutex<Driver>,
    changed: Condvar,
    epoll: Arc<OwnedFd>,
    wake: OwnedFd,
    is_closing: AtomicBool,
}

impl fmt::Debug for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Group")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// Becomes a member. Does not wait for the others: the first operators do.
    pub fn join(membership: Membership) -> io::Result<Self> {
        let Membership {
            rank,
            secret,
            listeners,
            roster,
            inbox,
            mut limits,
            max_retries,
            timing,
        } = membership;
        let world = roster.cards.len();
        let own = inbox.as_ref().and_then(Inbox::location);
        let outboxes: BTreeMap<Rank, Outbox> = (0..world)
            .filter(|peer| *peer != rank)
            .filter_map(|peer| {
                let location = roster.cards[peer].location.as_ref()?;
                Some((peer, Outbox::open(location, own.as_ref()?, rank, world)?))
            })
            .collect();
        let lanes: Vec<Lane> = listeners
            .into_iter()
            .map(|listener| {
                let address = listener.local_addr()?.ip();
                Ok(Lane { listener, address })
            })
            .collect::<io::Result<_>>()?;
        let addresses: Vec<Vec<SocketAddr>> =
            roster.cards.into_iter().map(|card| card.lanes).collect();
        let routes = addresses.iter().enumerate().map(|(peer, theirs)| Route {
            lanes: theirs.len().min(lanes.len()),
            carrier: if outboxes.contains_key(&peer) {
                Carrier::Driver
            } else {
                Carrier::Connections
            },
        });
        let routes: Vec<Route> = routes.collect();
        let mut others = (0..world).filter(|peer| *peer != rank);
        if others.all(|peer| routes[peer].carrier == Carrier::Driver) {
            // Shared memory does not lose bytes; its ranks are on one host, so that all of them find the same.
            limits.inputs = 0;
        }
        let config = Config {
            rank,
            routes,
            secret,
            limits,
            max_retries,
            timing,
        };
        let node = Node::new(config, system::monotonic(), system::random);
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let driver = Driver::new(
            node,
            Arc::clone(&epoll),
            &wake,
            lanes,
            addresses,
            inbox,
            outboxes,
        )?;
        let shared = Arc::new(Shared {
            driver: Mutex::new(driver),
            changed: Condvar::new(),
            epoll,
            wake,
            is_closing: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("collectives".into())
            .spawn(move || own.serve())?;
        Ok(Self {
            shared,
            thread: Some(thread),
            rank,
            world,
        })
    }

    /// Who this is.
    pub const fn rank(&self) -> Rank {
        self.rank
    }

    /// Ranks in the group.
    pub const fn world(&self) -> usize {
        self.world
    }

    /// Starts an operator and does not wait for it.
    pub fn start(
        &self,
        operator: Operator,
        input: Input,
        output: Buffer,
    ) -> Result<Handle, OperatorRefusal> {
        let handle = self.begin(operator, input, output)?;
        // What can be sent at once is sent at once; the rest is up to who drives.
        let mut driver = self.shared.lock();
        driver.settle();
        if driver.is_driven {
            self.shared.wake();
        } else {
            self.shared.changed.notify_all();
        }
        drop(driver);
        Ok(handle)
    }

    /// Runs an operator to its end and gives the output.
    pub fn run(
        &self,
        operator: Operator,
        input: Input,
        output: Buffer,
    ) -> Result<Buffer, CollectiveError> {
        let handle = self.begin(operator, input, output)?;
        Ok(handle.wait()?)
    }

    /// Runs an operator on memory of the caller.
    pub fn run_in_place(
        &self,
        operator: Operator,
        bytes: &mut [u8],
    ) -> Result<(), CollectiveError> {
        // SAFETY: `run` returns after the operator has ended, and the caller's exclusive borrow lasts until then.
        let output = unsafe { Buffer::lend(bytes.as_mut_ptr(), bytes.len()) };
        self.run(operator, Input::InPlace, output)?;
        Ok(())
    }

    /// Runs an operator from one memory of the caller to another.
    pub fn run_apart(
        &self,
        operator: Operator,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CollectiveError> {
        // SAFETY: as above; an input is only read, which a shared borrow allows others to do as well.
        let (input, output) = unsafe {
            (
                Buffer::lend(input.as_ptr().cast_mut(), input.len()),
                Buffer::lend(output.as_mut_ptr(), output.len()),
            )
        };
        self.run(operator, Input::Apart(input), output)?;
        Ok(())
    }

    fn begin(
        &self,
        operator: Operator,
        input: Input,
        output: Buffer,
    ) -> Result<Handle, OperatorRefusal> {
        operator.validate(self.rank, self.world)?;
        let memory = Memory::new(input, output, &operator, self.rank, self.world)?;
        let mut driver = self.shared.lock();
        let id = driver.node.submit(operator, memory);
        Ok(Handle {
            shared: Arc::clone(&self.shared),
            id: Some(id),
        })
    }

    /// What happened to connections so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.lock().node.statistics().clone()
    }

    /// Shuts down all sockets of this rank and says how many they were. Nobody is told: it looks like a network that failed.
    pub fn cut(&self) -> usize {
        self.shared.lock().cut()
    }

    /// Stops the group on all ranks, for a reason that they are told.
    pub fn abort(&self, why: &str) {
        let mut driver = self.shared.lock();
        let by = self.rank;
        driver.node.stop(Failure::Aborted {
            rank: by,
            why: why.into(),
        });
        driver.settle();
        self.shared.wake();
        self.shared.changed.notify_all();
    }
}

/// Leaves the group: first everybody gets what they still need from this rank.
impl Drop for Group {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        self.shared.wake();
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the own thread was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Why an operator gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// It was not started.
    #[error(transparent)]
    Refused(#[from] OperatorRefusal),
    /// The group stopped.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// An operator that was started.
pub struct Handle {
    shared: Arc<Shared>,
    id: Option<OperatorId>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Handle").field(&self.id).finish()
    }
}

impl Handle {
    /// Whether the operator has ended.
    pub fn is_done(&self) -> bool {
        let driver = self.shared.lock();
        self.id.is_none_or(|id| driver.ended.contains_key(&id))
    }

    /// Waits until the operator has ended, and gives the output.
    pub fn wait(mut self) -> Result<Buffer, Failure> {
        let id = self.id.take().expect("a handle waits once");
        self.shared.wait(id).map(Memory::into_output)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            drop(self.shared.wait(id));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Driver> {
        self.driver.lock().expect("no holder of this lock panics")
    }

    /// Makes the thread that sleeps in epoll look up.
    fn wake(&self) {
        // It fails only when it was written to so often that it wakes anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits for an operator, and drives while nobody else does.
    fn wait(&self, id: OperatorId) -> Ending {
        let mut driver = self.lock();
        loop {
            if let Some(ending) = driver.ended.remove(&id) {
                return ending;
            }
            if driver.is_driven {
                driver.waiters += 1;
                self.wake();
                driver = self
                    .changed
                    .wait(driver)
                    .expect("no holder of this lock panics");
                driver.waiters -= 1;
                continue;
            }
            driver.is_driven = true;
            let mut look_until = system::monotonic() + LOOK;
            while !driver.ended.contains_key(&id) {
                let (next, did_something) = self.round(driver, look_until);
                driver = next;
                if did_something {
                    look_until = system::monotonic() + LOOK;
                }
                if driver.waiters > 0 {
                    self.changed.notify_all();
                }
            }
            driver.is_driven = false;
            if driver.waiters > 0 {
                self.changed.notify_all();
            }
        }
    }

    /// One round of driving. It sleeps only after `look_until`. Says whether anything happened.
    fn round<'a>(
        &'a self,
        mut driver: MutexGuard<'a, Driver>,
        look_until: Duration,
    ) -> (MutexGuard<'a, Driver>, bool) {
        let mut is_busy = driver.settle();
        let now = system::monotonic();
        if !is_busy && now < look_until && driver.has_rings() {
            // Rings need no system call: a short look often finds the answer.
            for _ in 0..64 {
                if driver.pump() {
                    is_busy = true;
                    break;
                }
                std::hint::spin_loop();
            }
        }
        let may_sleep = !is_busy && now >= look_until && !driver.fall_asleep();
        let patience = if may_sleep {
            driver.patience(now)
        } else {
            Duration::ZERO
        };
        drop(driver);
        if !may_sleep && !is_busy {
            // Whoever it waits for may wait for this processor.
            std::thread::yield_now();
        }
        let mut events = Vec::with_capacity(32);
        let timeout = Timespec {
            tv_sec: i64::try_from(patience.as_secs())
                .unwrap_or(i64::MAX)
                .min(3600),
            tv_nsec: patience.subsec_nanos().into(),
        };
        // Being interrupted is like being woken.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout));
        let mut driver = self.lock();
        if may_sleep {
            driver.wake_up();
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        driver.handle(&events, system::monotonic());
        let is_busy = driver.settle() || is_busy || !events.is_empty();
        (driver, is_busy)
    }

    /// The life of the own thread.
    fn serve(&self) {
        let mut driver = self.lock();
        let mut leave_by = None;
        loop {
            if self.is_closing.load(Ordering::Relaxed) {
                let now = system::monotonic();
                let leave_by = *leave_by.get_or_insert(now + LINGER);
                if driver.may_leave() || now >= leave_by {
                    break;
                }
            }
            if driver.is_driven || driver.waiters > 0 {
                let (next, _) = self
                    .changed
                    .wait_timeout(driver, BREATH)
                    .expect("no holder of this lock panics");
                driver = next;
                if driver.is_driven || driver.waiters > 0 {
                    continue;
                }
            }
            driver.is_driven = true;
            let (next, _) = self.round(driver, Duration::ZERO);
            driver = next;
            driver.is_driven = false;
            if driver.waiters > 0 {
                self.changed.notify_all();
            }
        }
        driver.node.leave();
        let until = system::monotonic() + LAST_WORDS;
        while driver.node.has_last_words() && system::monotonic() < until {
            let (next, _) = self.round(driver, until);
            driver = next;
        }
        driver.settle();
        self.changed.notify_all();
    }
}
