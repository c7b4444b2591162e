//! What an agent says of a test becomes evidence, then a verdict.
//!
//! Evidence is stored first and judged as it was stored, with the functions of `supernode-verdict`, so that the same can be said
//! again from the database alone. It happens in the transaction of the report: a server that is killed judges when the agent says the
//! same again, and never twice.

use std::collections::BTreeMap;

use supernode_store::stress::{
    stress_baseline_list, stress_baseline_put, stress_result_insert, stress_round_insert,
    stress_round_list, stress_round_list_peers,
};
use supernode_store::{StoreError, Tx};
use supernode_types::Timestamp;
use supernode_types::node::Node;
use supernode_types::stress::{
    StepEvidence, StressOutcome, StressProgress, StressReport, StressReportState, StressResult,
    StressWork, Validity,
};
use supernode_verdict::history::Baseline;
use supernode_verdict::node::{Judged, Judgement, Past, judge_node, observations};

use crate::stress_pair_judge;

/// Peers that a node is compared with; more say the same.
const MOST_PEERS: u32 = 64;
/// What is taken of one report; an agent sends far less.
const MOST_STEPS: usize = 64;
const MOST_MEASUREMENTS: usize = 2000;
const MOST_LINES: usize = 50;
const MOST_CHARACTERS: usize = 500;

/// Takes in what the agent of `node` says of its test. Answers whether the node has to be told something else.
pub(crate) fn record(
    tx: &mut Tx<'_>,
    node: &mut Node,
    report: &StressReport,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(work) = &mut node.stress.work else {
        return Ok(());
    };
    let current = work.operation == report.key.operation
        && work.round == report.key.round
        && work.pair.as_ref().map(|task| task.number) == report.key.pair
        && work.boot_id == node.boot_id
        && !matches!(work.progress, StressProgress::Judged { .. });
    if !current {
        return Ok(());
    }
    if let Some(task) = work.pair.clone() {
        return stress_pair_judge::record(tx, node, &task, report);
    }
    let (evidence, cut_short) = match &report.state {
        StressReportState::Listening { .. } => return Ok(()),
        StressReportState::Running { step } => {
            work.progress = StressProgress::Running { step: cut(step) };
            return Ok(());
        }
        StressReportState::Ended { evidence } => (evidence, None),
        StressReportState::Incomplete { why, evidence } => (evidence, Some(cut(why))),
    };
    let work = work.clone();
    stress_round_insert(
        tx,
        &work.operation,
        &node.id,
        work.round,
        &bounded(evidence),
        now,
    )?;
    let judgement = match cut_short {
        Some(why) => Judgement::Over(Box::new(nothing_found(StressOutcome::Incomplete {
            why: work.stop.clone().unwrap_or(why),
        }))),
        None => judge(tx, node, &work)?,
    };
    let told = &mut node.desired_generation;
    match judgement {
        Judgement::Again(items) => {
            if let Some(work) = &mut node.stress.work {
                work.round += 1;
                work.items = items;
                work.progress = StressProgress::Told;
            }
            *told += 1;
        }
        Judgement::Over(judged) => over(tx, node, &work, *judged, now)?,
    }
    Ok(())
}

fn nothing_found(outcome: StressOutcome) -> Judged {
    Judged {
        outcome,
        findings: Vec::new(),
        undecided: Vec::new(),
        learned: BTreeMap::new(),
    }
}

fn judge(tx: &mut Tx<'_>, node: &Node, work: &StressWork) -> Result<Judgement, StoreError> {
    let rounds = stress_round_list(tx, &work.operation, &node.id)?;
    let mut past = Past {
        own: stress_baseline_list(tx, &node.id)?,
        peers: BTreeMap::new(),
    };
    for (peer, round) in stress_round_list_peers(tx, &work.operation, &node.id, MOST_PEERS)? {
        let mut baselines: BTreeMap<String, Baseline> = stress_baseline_list(tx, &peer)?;
        for (series, observation) in observations(&round) {
            let baseline = baselines.remove(&series).unwrap_or_default();
            let peers = past.peers.entry(series).or_default();
            peers.push((baseline, observation));
        }
    }
    Ok(judge_node(&rounds, &past))
}

fn over(
    tx: &mut Tx<'_>,
    node: &mut Node,
    work: &StressWork,
    judged: Judged,
    now: Timestamp,
) -> Result<(), StoreError> {
    for (series, baseline) in &judged.learned {
        stress_baseline_put(tx, &node.id, series, baseline)?;
    }
    let result = StressResult {
        run: work.operation.clone(),
        node: node.id.clone(),
        tier: work.tier,
        outcome: judged.outcome.clone(),
        findings: judged.findings,
        undecided: judged.undecided,
        rounds: work.round,
        began_at: Some(work.began_at),
        ended_at: now,
    };
    stress_result_insert(tx, &result)?;
    if let Some(work) = &mut node.stress.work {
        work.progress = StressProgress::Judged {
            outcome: judged.outcome,
        };
    }
    Ok(())
}

/// What is taken of a line that an agent sent.
pub(crate) fn cut(line: &str) -> String {
    line.chars().take(MOST_CHARACTERS).collect()
}

/// No agent fills the database.
fn bounded(evidence: &[StepEvidence]) -> Vec<StepEvidence> {
    let lines = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .take(MOST_LINES)
            .map(|line| cut(line))
            .collect()
    };
    let validity = |validity: &Validity| match validity {
        Validity::Valid => Validity::Valid,
        Validity::Contended(why) => Validity::Contended(cut(why)),
        Validity::Throttled(why) => Validity::Throttled(cut(why)),
        Validity::Incomplete(why) => Validity::Incomplete(cut(why)),
        Validity::CouldNotRun(why) => Validity::CouldNotRun(cut(why)),
    };
    evidence
        .iter()
        .take(MOST_STEPS)
        .map(|step| StepEvidence {
            item: step.item,
            step: cut(&step.step),
            settings: cut(&step.settings),
            fingerprint: cut(&step.fingerprint),
            seconds: step.seconds,
            validity: validity(&step.validity),
            failures: lines(&step.failures),
            measurements: step
                .measurements
                .iter()
                .filter(|measurement| measurement.part.to_string().len() <= MOST_CHARACTERS)
                .take(MOST_MEASUREMENTS)
                .cloned()
                .collect(),
            remarks: lines(&step.remarks),
        })
        .collect()
}
