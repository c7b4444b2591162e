//! What a kernel gets from whoever runs it: the clock, the order to stop, and somewhere to say what it measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supernode_types::Clock;

use super::sample::{Event, Metric, Part, Refusal, Sample, Wrong};

/// The order to stop. Kernels look at it at least every tenth of a second.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells the kernel to stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to.
    pub fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it was told to.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.stopped() {
            Err(Refusal::Stopped)
        } else {
            Ok(())
        }
    }
}

/// How often it is looked at whether this process runs.
const TICK: Duration = Duration::from_millis(100);

/// For how long, at a time, this process did not run although it wanted to: it looks at the clock every tick, and whoever asks looks once
/// more, so that no pause is missed at the end.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Arc<Mutex<Looks>>);

#[derive(Debug, Default)]
struct Looks {
    last: Option<Duration>,
    longest: Duration,
}

impl Pauses {
    /// Looks until that has taken so long.
    pub(crate) fn watch(&self, clock: &dyn Clock, duration: Duration) {
        let begun = clock.monotonic();
        while clock.monotonic().saturating_sub(begun) < duration {
            self.longest_seconds(clock);
            std::thread::sleep(TICK);
        }
    }

    /// The longest so far.
    pub(crate) fn longest_seconds(&self, clock: &dyn Clock) -> f64 {
        let mut looks = self.0.lock().expect("nobody panics with it");
        let now = clock.monotonic();
        let pause = now.saturating_sub(looks.last.unwrap_or(now) + TICK);
        looks.last = Some(now);
        looks.longest = looks.longest.max(pause);
        looks.longest.as_secs_f64()
    }
}

/// Takes what a kernel says; called from many threads.
pub type Say = dyn Fn(Event) + Send + Sync;

/// What a kernel runs with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    clock: &'a dyn Clock,
    start: Duration,
    stop: &'a Stop,
    pauses: &'a Pauses,
    say: &'a Say,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("start", &self.start)
            .field("stop", self.stop)
            .finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// A kernel that begins now.
    pub fn new(clock: &'a dyn Clock, stop: &'a Stop, pauses: &'a Pauses, say: &'a Say) -> Self {
        Self {
            clock,
            start: clock.monotonic(),
            stop,
            pauses,
            say,
        }
    }

    /// Time since the kernel began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.start)
    }

    /// A moment of the clock, for durations.
    pub(crate) fn moment(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Seconds since a moment of the clock.
    pub(crate) fn seconds_since(&self, moment: Duration) -> f64 {
        self.clock.monotonic().saturating_sub(moment).as_secs_f64()
    }

    /// The longest time in which the kernel's process did not run.
    pub(crate) fn longest_pause_seconds(&self) -> f64 {
        self.pauses.longest_seconds(self.clock)
    }

    /// An error once the kernel was told to stop.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.stop.check()
    }

    /// Whether the kernel was told to stop.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.stopped()
    }

    /// Says a measurement of this moment.
    pub(crate) fn sample(&self, metric: Metric, part: Part, value: f64) {
        (self.say)(Event::Sample(Sample {
            metric,
            part,
            value,
            at_seconds: self.elapsed().as_secs_f64(),
        }));
    }

    /// Says that a result is wrong.
    pub(crate) fn wrong(&self, wrong: Wrong) {
        (self.say)(Event::Wrong(wrong));
    }

    /// Says something that a reader of the numbers has to know.
    pub(crate) fn remark(&self, text: impl Into<String>) {
        (self.say)(Event::Remark(text.into()));
    }

    /// Says anything else.
    pub(crate) fn say(&self, event: Event) {
        (self.say)(event);
    }
}
