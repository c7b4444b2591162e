//! Failures that need no statistics: a wrong result, a device that is gone, a number below what the maker promises, a driver tool that
//! says so.

use serde::{Deserialize, Serialize};

use super::statistics::median;
use crate::change::Change;
use crate::outcome::Outcome;
use crate::sample::{Better, Metric, Part};

/// A number that must be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Of what.
    pub metric: Metric,
    /// The worst median that is good enough, in the metric's unit.
    pub worst: f64,
}

/// A failure that needs no statistics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardFailure {
    /// A wrong result.
    Corruption {
        /// Where.
        part: Part,
        /// What was wrong, what was expected, what came.
        evidence: String,
    },
    /// Worse than the floor.
    BelowFloor {
        /// Where.
        part: Part,
        /// The floor.
        floor: Floor,
        /// The median.
        median: f64,
    },
    /// An error counter that must not grow did.
    ErrorCounter {
        /// Which.
        name: String,
        /// By how much.
        grown: u64,
    },
    /// A device that should be there is not.
    Missing {
        /// Which.
        part: Part,
    },
}

/// Counters of which one more is one too many: uncorrected memory errors, and errors of media.
const DEADLY: [(&str, &str); 5] = [
    ("edac/", "/ue_count"),
    ("disk/", "/errors"),
    ("file_system/", "/errors"),
    ("device/", "/ecc_uncorrected"),
    ("device/", "/rows_not_remapped"),
];

/// Everything that is plainly wrong in one run.
pub fn failures(outcome: &Outcome, change: &Change, floors: &[Floor]) -> Vec<HardFailure> {
    let mut found: Vec<HardFailure> = outcome
        .wrong
        .iter()
        .map(|wrong| HardFailure::Corruption {
            part: wrong.part.clone(),
            evidence: format!(
                "{}: expected {}, got {}",
                wrong.what, wrong.expected, wrong.got
            ),
        })
        .collect();
    for (name, grown) in &change.grown {
        if DEADLY
            .iter()
            .any(|(begin, end)| name.starts_with(begin) && name.ends_with(end))
        {
            found.push(HardFailure::ErrorCounter {
                name: name.clone(),
                grown: *grown,
            });
        }
    }
    for floor in floors {
        let mut parts: Vec<&Part> = outcome
            .samples
            .iter()
            .filter(|sample| sample.metric == floor.metric)
            .map(|sample| &sample.part)
            .collect();
        parts.sort();
        parts.dedup();
        for part in parts {
            let values = outcome
                .samples
                .iter()
                .filter(|sample| sample.metric == floor.metric && sample.part == *part)
                .map(|sample| sample.value);
            let Some(median) = median(values) else {
                continue;
            };
            let below = match floor.metric.better() {
                Better::More => median < floor.worst,
                Better::Less => median > floor.worst,
                Better::Neither => false,
            };
            if below {
                found.push(HardFailure::BelowFloor {
                    part: part.clone(),
                    floor: floor.clone(),
                    median,
                });
            }
        }
    }
    found
}

/// The parts that were expected and did not say a word although the test came to its end.
pub fn missing(expected: &[Part], outcome: &Outcome) -> Vec<HardFailure> {
    expected
        .iter()
        .filter(|part| !outcome.samples.iter().any(|sample| sample.part == **part))
        .map(|part| HardFailure::Missing { part: part.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, Wrong};

    fn outcome(values: &[f64]) -> Outcome {
        Outcome {
            samples: values
                .iter()
                .map(|value| Sample {
                    metric: Metric::GemmF32,
                    part: Part::Device(1),
                    value: *value,
                    at_seconds: 0.0,
                })
                .collect(),
            ..Outcome::default()
        }
    }

    #[test]
    fn a_wrong_result_and_a_grown_error_counter_are_failures() {
        let mut outcome = outcome(&[]);
        outcome.wrong.push(Wrong {
            part: Part::Core(3),
            what: "digest".into(),
            expected: "1".into(),
            got: "2".into(),
        });
        let change = Change {
            grown: [
                ("edac/mc0/ue_count".to_owned(), 1),
                ("edac/mc0/ce_count".to_owned(), 5),
            ]
            .into(),
            ..Change::default()
        };
        let found = failures(&outcome, &change, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(matches!(
            &found[0],
            HardFailure::Corruption {
                part: Part::Core(3),
                ..
            }
        ));
        assert!(matches!(
            &found[1],
            HardFailure::ErrorCounter { grown: 1, .. }
        ));
    }

    #[test]
    fn the_floor_is_compared_with_the_median() {
        let floor = Floor {
            metric: Metric::GemmF32,
            worst: 90.0,
        };
        let change = Change::default();
        let floors = [floor];
        assert_eq!(
            failures(&outcome(&[100.0, 91.0, 10.0]), &change, &floors),
            []
        );
        assert_eq!(
            failures(&outcome(&[100.0, 89.0, 10.0]), &change, &floors).len(),
            1
        );
    }

    #[test]
    fn a_device_that_says_nothing_is_missing() {
        let expected = [Part::Device(0), Part::Device(1)];
        assert_eq!(
            missing(&expected, &outcome(&[1.0])),
            [HardFailure::Missing {
                part: Part::Device(0)
            }]
        );
    }
}
