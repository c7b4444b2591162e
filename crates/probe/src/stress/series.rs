//! The samples of one metric and part, in the order in which they were made.

use super::sample::{Better, Metric, Part, Sample};
use super::verdict::statistics::{quantile, sorted};

/// Samples that belong together.
pub(super) struct Series<'a> {
    pub(super) metric: Metric,
    pub(super) part: &'a Part,
    pub(super) values: Vec<f64>,
    /// The same values by size.
    pub(super) ascending: Vec<f64>,
}

impl Series<'_> {
    pub(super) fn median(&self) -> Option<f64> {
        quantile(&self.ascending, 0.5)
    }

    /// Where the worst twentieth begins.
    pub(super) fn worse(&self) -> Option<f64> {
        let share = if self.metric.better() == Better::Less {
            0.95
        } else {
            0.05
        };
        quantile(&self.ascending, share)
    }
}

/// All of them, by metric and part.
pub(super) fn series(samples: &[Sample]) -> impl Iterator<Item = Series<'_>> {
    let mut keys: Vec<(Metric, &Part)> = samples
        .iter()
        .map(|sample| (sample.metric, &sample.part))
        .collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().map(|(metric, part)| {
        let values: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.metric == metric && sample.part == *part)
            .map(|sample| sample.value)
            .collect();
        Series {
            metric,
            part,
            ascending: sorted(values.iter().copied()),
            values,
        }
    })
}
