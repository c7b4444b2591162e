//! Links inside a node: what it costs to get data from one processor, or the memory of one NUMA node, to another.
//!
//! Latency is the time of a cache line that two bound threads hand to each other. Bandwidth is a copy by one processor out of memory
//! that another one touched first, so that it lies with that one. Pairs grow with the square of the cores: where there are many,
//! one core stands for each group that shares a last cache, and neighbours inside a group are measured once around.

mod pairs;

use std::hint::{black_box, spin_loop};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use serde::{Deserialize, Serialize};

use super::context::Context;
use super::number::{real, real_of};
use super::processor;
use super::sample::{Metric, Part, Refusal};
use crate::files::Files;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// For how long altogether; each pair gets its share, and three samples at least.
    pub seconds: u32,
}

/// Hand-overs of one sample of latency.
const HANDS: u32 = 2_000;
/// Bytes of one copy: beyond second caches, where the link between processors is what counts.
const COPY_BYTES: usize = 16 << 20;
/// Samples of a pair, at least.
const FEWEST: u32 = 3;

pub(crate) fn run(context: &Context<'_>, settings: &Links) -> Result<(), Refusal> {
    let files = Files::below(Path::new("/"));
    let cores = processor::allowed()?;
    if cores.len() < 2 {
        return Err(Refusal::CouldNotRun(
            "one processor has no link to another".into(),
        ));
    }
    let pairs = pairs::core_pairs(files, &cores);
    let memory = pairs::memory_pairs(files, &cores);
    context.remark(format!(
        "{} pairs of cores, {} pairs of memory and node",
        pairs.len(),
        memory.len()
    ));
    // Half of the time for latency, half for bandwidth.
    let share = f64::from(settings.seconds) / 2.0;
    let each = share / real_of(pairs.len().max(1));
    for (from, to) in &pairs {
        latency(context, *from, *to, each)?;
    }
    let each = share / real_of((pairs.len() + memory.len()).max(1));
    for (from, to) in &pairs {
        copies(context, (*from, *to), Part::CorePair(*from, *to), each)?;
    }
    for pair in &memory {
        copies(
            context,
            (pair.owner, pair.reader),
            Part::MemoryPair(pair.from, pair.to),
            each,
        )?;
    }
    Ok(())
}

/// Two threads hand a cache line to each other; a sample is the mean of one way.
fn latency(context: &Context<'_>, from: u32, to: u32, seconds: f64) -> Result<(), Refusal> {
    let line = Line(AtomicU64::new(0));
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let able = processor::bind(to);
            line.answer(able.is_ok());
            able
        });
        let asked = bound(from, || {
            let start = context.moment();
            let mut samples = 0;
            let result = loop {
                if let Err(refusal) = context.check() {
                    break Err(refusal);
                }
                let moment = context.moment();
                let Some(()) = line.ask(|| context.stopped()) else {
                    break context.check();
                };
                let one_way = context.seconds_since(moment) * 1e9 / f64::from(2 * HANDS);
                context.sample(Metric::CopyLatency, Part::CorePair(from, to), one_way);
                samples += 1;
                if samples >= FEWEST && context.seconds_since(start) >= seconds {
                    break Ok(());
                }
            };
            line.leave();
            result
        });
        if asked.is_err() {
            line.leave();
        }
        answering
            .join()
            .expect("a kernel's thread does not panic")?;
        asked
    })
}

/// A word on a cache line of its own. Even: the asker may write; odd: the answerer may.
#[repr(align(128))]
struct Line(AtomicU64);

/// Nobody hands over any more.
const LEFT: u64 = u64::MAX;

impl Line {
    /// Hands over and back [`HANDS`] times; `None` when the other side has left, or when told to stop.
    fn ask(&self, stopped: impl Fn() -> bool) -> Option<()> {
        for _ in 0..HANDS {
            if stopped() {
                return None;
            }
            let turn = self.0.load(Ordering::Acquire);
            // The other side may leave between the two steps; then it must stay so.
            if turn == LEFT
                || self
                    .0
                    .compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Acquire)
                    .is_err()
            {
                return None;
            }
            loop {
                match self.0.load(Ordering::Acquire) {
                    LEFT => return None,
                    now if now == turn + 2 => break,
                    _ => spin_loop(),
                }
            }
        }
        Some(())
    }

    /// Hands back until the other side leaves.
    fn answer(&self, able: bool) {
        if !able {
            self.leave();
        }
        loop {
            match self.0.load(Ordering::Acquire) {
                LEFT => return,
                turn if turn % 2 == 1 => {
                    let handed = self.0.compare_exchange(
                        turn,
                        turn + 1,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                    if handed.is_err() {
                        return;
                    }
                }
                _ => spin_loop(),
            }
        }
    }

    fn leave(&self) {
        self.0.store(LEFT, Ordering::Release);
    }
}

/// One thread touches memory first, another copies it into its own.
fn copies(
    context: &Context<'_>,
    (owner, reader): (u32, u32),
    part: Part,
    seconds: f64,
) -> Result<(), Refusal> {
    let (hand, take) = sync_channel::<Vec<u64>>(0);
    let (back, again) = sync_channel::<Vec<u64>>(0);
    let words = COPY_BYTES / 8;
    std::thread::scope(|scope| {
        let owning = scope.spawn(move || -> Result<(), Refusal> {
            processor::bind(owner)?;
            let mut memory = vec![1_u64; words];
            // Written anew each time, so that the lines are the owner's, not the reader's copies of them.
            loop {
                for word in &mut memory {
                    *word = word.wrapping_add(1);
                }
                if hand.send(memory).is_err() {
                    return Ok(());
                }
                match again.recv() {
                    Ok(returned) => memory = returned,
                    Err(_) => return Ok(()),
                }
            }
        });
        let read = bound(reader, move || {
            let mut target = vec![0_u64; words];
            let start = context.moment();
            for round in 0_u32.. {
                context.check()?;
                let Ok(memory) = take.recv() else { break };
                let moment = context.moment();
                target.copy_from_slice(black_box(&memory));
                black_box(&mut target);
                let taken = context.seconds_since(moment).max(1e-9);
                // The first one pays for fresh pages.
                if round > 0 {
                    let bytes = real(COPY_BYTES as u64);
                    context.sample(Metric::CopyBandwidth, part.clone(), bytes / taken / 1e9);
                }
                if round >= FEWEST && context.seconds_since(start) >= seconds {
                    break;
                }
                if back.send(memory).is_err() {
                    break;
                }
            }
            Ok(())
        });
        owning.join().expect("a kernel's thread does not panic")?;
        read
    })
}

/// Does something on a thread that is bound to a processor.
fn bound(core: u32, work: impl FnOnce() -> Result<(), Refusal> + Send) -> Result<(), Refusal> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                processor::bind(core)?;
                work()
            })
            .join()
            .expect("a kernel's thread does not panic")
    })
}
