//! How often and how long a transaction is tried again, and the one place of this crate that looks at a clock.

use std::{
    thread,
    time::{Duration, Instant},
};

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Now, for measuring how long something took. Never stored, never compared with another machine's.
#[expect(
    clippy::disallowed_methods,
    reason = "durations of this process only; a store without threads never asks"
)]
pub(crate) fn monotonic_now() -> Instant {
    Instant::now()
}

/// The tries of one transaction: pauses that double, within a limit in sum.
#[derive(Debug)]
pub(crate) struct Retry {
    since: Instant,
    limit: Duration,
    pause: Duration,
}

impl Retry {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            since: monotonic_now(),
            limit,
            pause: PAUSE_MIN,
        }
    }

    /// Waits before the next try; false, without waiting, when the limit is used up.
    pub(crate) fn pause(&mut self) -> bool {
        if self.since.elapsed() + self.pause > self.limit {
            return false;
        }
        thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}
