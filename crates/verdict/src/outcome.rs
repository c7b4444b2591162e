//! Everything that one kernel said, taken together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::Counters;
use crate::histogram::Histogram;
use crate::sample::{Ended, Event, Metric, Part, Pause, Sample, Wrong};

/// Samples of one kernel that are kept. Many cores and hours make more; then only every so-manieth of each series is.
const MOST_SAMPLES: usize = 1 << 20;
/// Moments that are kept; a kernel says one each second.
const MOST_MOMENTS: usize = 1 << 14;

/// Everything that a kernel said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Measurements, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// Which of them are kept while it runs.
    #[serde(skip)]
    pub thinning: Thinning,
    /// Distributions.
    pub distributions: Vec<(Metric, Part, Histogram)>,
    /// Wrong results.
    pub wrong: Vec<Wrong>,
    /// What a reader of the numbers has to know.
    pub remarks: Vec<String>,
    /// What drivers said of the parts, from before to after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<Counters>,
    /// The longest time in which a process of the test did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// A limit that somebody has set and that held it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Processor time that it used.
    pub cpu_seconds: f64,
    /// Time on the clock that it took.
    pub seconds: f64,
    /// How it ended. Without a word of its own it is incomplete.
    pub ended: Ended,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            thinning: Thinning::default(),
            distributions: Vec::new(),
            wrong: Vec::new(),
            remarks: Vec::new(),
            moments: Vec::new(),
            pause: None,
            limit: None,
            cpu_seconds: 0.0,
            seconds: 0.0,
            ended: Ended::Incomplete("it ended without a word".into()),
        }
    }
}

impl Outcome {
    /// A kernel that could not run.
    pub fn could_not_run(why: impl Into<String>) -> Self {
        Self {
            ended: Ended::CouldNotRun(why.into()),
            ..Self::default()
        }
    }

    /// Takes one event.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Sample(sample) => self.thinning.take(&mut self.samples, sample),
            Event::Counters(counters) if self.moments.len() < MOST_MOMENTS => {
                self.moments.push(counters);
            }
            Event::Counters(_) | Event::Listening(_) => {}
            Event::Distribution {
                metric,
                part,
                histogram,
            } => self.distributions.push((metric, part, histogram)),
            Event::Wrong(wrong) => self.wrong.push(wrong),
            Event::Remark(remark) => self.remarks.push(remark),
            Event::Paused(pause) => {
                let longest = self.pause.as_ref().map_or(0.0, |longest| longest.seconds);
                if pause.seconds > longest {
                    self.pause = Some(pause);
                }
            }
            Event::Limited(limit) => self.limit = Some(limit),
            Event::Used {
                cpu_seconds,
                seconds,
            } => (self.cpu_seconds, self.seconds) = (cpu_seconds, seconds),
            Event::End(ended) => self.ended = ended,
        }
    }
}

/// Which samples are kept: of each series every so-manieth, from its first to its last, so that what is kept is as the whole was.
#[derive(Debug, Clone, PartialEq)]
pub struct Thinning {
    most: usize,
    /// Every so-manieth.
    stride: u64,
    /// How many samples of each series came.
    came: BTreeMap<(Metric, Part), u64>,
}

impl Default for Thinning {
    fn default() -> Self {
        Self {
            most: MOST_SAMPLES,
            stride: 1,
            came: BTreeMap::new(),
        }
    }
}

impl Thinning {
    fn take(&mut self, kept: &mut Vec<Sample>, sample: Sample) {
        let key = (sample.metric, sample.part.clone());
        let came = self.came.entry(key).or_default();
        *came += 1;
        if !(*came - 1).is_multiple_of(self.stride) {
            return;
        }
        kept.push(sample);
        if kept.len() >= self.most {
            self.halve(kept);
        }
    }

    /// Lets every second sample of each series go.
    fn halve(&mut self, kept: &mut Vec<Sample>) {
        let mut places: BTreeMap<(Metric, Part), u64> = BTreeMap::new();
        kept.retain(|sample| {
            let place = places
                .entry((sample.metric, sample.part.clone()))
                .or_default();
            *place += 1;
            !place.is_multiple_of(2)
        });
        self.stride *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_many_samples_is_spread_evenly_over_each_series() {
        let mut thinning = Thinning {
            most: 1000,
            ..Thinning::default()
        };
        let mut kept = Vec::new();
        // The second series has half as many.
        for moment in 0..10_000_u32 {
            for core in 0..=u32::from(moment % 2 == 0) {
                let sample = Sample {
                    metric: Metric::GemmF32,
                    part: Part::Core(core),
                    value: 1.0,
                    at_seconds: f64::from(moment),
                };
                thinning.take(&mut kept, sample);
            }
        }
        assert!((500..1000).contains(&kept.len()), "{}", kept.len());
        for (core, step) in [(0, 16.0), (1, 32.0)] {
            let of_core = kept.iter().filter(|sample| sample.part == Part::Core(core));
            let moments: Vec<f64> = of_core.map(|sample| sample.at_seconds).collect();
            let even = moments.windows(2).all(|pair| {
                let gap = pair[1] - pair[0];
                (gap - step).abs() < 1e-9
            });
            assert!(even, "{moments:?}");
            assert!(moments[0] < 1.0 && moments[moments.len() - 1] > 10_000.0 - step - 1.0);
        }
    }
}
