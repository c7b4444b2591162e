//! Many seeds on all processors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{Failure, Outcome, run_seed};

/// What many runs were like.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many seeds were run.
    pub seeds: u64,
    /// The sum over those that passed.
    pub sum: Outcome,
    /// Those that did not, by seed.
    pub failures: Vec<Failure>,
}

/// Runs `count` seeds from `first` on. Each seed is one thread's work, so the result does not depend on how many processors there are.
pub fn run_seeds(first: u64, count: u64) -> Summary {
    let next = AtomicU64::new(first);
    let all = Mutex::new(Summary {
        seeds: count,
        ..Summary::default()
    });
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                return;
            }
            let result = run_seed(seed);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(outcome) => all.sum = std::mem::take(&mut all.sum).plus(&outcome),
                Err(failure) => all.failures.push(*failure),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.failures.sort_by_key(|failure| failure.seed);
    all
}

impl Summary {
    /// How many there were and what they were like, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let failed = self.failures.len() as u64;
        let passed = (self.seeds - failed).max(1);
        let sum = &self.sum;
        format!(
            "{} seeds, {failed} failed; on average {} steps, {} simulated seconds, {} accepted requests, {} ended jobs, {} server processes",
            self.seeds,
            sum.steps / passed,
            sum.time.as_secs() / passed,
            sum.accepted / passed,
            sum.jobs / passed,
            sum.server_processes / passed
        )
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.line())?;
        for (kind, count) in &self.sum.events {
            write!(formatter, "\n{count:>9} {kind}")?;
        }
        Ok(())
    }
}
