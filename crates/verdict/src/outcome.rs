//! Everything that one kernel said, taken together.

use serde::{Deserialize, Serialize};

use crate::change::Counters;
use crate::histogram::Histogram;
use crate::sample::{Ended, Event, Metric, Part, Pause, Sample, Wrong};

/// Samples of one kernel that are kept; a kernel makes far fewer.
const MOST_SAMPLES: usize = 1 << 20;
/// Moments that are kept; a kernel says one each second.
const MOST_MOMENTS: usize = 1 << 14;

/// Everything that a kernel said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Measurements, in the order in which they were made.
    pub samples: Vec<Sample>,
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
            Event::Sample(sample) if self.samples.len() < MOST_SAMPLES => self.samples.push(sample),
            Event::Counters(counters) if self.moments.len() < MOST_MOMENTS => {
                self.moments.push(counters);
            }
            Event::Sample(_) | Event::Counters(_) | Event::Listening(_) => {}
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
