//! The STREAM triad, `a[i] = b[i] + s * c[i]`: the bandwidth of all cores together, and of each while the others work too.
//!
//! Arrays are touched first by the thread that uses them, so that they lie in its own NUMA node. They are four times as large as
//! all last caches together, as STREAM asks for, but never take more than a quarter of the memory that is available; if that is too
//! little, the numbers would be those of the cache, and the test refuses.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::stress::context::Context;
use crate::stress::number::{count, real, real_of};
use crate::stress::processor;
use crate::stress::sample::{Metric, Part, Refusal};

/// How the triad runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// For how long.
    pub seconds: u32,
    /// Bytes of one array; four times the last caches when absent.
    #[serde(default)]
    pub array_bytes: Option<u64>,
}

/// Where no cache is described.
const USUAL_CACHE: u64 = 32 << 20;
const FACTOR: f64 = 3.0;

pub(crate) fn run(context: &Context<'_>, settings: &Stream) -> Result<(), Refusal> {
    let cores = processor::allowed()?;
    let caches = last_caches(Files::below(Path::new("/")));
    let wanted = settings.array_bytes.unwrap_or(4 * caches);
    let array = super::bounded(3 * wanted)? / 3;
    if array < wanted.min(2 * caches) {
        return Err(Refusal::CouldNotRun(format!(
            "not enough memory is available: an array of {array} bytes would stay in the caches of {caches} bytes"
        )));
    }
    let elements = usize::try_from(array / 8).unwrap_or(usize::MAX) / cores.len();
    context.remark(format!("three arrays of {array} bytes each"));
    let round = Round {
        barrier: Barrier::new(cores.len()),
        go_on: AtomicBool::new(true),
        slowest_nanoseconds: AtomicU64::new(0),
    };
    let bound: Result<Vec<()>, Refusal> = std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .enumerate()
            .map(|(position, core)| {
                let (round, settings, all) = (&round, settings, cores.len());
                scope.spawn(move || {
                    core_loop(
                        context,
                        settings,
                        round,
                        (*core, position == 0),
                        elements,
                        all,
                    )
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a kernel's thread does not panic"))
            .collect()
    });
    bound?;
    context.check()
}

/// What the threads of one round share.
struct Round {
    barrier: Barrier,
    go_on: AtomicBool,
    slowest_nanoseconds: AtomicU64,
}

fn core_loop(
    context: &Context<'_>,
    settings: &Stream,
    round: &Round,
    (core, leads): (u32, bool),
    elements: usize,
    all: usize,
) -> Result<(), Refusal> {
    // A thread that cannot be bound still takes part in the barriers, or the others would wait for ever.
    let bound = processor::bind(core);
    let (left, right) = (vec![1.0_f64; elements], vec![2.0_f64; elements]);
    let mut sum = vec![0.0_f64; elements];
    triad(&mut sum, &left, &right);
    let bytes = 24.0 * real_of(elements);
    let start = context.moment();
    loop {
        round.barrier.wait();
        if !round.go_on.load(Ordering::Relaxed) {
            return bound;
        }
        let (moment, before) = (context.moment(), processor::thread_time());
        triad(&mut sum, &left, &right);
        let seconds = context.seconds_since(moment).max(1e-9);
        let used = processor::thread_time()
            .saturating_sub(before)
            .as_secs_f64();
        round
            .slowest_nanoseconds
            .fetch_max(count(seconds * 1e9), Ordering::Relaxed);
        context.sample(Metric::StreamTriad, Part::Core(core), bytes / seconds / 1e9);
        context.sample(
            Metric::CpuShare,
            Part::Core(core),
            (used / seconds).min(1.0),
        );
        round.barrier.wait();
        if leads {
            let slowest = real(round.slowest_nanoseconds.swap(0, Ordering::Relaxed)).max(1.0);
            context.sample(
                Metric::StreamTriad,
                Part::Host,
                bytes * real_of(all) / slowest,
            );
            let over = context.seconds_since(start) >= f64::from(settings.seconds);
            round
                .go_on
                .store(!over && !context.stopped(), Ordering::Relaxed);
        }
    }
}

#[inline(never)]
fn triad(sum: &mut [f64], left: &[f64], right: &[f64]) {
    for ((sum, left), right) in sum.iter_mut().zip(left).zip(right) {
        *sum = left + FACTOR * right;
    }
    std::hint::black_box(sum);
}

/// The bytes of all last-level caches together.
fn last_caches(files: Files<'_>) -> u64 {
    let base = "sys/devices/system/cpu";
    let mut seen = std::collections::BTreeMap::new();
    for cpu in files.names(base) {
        let caches = format!("{base}/{cpu}/cache");
        let last = files
            .names(&caches)
            .into_iter()
            .filter(|name| name.starts_with("index"))
            .filter_map(|name| {
                let read = |what: &str| files.word(&format!("{caches}/{name}/{what}"));
                let level: u32 = read("level")?.parse().ok()?;
                Some((
                    level,
                    read("shared_cpu_list")?,
                    cache_bytes(&read("size")?)?,
                ))
            })
            .max_by_key(|(level, ..)| *level);
        if let Some((_, shared, bytes)) = last {
            seen.insert(shared, bytes);
        }
    }
    let bytes: u64 = seen.values().sum();
    if bytes == 0 { USUAL_CACHE } else { bytes }
}

/// Reads `32768K`.
fn cache_bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.strip_suffix('K') {
        Some(number) => (number, 10),
        None => match text.strip_suffix('M') {
            Some(number) => (number, 20),
            None => (text, 0),
        },
    };
    number.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_counted_once() {
        let machine = tempfile::tempdir().expect("a directory");
        for (cpu, shared) in [("cpu0", "0-1"), ("cpu1", "0-1"), ("cpu2", "2-3")] {
            for (index, level, size) in [("index0", "1", "32K"), ("index3", "3", "16384K")] {
                let directory = machine
                    .path()
                    .join(format!("sys/devices/system/cpu/{cpu}/cache/{index}"));
                std::fs::create_dir_all(&directory).expect("own directory");
                for (name, text) in [
                    ("level", level),
                    ("size", size),
                    ("shared_cpu_list", shared),
                ] {
                    std::fs::write(directory.join(name), text).expect("own directory");
                }
            }
        }
        assert_eq!(last_caches(Files::below(machine.path())), 2 * (16 << 20));
        let empty = tempfile::tempdir().expect("a directory");
        assert_eq!(last_caches(Files::below(empty.path())), USUAL_CACHE);
    }
}
