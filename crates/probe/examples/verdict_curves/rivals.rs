//! The rules that others use for devices, as far as they are published: fixed thresholds, robust outliers of the fleet, and the
//! similarity of distributions of `SuperBench` (Xiong et al., USENIX ATC 2024).

use supernode_probe::stress::verdict::statistics::{
    area_below, median, quantile, robust_deviation, sorted,
};

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Five percent below the fleet's median of the week.
    FixedFleet,
    /// Five percent below the device's own first run.
    FixedOwn,
    /// Three deviations (by MAD) below the fleet's median.
    Mad,
    /// One and a half quartile distances below the lower quartile.
    Tukey,
    /// One-sided similarity below 0.95 to the centre of the fleet's first week.
    Similarity,
}

impl Rule {
    pub(crate) const ALL: [Self; 5] = [
        Self::FixedFleet,
        Self::FixedOwn,
        Self::Mad,
        Self::Tukey,
        Self::Similarity,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FixedFleet => "5 % below fleet",
            Self::FixedOwn => "5 % below own first run",
            Self::Mad => "MAD of fleet",
            Self::Tukey => "Tukey fences of fleet",
            Self::Similarity => "ECDF similarity 0.95",
        }
    }
}

/// One week of a fleet.
pub(crate) struct Week<'a> {
    first: &'a [Vec<f64>],
    runs: &'a [Vec<f64>],
    means: Vec<f64>,
}

impl<'a> Week<'a> {
    pub(crate) fn new(first: &'a [Vec<f64>], runs: &'a [Vec<f64>]) -> Self {
        Self {
            first,
            runs,
            means: runs.iter().map(|run| mean(run)).collect(),
        }
    }

    /// Which devices a rule calls bad.
    pub(crate) fn alarms(&self, rule: Rule) -> Vec<bool> {
        let below = |limit: f64| self.means.iter().map(|mean| *mean < limit).collect();
        let middle = median(self.means.iter().copied()).expect("a fleet has devices");
        match rule {
            Rule::FixedFleet => below(middle * 0.95),
            Rule::FixedOwn => self
                .means
                .iter()
                .zip(self.first)
                .map(|(now, first)| *now < mean(first) * 0.95)
                .collect(),
            Rule::Mad => {
                let deviation = robust_deviation(&self.means).expect("a fleet has devices");
                below(middle - 3.0 * deviation)
            }
            Rule::Tukey => {
                let means = sorted(self.means.iter().copied());
                let quarter = |share| quantile(&means, share).expect("a fleet has devices");
                below(quarter(0.25) - 1.5 * (quarter(0.75) - quarter(0.25)))
            }
            Rule::Similarity => {
                let centre = centre(self.first);
                self.runs
                    .iter()
                    .map(|run| area_below(run, centre).is_some_and(|area| area > 0.05))
                    .collect()
            }
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    let count = u32::try_from(values.len()).expect("runs are short");
    values.iter().sum::<f64>() / f64::from(count)
}

/// The run that is in the middle of all: with these fleets the same as the one with the largest sum of similarities.
fn centre(runs: &[Vec<f64>]) -> &[f64] {
    let middle = median(runs.iter().map(|run| mean(run))).expect("a fleet has devices");
    runs.iter()
        .min_by(|left, right| {
            let far = |run: &[f64]| (mean(run) - middle).abs();
            far(left).total_cmp(&far(right))
        })
        .expect("a fleet has devices")
}
