//! The clock of a simulated server: it shows what the world says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use supernode_types::{Clock, Timestamp};

/// When every simulated world begins, on a wall clock that nobody has moved.
pub(crate) const BEGIN: Timestamp = Timestamp(1_763_900_000_000_000);

/// What all clocks of one host show.
#[derive(Debug, Default)]
struct Face {
    monotonic_nanoseconds: AtomicU64,
    wall_offset_microseconds: AtomicI64,
}

/// The host of the server, which keeps time over restarts of the server's process.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerTime(Arc<Face>);

impl ServerTime {
    pub(crate) fn set(&self, now: Duration) {
        let nanoseconds = u64::try_from(now.as_nanos()).expect("a simulated run is short");
        self.0
            .monotonic_nanoseconds
            .store(nanoseconds, Ordering::Relaxed);
    }

    /// Sets the wall clock this far from where it should be.
    pub(crate) fn set_wall_offset(&self, microseconds: i64) {
        self.0
            .wall_offset_microseconds
            .store(microseconds, Ordering::Relaxed);
    }

    /// The clock for a new process of the server.
    pub(crate) fn clock(&self, begins_at_zero: bool) -> Arc<dyn Clock> {
        Arc::new(ProcessClock {
            face: Arc::clone(&self.0),
            lie_once: AtomicBool::new(begins_at_zero),
        })
    }

    pub(crate) fn wall(&self) -> Timestamp {
        self.0.wall()
    }
}

impl Face {
    fn monotonic(&self) -> Duration {
        // The host was booted an hour before the simulation began.
        Duration::from_hours(1)
            + Duration::from_nanos(self.monotonic_nanoseconds.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Timestamp {
        let passed = Duration::from_nanos(self.monotonic_nanoseconds.load(Ordering::Relaxed));
        let moved = BEGIN.plus(passed);
        Timestamp(moved.0 + self.wall_offset_microseconds.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct ProcessClock {
    face: Arc<Face>,
    /// A deliberate defect: the first look says that the host has just booted, so a process that remembers its start as the moment
    /// from which silence counts gives no grace.
    lie_once: AtomicBool,
}

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        self.face.wall()
    }

    fn monotonic(&self) -> Duration {
        if self.lie_once.swap(false, Ordering::Relaxed) {
            Duration::ZERO
        } else {
            self.face.monotonic()
        }
    }
}
