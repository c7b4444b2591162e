//! What the store has done so far, as plain counters.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A reading of the store's counters. All counts are since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreMetrics {
    /// Write transactions that were committed, each with the closures of one batch.
    pub batches: u64,
    /// Write closures that were answered, including those that returned an error.
    pub closures: u64,
    /// Read closures that were answered.
    pub reads: u64,
    /// Transactions that were run again after a conflict or a lost connection.
    pub retries: u64,
    /// Batches whose callers all got an error.
    pub failed_batches: u64,
    /// Time spent in COMMIT, in sum. Zero for a store without threads.
    pub commit_time_sum: Duration,
    /// The longest COMMIT. Zero for a store without threads.
    pub commit_time_max: Duration,
    /// Write closures that wait in the queue now.
    pub queue_length: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    batches: AtomicU64,
    closures: AtomicU64,
    reads: AtomicU64,
    retries: AtomicU64,
    failed_batches: AtomicU64,
    commit_nanoseconds_sum: AtomicU64,
    commit_nanoseconds_max: AtomicU64,
}

impl Counters {
    pub(crate) fn committed(&self, closures: usize, commit_time: Duration) {
        let nanoseconds = u64::try_from(commit_time.as_nanos()).unwrap_or(u64::MAX);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.closures.fetch_add(closures as u64, Ordering::Relaxed);
        self.commit_nanoseconds_sum
            .fetch_add(nanoseconds, Ordering::Relaxed);
        self.commit_nanoseconds_max
            .fetch_max(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, closures: usize) {
        self.failed_batches.fetch_add(1, Ordering::Relaxed);
        self.closures.fetch_add(closures as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reading(&self, queue_length: usize) -> StoreMetrics {
        StoreMetrics {
            batches: self.batches.load(Ordering::Relaxed),
            closures: self.closures.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            failed_batches: self.failed_batches.load(Ordering::Relaxed),
            commit_time_sum: Duration::from_nanos(
                self.commit_nanoseconds_sum.load(Ordering::Relaxed),
            ),
            commit_time_max: Duration::from_nanos(
                self.commit_nanoseconds_max.load(Ordering::Relaxed),
            ),
            queue_length,
        }
    }
}
