//! Testing nodes: who gets whose turn, what is waited for, and how it ends for each node.
//!
//! ```text
//!  not begun --usable and free (loop)--> leased: its agent tests --judged (control)--> Done
//!      |  window over, given up              |  drained, given up: told to stop
//!      v                                     |  lost, restarted, removed
//!   skipped                                  v
//!                                        incomplete: neither a pass nor a failure
//! ```
//! A test takes a whole node, with leases like those of jobs, and takes it only when it is free: nothing that runs is ever stopped for a
//! test. It gives way to whoever empties the node, and one on a schedule to jobs. What was measured is judged elsewhere; here only the
//! outcome is read. A node that was tested alone and did not fail goes on with the network, where the run tests it
//! ([`super::stress_network`]); until then it is held by nobody.

use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::{Node, NodeCondition, NodeHealth, NodePolicy};
use supernode_types::operation::{Operation, OperationState, Target, TargetState};
use supernode_types::stress::{Item, StressOutcome, StressProgress, StressRun, StressWork, Tier};

use super::{GivenUp, Planner, active, failed, stress_network};
use crate::health::{self, Brake, Coverage};
use crate::{Action, words};

pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    run: &'a StressRun,
) {
    let in_work = operation
        .targets
        .iter()
        .filter_map(|target| planner.node(target))
        .filter(|node| work_of(node, operation).is_some())
        .count();
    let parallel = usize::try_from(run.parallel.max(1)).unwrap_or(usize::MAX);
    let mut turns = parallel.saturating_sub(in_work);
    let tested_alone: Vec<Option<TargetState>> = operation
        .targets
        .iter()
        .map(|target| match &target.state {
            TargetState::Active { .. } => advance(planner, operation, run, target, &mut turns),
            ended => Some(ended.clone()),
        })
        .collect();
    let states = stress_network::plan(planner, operation, run, tested_alone, &mut turns);
    planner.record(operation, &states);
    if let Some(waits_for) = planner.waits_for(operation, &states) {
        planner.wait(operation, waits_for);
        return;
    }
    let mut failures = planner.failures(operation, &states);
    if failures.is_empty() && stress_network::cut(planner, operation) {
        failures = "the network was not tested to the end".into();
    }
    let tally = Planner::tally(&states, "tested");
    let state = match planner.given_up(operation) {
        _ if failures.is_empty() => OperationState::Succeeded,
        Some(GivenUp::Cancelled) => OperationState::Cancelled {
            detail: format!("{tally}; {failures}"),
        },
        _ => OperationState::Failed {
            reason: format!("{tally}; {failures}"),
        },
    };
    planner.set(operation, state);
}

pub(super) fn work_of<'a>(node: &'a Node, operation: &Operation) -> Option<&'a StressWork> {
    let work = node.stress.work.as_ref();
    work.filter(|work| work.operation == operation.id)
}

/// Where a node is that is tested alone; nothing when that is over and the rest is the network's.
fn advance<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    run: &StressRun,
    target: &'a Target,
    turns: &mut usize,
) -> Option<TargetState> {
    let Some(node) = planner.node(target) else {
        return Some(failed("incomplete: it was removed"));
    };
    let Some(work) = work_of(node, operation) else {
        if stress_network::has(planner, operation, node) {
            return None;
        }
        return match run.own_items().as_slice() {
            [] => stress_network::wait_for(planner, operation, run, node),
            items => Some(begin(planner, operation, run, items, node, turns)),
        };
    };
    if work.pair.is_some() {
        return None;
    }
    match over(planner, operation, planner.given_up(operation), node, work) {
        Ok(outcome) if run.tests_network() && stress_network::takes(&outcome) => {
            planner.actions.push(Action::ParkStress {
                operation: operation.id.clone(),
                node: node.id.clone(),
                outcome,
            });
            None
        }
        Ok(outcome) => Some(conclude(planner, operation, run, node, &outcome)),
        Err(step) => Some(active(step)),
    }
}

/// What follows from the outcome, with everything that was tested.
pub(super) fn conclude<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    run: &StressRun,
    node: &'a Node,
    outcome: &StressOutcome,
) -> TargetState {
    let brake = brake(planner, node);
    let network = stress_network::of(planner, operation).and_then(|network| network.test.as_ref());
    let coverage = Coverage::of(node, &run.items, run.kernel_seconds, network);
    judge(planner, operation, coverage, node, outcome, brake);
    end(planner, operation, node, outcome)
}

/// What came of the test of a node, or what it does.
pub(super) fn over(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    given_up: Option<GivenUp>,
    node: &Node,
    work: &StressWork,
) -> Result<StressOutcome, String> {
    let incomplete = |why: &str| StressOutcome::Incomplete { why: why.into() };
    if let StressProgress::Judged { outcome } = &work.progress {
        return Ok(outcome.clone());
    }
    // The agent ends its kernels by itself when it has lost contact, before this is said of its node.
    if matches!(node.condition, NodeCondition::Lost { .. }) {
        return Ok(incomplete("the node was lost"));
    }
    if node.boot_id != work.boot_id {
        return Ok(incomplete("the node was restarted"));
    }
    let why = match (given_up, &node.policy) {
        (Some(cause), _) => Some(cause.words().to_owned()),
        (None, NodePolicy::Draining { operation, .. }) => {
            Some(format!("the node is being emptied by {operation}"))
        }
        (None, _) => None,
    };
    let Some(why) = work.stop.clone().or(why) else {
        return Err(match &work.progress {
            StressProgress::Running { step } if work.round > 1 => {
                format!("is tested again: {step}")
            }
            StressProgress::Running { step } => format!("is tested: {step}"),
            _ => "waits for its agent".to_owned(),
        });
    };
    // An agent that says nothing holds up nobody for ever; it begins nothing else while a kernel of it runs.
    if planner.overdue(operation) {
        return Ok(incomplete(&format!("{why}, and its agent said no more")));
    }
    if work.stop.is_none() {
        planner.actions.push(Action::StopStress {
            node: node.id.clone(),
            why: why.clone(),
        });
    }
    Err(format!("is told to stop: {why}"))
}

/// Whether the node may be quarantined beside those of its super node that are.
fn brake(planner: &Planner<'_, '_>, node: &Node) -> Brake {
    node.membership.super_node().map_or(Brake::Off, |id| {
        let all = planner.index.nodes_of(id);
        let quarantined = all
            .iter()
            .filter(|other| !other.health.schedulable())
            .count()
            + planner.quarantined.get(id).copied().unwrap_or(0);
        Brake::of(all.len(), quarantined, planner.limits.quarantine_percent)
    })
}

/// What the outcome does to the health of the node.
pub(super) fn judge<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    coverage: Coverage,
    node: &'a Node,
    outcome: &StressOutcome,
    brake: Brake,
) {
    let super_node = node.membership.super_node();
    let Some(health) = health::after(node, operation, coverage, outcome, brake) else {
        return;
    };
    match (&health, super_node) {
        (NodeHealth::Quarantined { .. }, Some(id)) if node.health.schedulable() => {
            *planner.quarantined.entry(id).or_default() += 1;
        }
        (NodeHealth::Suspect { .. }, _) if matches!(outcome, StressOutcome::Failed { .. }) => {
            planner.actions.push(Action::Tell(NewEvent {
                kind: "node.quarantine_held",
                severity: Severity::Error,
                message: format!(
                    "node {} failed its test and stays in service: enough of its super node is quarantined already; cordon it, or look what they have in common",
                    node.name
                ),
                subjects: Subjects {
                    node: Some(node.id.clone()),
                    super_node: super_node.cloned(),
                    operation: Some(operation.id.clone()),
                    ..Subjects::default()
                },
            }));
        }
        _ => {}
    }
    planner.actions.push(Action::SetHealth {
        node: node.id.clone(),
        health,
        operation: operation.id.clone(),
    });
}

pub(super) fn end(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    node: &Node,
    outcome: &StressOutcome,
) -> TargetState {
    planner.actions.push(Action::EndStress {
        operation: operation.id.clone(),
        node: node.id.clone(),
        outcome: outcome.clone(),
    });
    if outcome.tested() {
        return TargetState::Done;
    }
    let detail = outcome.detail().unwrap_or_default();
    failed(format!("{}: {detail}", outcome.word()))
}

/// Takes a node that is free, or says what it waits for.
fn begin<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    run: &StressRun,
    items: &[Item],
    node: &'a Node,
    turns: &mut usize,
) -> TargetState {
    let now = planner.index.snapshot.now;
    let waits = waits(planner, run, node);
    let over = match planner.given_up(operation) {
        Some(cause) => Some(cause.words().to_owned()),
        None if now >= run.window_ends => Some(match &waits {
            Some(waits) => format!("the window is over, and it still {waits}"),
            None => "the window is over".to_owned(),
        }),
        None => None,
    };
    if let Some(why) = over {
        return skip(planner, operation, node, &why);
    }
    if let Some(waits) = waits {
        return active(waits);
    }
    if *turns == 0 {
        return active(format!("waits for its turn, {} at a time", run.parallel));
    }
    *turns -= 1;
    take(
        planner,
        operation,
        node,
        run.tier,
        items,
        run.kernel_seconds,
    );
    active("waits for its agent")
}

/// Ends the test of a node that was not begun.
pub(super) fn skip(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    node: &Node,
    why: &str,
) -> TargetState {
    let now = planner.index.snapshot.now;
    let why = format!("{why}; {}", node.stress.last_passed_words(now));
    end(planner, operation, node, &StressOutcome::Skipped { why })
}

/// Why a node is not tested just now: it cannot be, or it is left to a job.
pub(super) fn waits(planner: &Planner<'_, '_>, run: &StressRun, node: &Node) -> Option<String> {
    waits_for(planner, node).or_else(|| {
        let job = planner.wanted.get(&node.id)?;
        let leaves = run.gives_way(&node.stress, planner.index.snapshot.now);
        leaves.then(|| format!("is left to {job}"))
    })
}

/// Begins to test a node that nothing uses.
pub(super) fn take<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    node: &'a Node,
    tier: Tier,
    items: &[Item],
    kernel_seconds: Option<u32>,
) {
    planner.tested.insert(&node.id);
    let work = StressWork {
        operation: operation.id.clone(),
        boot_id: node.boot_id.clone(),
        began_at: planner.index.snapshot.now,
        round: 1,
        pair: None,
        tier,
        items: items.to_vec(),
        kernel_seconds,
        stop: None,
        progress: StressProgress::Told,
    };
    planner.actions.push(Action::BeginStress {
        node: node.id.clone(),
        work: Box::new(work),
    });
}

/// Why a node cannot be used, whoever is on it.
pub(super) fn unusable(planner: &Planner<'_, '_>, node: &Node) -> Option<String> {
    match (&node.policy, &node.condition) {
        (NodePolicy::Draining { operation, .. }, _) => {
            return Some(format!("is being emptied by {operation}"));
        }
        (NodePolicy::Removed, _) => return Some("is removed".into()),
        (_, NodeCondition::Ready) => {}
        (_, condition) => return Some(format!("is {}", condition.word())),
    }
    if planner.removed.contains(&node.id) {
        return Some("is removed".into());
    }
    let drained = planner.drained.contains(&node.id);
    drained.then(|| "is being emptied".into())
}

/// Why a node cannot be tested just now.
pub(super) fn waits_for(planner: &Planner<'_, '_>, node: &Node) -> Option<String> {
    if let Some(why) = unusable(planner, node) {
        return Some(why);
    }
    if node.disk.work.is_some() {
        return Some("waits until its system disk has grown".into());
    }
    if planner.tested.contains(&node.id) {
        return Some("waits for another test".into());
    }
    let leases = planner.index.leases_on(&node.id);
    let jobs = planner.index.jobs_on(&node.id);
    if !jobs.is_empty() {
        return Some(format!("waits for {}", words::list(jobs.iter(), 3)));
    }
    let test = leases.first()?.operation()?;
    Some(format!("waits for the test {test}"))
}
