//! What is kept of a kernel's run: everything that a verdict needs, in a bounded size, so that a node's whole test fits into one report.

use supernode_types::stress::{Measurement, Metric, Shape, StepEvidence};

use super::report::in_words;
use super::sample::Sample;
use super::series::{Series, series};
use super::suite::Record;
use super::verdict::observation::Observation;

/// Measurements of one kernel; the pairs of a large machine are the most there are.
const MOST_MEASUREMENTS: usize = 1500;
/// Failures and remarks of one kernel.
const MOST_LINES: usize = 20;
/// Characters of one of them.
const MOST_CHARACTERS: usize = 300;

/// Sums up one kernel's run. `fingerprint` is the software that it ran with.
pub fn evidence(record: &Record, fingerprint: &str) -> StepEvidence {
    let mut measurements = measured(&record.outcome.samples);
    measurements.extend(record.outcome.distributions.iter().filter_map(
        |(metric, part, histogram)| {
            let (median, worse) = (histogram.quantile(0.5)?, histogram.quantile(0.95)?);
            Some(Measurement {
                metric: *metric,
                part: part.clone(),
                samples: histogram.count(),
                median,
                worse,
                shape: shape_of_tail(*metric, median, worse),
            })
        },
    ));
    let mut remarks = lines(record.outcome.remarks.iter().cloned());
    if measurements.len() > MOST_MEASUREMENTS {
        remarks.push(format!(
            "{} measurements were made; {MOST_MEASUREMENTS} are kept",
            measurements.len()
        ));
        measurements.truncate(MOST_MEASUREMENTS);
    }
    StepEvidence {
        item: record.step.item,
        step: record.step.name.clone(),
        settings: serde_json::to_string(&record.step.kernel).unwrap_or_default(),
        fingerprint: fingerprint.to_owned(),
        seconds: record.outcome.seconds,
        validity: record.validity.clone(),
        failures: lines(record.failures.iter().map(in_words)),
        measurements,
        remarks,
    }
}

fn lines(all: impl Iterator<Item = String>) -> Vec<String> {
    all.take(MOST_LINES)
        .map(|line| line.chars().take(MOST_CHARACTERS).collect())
        .collect()
}

fn measured(samples: &[Sample]) -> Vec<Measurement> {
    let of = |one: Series<'_>| {
        Some(Measurement {
            metric: one.metric,
            part: one.part.clone(),
            samples: one.values.len() as u64,
            median: one.median()?,
            worse: one.worse()?,
            shape: Observation::of(one.metric, &one.values).map(|observation| observation.shape()),
        })
    };
    series(samples).filter_map(of).collect()
}

/// A distribution has no order in time; its tail is what its worst twentieth begins with.
fn shape_of_tail(metric: Metric, median: f64, worse: f64) -> Option<Shape> {
    let level = Observation::of(metric, &[median])?.level;
    Some(Shape {
        level,
        tail: Observation::of(metric, &[worse])?.level - level,
        ramp: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use supernode_types::stress::Part;

    use super::*;
    use crate::stress::child::Outcome;
    use crate::stress::histogram::Histogram;
    use crate::stress::passive::Change;
    use crate::stress::suite::{Item, Parts, Tier, steps};
    use crate::stress::verdict::validity::Validity;

    #[test]
    fn the_evidence_of_a_large_machine_stays_small() {
        let sample = |core, at: u32| Sample {
            metric: Metric::GemmF32,
            part: Part::Core(core),
            value: 100.0 + f64::from(at % 7),
            at_seconds: f64::from(at),
        };
        let mut latencies = Histogram::default();
        for value in 1..1000 {
            latencies.add(f64::from(value));
        }
        let outcome = Outcome {
            samples: (0..2000)
                .flat_map(|core| (0..20).map(move |at| sample(core, at)))
                .collect(),
            distributions: vec![(Metric::RandomReadLatency, Part::Host, latencies)],
            remarks: vec!["x".repeat(5000)],
            ..Outcome::default()
        };
        let record = Record {
            step: steps(&[Item::Compute], Tier::Quick, &Parts::default()).remove(0),
            outcome,
            change: Change::default(),
            validity: Validity::Valid,
            failures: Vec::new(),
        };
        let evidence = evidence(&record, "0.1");
        assert_eq!(evidence.measurements.len(), MOST_MEASUREMENTS);
        assert_eq!(
            evidence.remarks.len(),
            2,
            "one of them says what is missing"
        );
        let bytes = serde_json::to_vec(&evidence).expect("plain data").len();
        assert!(bytes < 512 * 1024, "{bytes}");
        let first = &evidence.measurements[0];
        assert_eq!((first.samples, first.part.clone()), (20, Part::Core(0)));
        assert!(first.shape.is_some_and(|shape| shape.tail < 0.0));
    }

    #[test]
    fn the_tail_of_a_latency_is_below_its_level() {
        let shape = shape_of_tail(Metric::RandomReadLatency, 100.0, 400.0).expect("it has one");
        assert!((shape.tail + 4.0_f64.ln()).abs() < 1e-9);
        assert_eq!(shape_of_tail(Metric::Power, 1.0, 1.0), None);
    }
}
