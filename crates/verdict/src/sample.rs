//! What a kernel says: raw samples, distributions, wrong results, remarks. Never a verdict; that is a pure function over stored
//! samples, so that it can be taken again later with better judgement.

use serde::{Deserialize, Serialize};
pub use supernode_types::stress::{Better, Metric, Part};

use crate::change::Counters;
use crate::histogram::Histogram;

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What.
    pub metric: Metric,
    /// Where.
    pub part: Part,
    /// How much, in the metric's unit.
    pub value: f64,
    /// When, in seconds since the kernel began.
    pub at_seconds: f64,
}

/// A result that is not what it has to be: the evidence of corruption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// Where.
    pub part: Part,
    /// What was computed, written or sent.
    pub what: String,
    /// What it has to be.
    pub expected: String,
    /// What it was.
    pub got: String,
}

/// One line of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A measurement.
    Sample(Sample),
    /// Many measurements of one kind, too many to be said one by one.
    Distribution {
        /// What.
        metric: Metric,
        /// Where.
        part: Part,
        /// How much.
        histogram: Histogram,
    },
    /// A wrong result.
    Wrong(Wrong),
    /// Something that a reader of the numbers has to know.
    Remark(String),
    /// What the part's own driver says of it at this moment.
    Counters(Counters),
    /// The address that a listener waits on.
    Listening(std::net::SocketAddr),
    /// What the kernel used.
    Used {
        /// Processor time of all its threads.
        cpu_seconds: f64,
        /// Time on the clock.
        seconds: f64,
    },
    /// A process of the test did not run for a while.
    Paused(Pause),
    /// A limit that somebody has set held the test back.
    Limited(String),
    /// The kernel came to its end.
    End(Ended),
}

/// A process that did not run although it wanted to: stopped by somebody, or with its whole machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// Whose process.
    pub part: Part,
    /// How long, at a time.
    pub seconds: f64,
}

/// How a kernel ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It did all that was asked.
    Complete,
    /// It was stopped or cut short; what it said so far is neither a pass nor a failure.
    Incomplete(String),
    /// It could not run here; that is no fault of the part it was to test.
    CouldNotRun(String),
}

/// Why a kernel gave no complete result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was told to stop.
    #[error("stopped before its end")]
    Stopped,
    /// Somebody else who has a share in it does not go on.
    #[error("{0}")]
    Interrupted(String),
    /// It cannot run here.
    #[error("{0}")]
    CouldNotRun(String),
}

impl Refusal {
    /// Says what could not be done, with the error of the system.
    pub fn because(what: &str, error: impl std::fmt::Display) -> Self {
        Self::CouldNotRun(format!("{what}: {error}"))
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stopped | Refusal::Interrupted(_) => Self::Incomplete(refusal.to_string()),
            Refusal::CouldNotRun(why) => Self::CouldNotRun(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_pipe() {
        let events = [
            Event::Sample(Sample {
                metric: Metric::GemmF32,
                part: Part::CorePair(1, 2),
                value: 1.5,
                at_seconds: 0.25,
            }),
            Event::Wrong(Wrong {
                part: Part::Directory("/data".into()),
                what: "block 7".into(),
                expected: "1".into(),
                got: "2".into(),
            }),
            Event::End(Ended::CouldNotRun("no disk".into())),
        ];
        for event in events {
            let line = serde_json::to_string(&event).expect("plain data");
            assert!(!line.contains('\n'));
            assert_eq!(
                serde_json::from_str::<Event>(&line).expect("reads back"),
                event
            );
        }
    }
}
