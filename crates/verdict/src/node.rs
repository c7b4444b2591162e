//! What one run says of one node: all that its kernels said in one or two rounds, against the past of each part.
//!
//! ```text
//!  first round --nothing suspicious--> an outcome
//!       |  suspicious, or disturbed
//!       v
//!  the same items again --> an outcome
//! ```
//! A wrong result needs no second round. Being slow does: once is chance, twice in the same way is not. What was disturbed both times
//! is undecided, which is neither good nor bad.

use std::collections::BTreeMap;

use supernode_types::stress::{
    Finding, FindingKind, Item, Measurement, Slower, StepEvidence, StressOutcome, Validity,
};

use crate::history::{
    Acceptance, Baseline, Common, Departure, Repeatability, Thresholds, Verdict, accept, judge,
};
use crate::observation::{Feature, Observation};
use crate::sample::{Better, Metric, Part};
use crate::statistics::normal_share;

/// Findings that are kept of one run; more say the same.
const MOST_FINDINGS: usize = 50;

/// What is known of the parts of a node, and of its peers in the same run; by series, see [`series`].
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The node's own past.
    pub own: BTreeMap<String, Baseline>,
    /// What its peers said in this run, each with its own past.
    pub peers: BTreeMap<String, Vec<(Baseline, Observation)>>,
}

/// What is to happen with a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// Test these items again.
    Again(Vec<Item>),
    /// It is over.
    Over(Box<Judged>),
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// In a word.
    pub outcome: StressOutcome,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// What could not be judged, one line for each step.
    pub undecided: Vec<String>,
    /// What its parts learned, by series; only what changed.
    pub learned: BTreeMap<String, Baseline>,
}

/// What belongs together in the past of a node: one metric of one part, measured in one way.
pub fn series(step: &StepEvidence, measurement: &Measurement) -> String {
    format!(
        "{} {} {}",
        step.settings,
        measurement.metric.name(),
        measurement.part
    )
}

/// The observations of one round that may be judged, by series.
pub fn observations(round: &[StepEvidence]) -> BTreeMap<String, Observation> {
    let valid = round.iter().filter(|step| step.validity == Validity::Valid);
    valid
        .flat_map(|step| {
            let measured = step.measurements.iter();
            measured.filter_map(|measurement| {
                Some((
                    series(step, measurement),
                    Observation::from_measurement(measurement)?,
                ))
            })
        })
        .collect()
}

/// Judges what a node said in its rounds, the first one first.
pub fn judge_node(rounds: &[Vec<StepEvidence>], past: &Past) -> Judgement {
    let mut sight = Sight::default();
    let (Some(first), last) = (rounds.first(), rounds.len() > 1) else {
        return Judgement::Over(Box::new(Judged {
            outcome: StressOutcome::Undecided {
                why: "nothing was tested".into(),
            },
            findings: Vec::new(),
            undecided: Vec::new(),
            learned: BTreeMap::new(),
        }));
    };
    for step in first {
        let again = rounds[1..].iter().filter_map(|round| {
            round
                .iter()
                .find(|other| other.settings == step.settings && other.item == step.item)
        });
        let tries: Vec<&StepEvidence> = std::iter::once(step).chain(again).collect();
        sight.step(&tries, past, last);
    }
    sight.conclude(last)
}

#[derive(Debug, Default)]
struct Sight {
    findings: Vec<Finding>,
    undecided: Vec<String>,
    disturbed: Vec<String>,
    again: Vec<Item>,
    learned: BTreeMap<String, Baseline>,
    valid: bool,
}

impl Sight {
    /// Looks at all tries of one step.
    fn step(&mut self, tries: &[&StepEvidence], past: &Past, last: bool) {
        for step in tries {
            for failure in &step.failures {
                self.findings.push(Finding {
                    item: step.item,
                    words: format!("{}: {failure}", step.step),
                    kind: FindingKind::Hard,
                    confidence: 1.0,
                });
            }
        }
        let valid: Vec<&StepEvidence> = tries
            .iter()
            .copied()
            .filter(|step| step.validity == Validity::Valid)
            .collect();
        let Some(first) = valid.first() else {
            let step = tries[tries.len() - 1];
            match &step.validity {
                Validity::Contended(why) | Validity::Throttled(why) => {
                    self.disturbed.push(format!("{}: {why}", step.step));
                    self.again.push(step.item);
                }
                Validity::Incomplete(why) | Validity::CouldNotRun(why) => {
                    self.undecided.push(format!("{}: {why}", step.step));
                }
                Validity::Valid => {}
            }
            return;
        };
        self.valid = true;
        for measurement in &first.measurements {
            let runs: Vec<Observation> = valid
                .iter()
                .filter_map(|step| {
                    let same = step.measurements.iter().find(|other| {
                        (other.metric, &other.part) == (measurement.metric, &measurement.part)
                    });
                    same.and_then(Observation::from_measurement)
                })
                .collect();
            if !runs.is_empty() {
                self.part(first, measurement, &runs, past, last);
            }
        }
    }

    /// Looks at one part in one metric.
    fn part(
        &mut self,
        step: &StepEvidence,
        measurement: &Measurement,
        runs: &[Observation],
        past: &Past,
        last: bool,
    ) {
        let series = series(step, measurement);
        let mut baseline = past
            .own
            .get(&series)
            .filter(|baseline| baseline.fingerprint == step.fingerprint)
            .cloned()
            .unwrap_or_else(|| Baseline::new(step.fingerprint.clone()));
        let peers = past.peers.get(&series).map_or(&[][..], Vec::as_slice);
        let common = Common::of(peers.iter().map(|(baseline, run)| (baseline, run)));
        let baselines: Vec<&Baseline> = peers.iter().map(|(baseline, _)| baseline).collect();
        let kind = Repeatability::learn(&baselines);
        let verdict = judge(&baseline, &kind, &common, runs, &Thresholds::default());
        let slower = |departure: &Departure| Slower {
            metric: measurement.metric,
            part: measurement.part.clone(),
            feature: feature_name(departure.feature).to_owned(),
            worse: departure.worse,
            z: departure.z,
            baseline: was(&baseline, measurement),
            baseline_runs: baseline.runs() as u64,
        };
        match &verdict {
            Verdict::Sound => {}
            Verdict::Unknown { .. } => self.newcomer(step, measurement, runs, peers, last),
            Verdict::Suspicious(departure) if last => {
                let words = worse_words(step, &slower(departure));
                self.disturbed.push(format!(
                    "{words}, and it could not be measured again undisturbed"
                ));
            }
            Verdict::Suspicious(_) => self.again.push(step.item),
            Verdict::Doubtful(departure) => {
                let slower = slower(departure);
                self.findings.push(Finding {
                    item: step.item,
                    words: format!("{}, once of two times", worse_words(step, &slower)),
                    confidence: normal_share(slower.z),
                    kind: FindingKind::Doubtful(slower),
                });
            }
            Verdict::Confirmed(departure) => {
                let slower = slower(departure);
                self.findings.push(Finding {
                    item: step.item,
                    words: worse_words(step, &slower),
                    confidence: normal_share(slower.z),
                    kind: FindingKind::Confirmed(slower),
                });
            }
        }
        // A run that is not sound teaches nothing, but that it was doubted is remembered.
        let _ = baseline.learn(&step.fingerprint, &runs[0], &common, &verdict);
        self.learned.insert(series, baseline);
    }

    /// A part without a past, against its peers in the same run.
    fn newcomer(
        &mut self,
        step: &StepEvidence,
        measurement: &Measurement,
        runs: &[Observation],
        peers: &[(Baseline, Observation)],
        last: bool,
    ) {
        let peers: Vec<Observation> = peers.iter().map(|(_, run)| *run).collect();
        let refused = |run: &Observation| match accept(&peers, run) {
            Acceptance::Refused { worse, z } => Some((worse, z)),
            Acceptance::Accepted | Acceptance::TooFewPeers { .. } => None,
        };
        let Some((worse, z)) = refused(&runs[0]) else {
            return;
        };
        if !last {
            self.again.push(step.item);
            return;
        }
        let again = runs.len() > 1 && runs[1..].iter().all(|run| refused(run).is_some());
        let slower = Slower {
            metric: measurement.metric,
            part: measurement.part.clone(),
            feature: "peers".into(),
            worse,
            z,
            baseline: measurement.median
                * (if measurement.metric.better() == Better::Less {
                    -worse
                } else {
                    worse
                })
                .exp(),
            baseline_runs: 0,
        };
        self.findings.push(Finding {
            item: step.item,
            words: format!(
                "{} is {:.1} % worse than its {} peers",
                subject(step, measurement.metric, &measurement.part),
                worse * 100.0,
                peers.len()
            ),
            confidence: normal_share(z),
            kind: if again {
                FindingKind::Confirmed(slower)
            } else {
                FindingKind::Doubtful(slower)
            },
        });
    }

    fn conclude(mut self, last: bool) -> Judgement {
        self.findings.sort_by(|one, other| {
            rank(&one.kind)
                .cmp(&rank(&other.kind))
                .then(other.confidence.total_cmp(&one.confidence))
        });
        let found = self.findings.len();
        self.findings.truncate(MOST_FINDINGS);
        let hard = self
            .findings
            .first()
            .is_some_and(|finding| finding.kind == FindingKind::Hard);
        self.again.sort_unstable();
        self.again.dedup();
        if !hard && !last && !self.again.is_empty() {
            return Judgement::Again(self.again);
        }
        let worst = self.findings.first().map(|finding| {
            let more = found - 1;
            if more == 0 {
                finding.words.clone()
            } else {
                format!("{} (+{more} more)", finding.words)
            }
        });
        let kind = self.findings.first().map(|finding| &finding.kind);
        let outcome = match (kind, worst) {
            (Some(FindingKind::Hard | FindingKind::Confirmed(_)), Some(finding)) => {
                StressOutcome::Failed { finding }
            }
            (Some(FindingKind::Doubtful(_)), Some(finding)) => StressOutcome::Suspect { finding },
            _ if !self.disturbed.is_empty() => StressOutcome::Undecided {
                why: self.disturbed[0].clone(),
            },
            _ if self.valid => StressOutcome::Passed,
            _ => StressOutcome::Undecided {
                why: self
                    .undecided
                    .first()
                    .cloned()
                    .unwrap_or_else(|| "nothing was tested".into()),
            },
        };
        let mut undecided = self.disturbed;
        undecided.extend(self.undecided);
        Judgement::Over(Box::new(Judged {
            outcome,
            findings: self.findings,
            undecided,
            // What is plainly wrong measures nothing: its speed teaches nothing.
            learned: if hard { BTreeMap::new() } else { self.learned },
        }))
    }
}

fn rank(kind: &FindingKind) -> u8 {
    match kind {
        FindingKind::Hard => 0,
        // Those of the network are judged by themselves, see `network::run`.
        FindingKind::Confirmed(_) | FindingKind::Network(_) => 1,
        FindingKind::Doubtful(_) => 2,
    }
}

fn feature_name(feature: Feature) -> &'static str {
    match feature {
        Feature::Level => "level",
        Feature::Tail => "tail",
        Feature::Ramp => "ramp",
    }
}

/// The median of a part's past in its metric's unit.
fn was(baseline: &Baseline, measurement: &Measurement) -> f64 {
    let level = baseline.centre(Feature::Level).unwrap_or(0.0);
    match measurement.metric.better() {
        Better::Less => (-level).exp(),
        Better::More | Better::Neither => level.exp(),
    }
}

/// What is worse. Steps on one part have its name in theirs.
fn subject(step: &StepEvidence, metric: Metric, part: &Part) -> String {
    let metric = metric.name().replace('_', " ");
    let part = part.to_string();
    if step.step.ends_with(&part) {
        format!("{}: {metric}", step.step)
    } else {
        format!("{}: {metric} of {part}", step.step)
    }
}

fn worse_words(step: &StepEvidence, slower: &Slower) -> String {
    let how = match slower.feature.as_str() {
        "tail" => "stutters",
        "ramp" => "gets slower while it works",
        _ => "is slower",
    };
    format!(
        "{} {how}: {:.1} % worse than in {} runs before, which had {:.4} {}",
        subject(step, slower.metric, &slower.part),
        slower.worse * 100.0,
        slower.baseline_runs,
        slower.baseline,
        slower.metric.unit()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::stress::Shape;

    fn step(value: f64, validity: Validity) -> StepEvidence {
        let shape = Shape {
            level: value.ln(),
            tail: -0.01,
            ramp: 0.0,
        };
        StepEvidence {
            item: Item::Compute,
            step: "matrices of f32".into(),
            settings: "gemm 10 s".into(),
            fingerprint: "1".into(),
            seconds: 10.0,
            validity,
            failures: Vec::new(),
            measurements: vec![Measurement {
                metric: Metric::GemmF32,
                part: Part::Core(3),
                samples: 100,
                median: value,
                worse: value * 0.95,
                shape: Some(shape),
            }],
            remarks: Vec::new(),
        }
    }

    fn valid(value: f64) -> Vec<StepEvidence> {
        vec![step(value, Validity::Valid)]
    }

    /// A past of runs around 100.
    fn past() -> Past {
        let mut past = Past::default();
        for run in 0..6 {
            let value = if run % 2 == 0 { 100.2 } else { 99.8 };
            let Judgement::Over(judged) = judge_node(&[valid(value)], &past) else {
                panic!("nothing to repeat");
            };
            past.own.extend(judged.learned);
        }
        past
    }

    fn outcome(rounds: &[Vec<StepEvidence>], past: &Past) -> String {
        match judge_node(rounds, past) {
            Judgement::Again(items) => format!("again {items:?}"),
            Judgement::Over(judged) => judged.outcome.word().to_owned(),
        }
    }

    #[test]
    fn slow_once_is_tested_again_and_slow_twice_has_failed() {
        let past = past();
        assert_eq!(outcome(&[valid(100.0)], &past), "passed");
        assert_eq!(outcome(&[valid(90.0)], &past), "again [Compute]");
        assert_eq!(outcome(&[valid(90.0), valid(90.5)], &past), "failed");
        assert_eq!(outcome(&[valid(96.0), valid(100.0)], &past), "suspect");
    }

    #[test]
    fn a_finding_has_its_numbers() {
        let Judgement::Over(judged) = judge_node(&[valid(90.0), valid(90.0)], &past()) else {
            panic!("it was tested twice");
        };
        let finding = &judged.findings[0];
        assert!(finding.confidence > 0.95);
        assert!(
            finding.words.contains("core 3") && finding.words.contains("6 runs"),
            "{}",
            finding.words
        );
        let FindingKind::Confirmed(slower) = &finding.kind else {
            panic!("{finding:?}");
        };
        assert!((slower.worse - 0.105).abs() < 0.01 && (slower.baseline - 100.0).abs() < 1.0);
        let series = series(&valid(90.0)[0], &valid(90.0)[0].measurements[0]);
        assert_eq!(
            judged.learned[&series].runs(),
            6,
            "a bad run teaches nothing"
        );
    }

    #[test]
    fn a_wrong_result_needs_no_second_round_and_no_quiet_machine() {
        let mut wrong = step(100.0, Validity::Contended("others".into()));
        wrong.failures.push("core 3: digest".into());
        assert_eq!(outcome(&[vec![wrong]], &Past::default()), "failed");
    }

    #[test]
    fn what_was_disturbed_twice_is_undecided_and_never_bad() {
        let disturbed = || vec![step(50.0, Validity::Contended("others used 40 %".into()))];
        let past = past();
        assert_eq!(outcome(&[disturbed()], &past), "again [Compute]");
        assert_eq!(outcome(&[disturbed(), disturbed()], &past), "undecided");
        assert_eq!(outcome(&[disturbed(), valid(100.0)], &past), "passed");
        assert_eq!(outcome(&[valid(90.0), disturbed()], &past), "undecided");
    }

    #[test]
    fn what_could_not_run_is_neither_good_nor_bad() {
        let absent = step(0.0, Validity::CouldNotRun("no disk".into()));
        assert_eq!(
            outcome(&[vec![absent.clone()]], &Past::default()),
            "undecided"
        );
        let mut both = valid(100.0);
        both.push(StepEvidence {
            item: Item::Storage,
            settings: "disk".into(),
            ..absent
        });
        assert_eq!(outcome(&[both], &Past::default()), "passed");
        assert_eq!(outcome(&[], &Past::default()), "undecided");
    }

    #[test]
    fn other_software_begins_another_past() {
        let mut other = valid(80.0);
        other[0].fingerprint = "2".into();
        assert_eq!(outcome(&[other], &past()), "passed");
    }

    #[test]
    fn a_newcomer_is_compared_with_its_peers() {
        let round = valid(100.0);
        let series = series(&round[0], &round[0].measurements[0]);
        let run = observations(&round)[&series];
        let peer = |share: f64| {
            let run = Observation {
                level: run.level + share,
                ..run
            };
            (Baseline::new("1".into()), run)
        };
        let peers = (0..10)
            .map(|index| peer(f64::from(index) * 0.001))
            .collect();
        let past = Past {
            peers: [(series, peers)].into(),
            ..Past::default()
        };
        assert_eq!(outcome(&[valid(100.5)], &past), "passed");
        assert_eq!(outcome(&[valid(90.0)], &past), "again [Compute]");
        assert_eq!(outcome(&[valid(90.0), valid(90.0)], &past), "failed");
    }
}
