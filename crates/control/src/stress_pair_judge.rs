//! What the two agents of a pair say becomes what came of it.
//!
//! The listener says its port, and the asker is told where to ask. Only the asker reports what was measured: a listener that says
//! anything else has ended too early. The first word counts, so a report that comes again changes nothing; the leases are given back by
//! the loop, which sees the pair as it is stored here.

use supernode_store::node::{node_get, node_update};
use supernode_store::stress_network::{stress_pair_get, stress_pair_update};
use supernode_store::{StoreError, Tx};
use supernode_types::node::Node;
use supernode_types::stress::{
    Metric, PairNumbers, PairOutcome, PairPlace, PairState, PairTask, StepEvidence, StressProgress,
    StressReport, StressReportState, Validity,
};

use crate::stress_judge::cut;

/// Takes in what the agent of `node` says of its pair.
pub(crate) fn record(
    tx: &mut Tx<'_>,
    node: &mut Node,
    task: &PairTask,
    report: &StressReport,
) -> Result<(), StoreError> {
    let Some(mut pair) = stress_pair_get(tx, &report.key.operation, task.number)? else {
        return Ok(());
    };
    let tries = pair.tries;
    let PairState::Running { port, said, .. } = &mut pair.state else {
        return Ok(());
    };
    if tries != report.key.round || said.is_some() {
        return Ok(());
    }
    match (task.place, &report.state) {
        (PairPlace::Asker, StressReportState::Running { step }) => {
            progress(node, cut(step));
            return Ok(());
        }
        (PairPlace::Listener, StressReportState::Listening { port: open }) => {
            if port.replace(*open) == Some(*open) {
                return Ok(());
            }
            progress(node, "listens".into());
            if let Some(mut asker) = node_get(tx, &pair.asker)? {
                asker.desired_generation += 1;
                node_update(tx, &mut asker)?;
            }
        }
        (_, StressReportState::Running { .. } | StressReportState::Listening { .. }) => {
            return Ok(());
        }
        (PairPlace::Asker, StressReportState::Ended { evidence }) => {
            *said = Some(outcome(evidence));
            progress(node, "has measured".into());
        }
        (PairPlace::Listener, StressReportState::Ended { .. }) => {
            let why = format!(
                "node {} listened, and its partner did not end in time",
                node.name
            );
            *said = Some(PairOutcome::Incomplete { why });
            progress(node, "has listened".into());
        }
        (_, StressReportState::Incomplete { why, .. }) => {
            let why = format!("node {}: {}", node.name, cut(why));
            *said = Some(PairOutcome::Incomplete { why });
            progress(node, "has ended".into());
        }
    }
    stress_pair_update(tx, &pair)
}

fn progress(node: &mut Node, step: String) {
    if let Some(work) = &mut node.stress.work {
        work.progress = StressProgress::Running { step };
    }
}

/// What the asker's evidence comes to.
fn outcome(evidence: &[StepEvidence]) -> PairOutcome {
    let Some(step) = evidence.first() else {
        let why = "the asker reported nothing".into();
        return PairOutcome::Incomplete { why };
    };
    match &step.validity {
        Validity::Valid => match numbers(step) {
            Some(numbers) => PairOutcome::Measured(numbers),
            None => PairOutcome::Incomplete {
                why: "the asker did not measure both directions".into(),
            },
        },
        Validity::Contended(why) | Validity::Throttled(why) => {
            PairOutcome::Disturbed { why: cut(why) }
        }
        Validity::CouldNotRun(why) => PairOutcome::Unreachable { why: cut(why) },
        Validity::Incomplete(why) => PairOutcome::Incomplete { why: cut(why) },
    }
}

fn numbers(step: &StepEvidence) -> Option<PairNumbers> {
    let of = |metric: Metric| {
        let mut all = step.measurements.iter();
        all.find(|measurement| measurement.metric == metric)
    };
    let bandwidth = |metric| {
        let median = of(metric)?.median;
        (median.is_finite() && median >= 0.0).then_some(median)
    };
    let loss = |metric| of(metric).map_or(0.0, |measurement| measurement.median.clamp(0.0, 1.0));
    let time = |value: f64| value.is_finite().then_some(value);
    let round_trip = of(Metric::RoundTrip);
    Some(PairNumbers {
        out_gbps: bandwidth(Metric::NetworkSend)?,
        back_gbps: bandwidth(Metric::NetworkReceive)?,
        out_loss: loss(Metric::LossOut),
        back_loss: loss(Metric::LossIn),
        round_trip_microseconds: round_trip.and_then(|found| time(found.median)),
        slow_round_trip_microseconds: round_trip.and_then(|found| time(found.worse)),
    })
}
