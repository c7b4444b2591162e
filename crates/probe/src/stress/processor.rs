//! Threads that stay on one processor, and how much of their time they got: a kernel that names a sick core must know where it ran,
//! and one that says "slow" must know whether it ran at all.

use std::time::Duration;

use rustix::thread::{ClockId, CpuSet, sched_getaffinity, sched_setaffinity};

use super::context::Context;
use super::sample::{Metric, Part, Refusal};

/// The processors that this process may use, in order.
pub(crate) fn allowed() -> Result<Vec<u32>, Refusal> {
    let set = sched_getaffinity(None)
        .map_err(|error| Refusal::because("the allowed processors cannot be read", error))?;
    let cores: Vec<u32> = (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .filter_map(|core| u32::try_from(core).ok())
        .collect();
    if cores.is_empty() {
        return Err(Refusal::CouldNotRun("no processor is allowed".into()));
    }
    Ok(cores)
}

/// Binds the calling thread to one processor.
pub(crate) fn bind(core: u32) -> Result<(), Refusal> {
    let mut set = CpuSet::new();
    set.set(core as usize);
    sched_setaffinity(None, &set)
        .map_err(|error| Refusal::because(&format!("cannot run on processor {core}"), error))
}

/// Does something on each of these processors at the same time, each on a thread that is bound to it.
pub(crate) fn on_each(
    cores: &[u32],
    work: impl Fn(u32) -> Result<(), Refusal> + Sync,
) -> Result<(), Refusal> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .map(|core| {
                scope.spawn(move || {
                    bind(*core)?;
                    work(*core)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a kernel's thread does not panic"))
    })
}

/// Processor time that the calling thread has used.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A thread that mostly waits for something else, and how much it has to wait for a processor.
#[derive(Debug)]
pub(crate) struct Waiting {
    begun: Duration,
    delay: Option<Duration>,
}

impl Waiting {
    /// The calling thread, from now on.
    pub(crate) fn begin(context: &Context<'_>) -> Self {
        Self {
            begun: context.moment(),
            delay: thread_delay(),
        }
    }

    /// Of the time since then, the share in which the same thread did not wait for a processor; nothing where the kernel does not say.
    pub(crate) fn cpu_share(&self, context: &Context<'_>) -> Option<f64> {
        let seconds = context.seconds_since(self.begun).max(f64::MIN_POSITIVE);
        let delay = thread_delay()?.saturating_sub(self.delay?);
        Some((1.0 - delay.as_secs_f64() / seconds).clamp(0.0, 1.0))
    }
}

/// Does something on this thread, and says how much it had to wait for a processor.
pub(crate) fn counting_waits<T>(context: &Context<'_>, work: impl FnOnce() -> T) -> T {
    let waiting = Waiting::begin(context);
    let done = work();
    if let Some(share) = waiting.cpu_share(context) {
        context.sample(Metric::CpuShare, Part::Host, share);
    }
    done
}

/// For how long the calling thread was kept from running although it wanted to; nothing where the kernel does not say.
fn thread_delay() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let waited = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(waited))
}
