//! Durations of one kind, gathered by many tasks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Microseconds since the last look.
#[derive(Debug, Default)]
pub(crate) struct Latency(Mutex<Vec<u32>>);

/// What was gathered.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) median_milliseconds: f64,
    pub(crate) p99_milliseconds: f64,
    pub(crate) longest_milliseconds: f64,
}

impl Latency {
    pub(crate) fn add(&self, duration: Duration) {
        let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(microseconds);
    }

    /// Takes what was gathered; the next summary begins anew.
    pub(crate) fn take(&self) -> Summary {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_unstable();
        let at = |percent: usize| {
            let index = all.len().saturating_sub(1) * percent / 100;
            all.get(index)
                .map_or(0.0, |microseconds| f64::from(*microseconds) / 1000.0)
        };
        Summary {
            count: all.len(),
            median_milliseconds: at(50),
            p99_milliseconds: at(99),
            longest_milliseconds: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_begin_anew() {
        let latency = Latency::default();
        assert_eq!(latency.take(), Summary::default());
        for milliseconds in (1..=100).rev() {
            latency.add(Duration::from_millis(milliseconds));
        }
        let summary = latency.take();
        assert_eq!(summary.count, 100);
        assert!((summary.median_milliseconds - 50.0).abs() < 1e-9);
        assert!((summary.p99_milliseconds - 99.0).abs() < 1e-9);
        assert!((summary.longest_milliseconds - 100.0).abs() < 1e-9);
        assert_eq!(latency.take().count, 0);
    }
}
