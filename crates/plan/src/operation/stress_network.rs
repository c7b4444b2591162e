//! Testing the network between the nodes of a stress run: when it begins, which pair has its turn, what interrupts one, and how it ends.
//!
//! ```text
//!  every node was tested alone --nodes to pair (loop)--> Testing --judged (control)--> Judged: each node is concluded
//!
//!  pair  Waiting --both nodes free (loop)--> Running --asker said (agent)--> Ended
//!           ^                                  |  given up, preempted, drained, lost, restarted, silent
//!           \--------- once more, once --------+--> Ended: incomplete
//! ```
//! A pair takes both nodes whole, or neither, and only when both are free: no node is held while it waits for its partner. What interrupts
//! a pair ends it at once for both; their agents stop their kernels, and start nothing beside them.

use std::time::Duration;

use supernode_types::node::{Node, NodeCondition, NodePolicy};
use supernode_types::operation::{Operation, TargetState};
use supernode_types::stress::{
    NetworkState, PairOutcome, PairState, StressOutcome, StressPair, StressProgress, StressRun,
};
use supernode_types::{NodeId, Timestamp};

use super::{Planner, active, stress_run};
use crate::action::PairEnd;
use crate::{Action, RunNetwork};

/// A pair that came to nothing is begun once more.
const MOST_TRIES: u32 = 2;
/// Beyond its kernels a pair may take so long.
const SLACK: Duration = Duration::from_mins(1);

/// What is known of the network of a run.
pub(super) fn of<'a>(planner: &Planner<'a, '_>, operation: &Operation) -> Option<&'a RunNetwork> {
    planner.index.snapshot.stress_networks.get(&operation.id)
}

/// Whether a node goes on with the network after it was tested alone. One that is sick by itself says nothing about its network.
pub(super) fn takes(outcome: &StressOutcome) -> bool {
    outcome.tested() && !matches!(outcome, StressOutcome::Failed { .. })
}

/// Whether a node was tested alone, or is among those that are paired.
pub(super) fn has(planner: &Planner<'_, '_>, operation: &Operation, node: &Node) -> bool {
    of(planner, operation).is_some_and(|network| {
        let paired = network
            .test
            .as_ref()
            .is_some_and(|test| test.nodes.contains(&node.id));
        paired || network.outcomes.contains_key(&node.id)
    })
}

/// Whether the operation was given up before the network could be judged.
pub(super) fn cut(planner: &Planner<'_, '_>, operation: &Operation) -> bool {
    let test = of(planner, operation).and_then(|network| network.test.as_ref());
    planner.given_up(operation).is_some()
        && test.is_some_and(|test| match &test.state {
            NetworkState::Judged { verdict } => verdict.undecided.is_some(),
            NetworkState::Testing { .. } => true,
        })
}

/// A node that is tested for nothing but its network waits until it can be used; nothing when it can.
pub(super) fn wait_for(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    run: &StressRun,
    node: &Node,
) -> Option<TargetState> {
    let waits = stress_run::unusable(planner, node)?;
    let why = match planner.given_up(operation) {
        Some(cause) => cause.words().to_owned(),
        None if planner.index.snapshot.now >= run.window_ends => {
            format!("the window is over, and it still {waits}")
        }
        None => return Some(active(waits)),
    };
    Some(stress_run::skip(planner, operation, node, &why))
}

/// The states of all targets, with those whose own test is over.
pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    run: &StressRun,
    tested_alone: Vec<Option<TargetState>>,
    turns: &mut usize,
) -> Vec<TargetState> {
    let alone = |stage: &Option<TargetState>| matches!(stage, Some(TargetState::Active { .. }));
    let others = tested_alone.iter().any(alone);
    let nodes: Vec<Option<&'a Node>> = operation
        .targets
        .iter()
        .zip(&tested_alone)
        .map(|(target, stage)| match stage {
            Some(_) => None,
            None => planner.node(target),
        })
        .collect();
    let network = of(planner, operation);
    let test = network.and_then(|network| network.test.as_ref());
    let mut steps: Vec<(&NodeId, String)> = Vec::new();
    match (network, test.map(|test| &test.state)) {
        (_, None) if !others => begin(planner, operation, &nodes),
        (Some(network), Some(NetworkState::Testing { .. })) => {
            for pair in &network.pairs {
                let step = advance(planner, operation, run, pair, turns);
                steps.extend([(&pair.asker, step.clone()), (&pair.listener, step)]);
            }
        }
        _ => {}
    }
    let mut states = Vec::with_capacity(tested_alone.len());
    for (stage, node) in tested_alone.into_iter().zip(nodes) {
        let state = match (stage, node, test.map(|test| &test.state)) {
            (Some(state), ..) => state,
            (None, None, _) => super::failed("incomplete: it was removed"),
            (None, Some(_), None) if others => {
                active("was tested alone; the network is next, when the others were, too")
            }
            (None, Some(_), None) => active("its network test begins"),
            (None, Some(node), Some(NetworkState::Testing { round })) => {
                let step = steps.iter().find(|(id, _)| **id == node.id);
                active(step.map_or_else(
                    || format!("waits for the other pairs of round {round}"),
                    |(_, step)| step.clone(),
                ))
            }
            (None, Some(node), Some(NetworkState::Judged { .. })) => {
                let outcome = network.and_then(|network| network.outcomes.get(&node.id));
                let outcome = outcome.cloned().unwrap_or(StressOutcome::Undecided {
                    why: "nothing was tested".into(),
                });
                stress_run::conclude(planner, operation, run, node, &outcome)
            }
        };
        states.push(state);
    }
    states
}

/// All nodes were tested alone: those that are left are paired.
fn begin(planner: &mut Planner<'_, '_>, operation: &Operation, nodes: &[Option<&Node>]) {
    let nodes: Vec<NodeId> = nodes.iter().flatten().map(|node| node.id.clone()).collect();
    if !nodes.is_empty() {
        planner.actions.push(Action::BeginNetwork {
            operation: operation.id.clone(),
            nodes,
        });
    }
}

/// Why a pair does not go on, and whether it may be tried again.
struct Cut {
    why: String,
    again: bool,
}

impl Cut {
    fn for_good(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            again: false,
        }
    }

    fn this_time(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            again: true,
        }
    }
}

/// Begins, watches or ends a pair; says what it does.
fn advance<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    run: &StressRun,
    pair: &'a StressPair,
    turns: &mut usize,
) -> String {
    let now = planner.index.snapshot.now;
    let names = names(planner, pair);
    let nodes = [&pair.asker, &pair.listener].map(|id| planner.index.snapshot.nodes.get(id));
    let cut = hopeless(planner, operation, nodes);
    let (PairState::Running { began_at, said, .. }, [Some(asker), Some(listener)]) =
        (&pair.state, nodes)
    else {
        return match (cut, nodes) {
            (None, [Some(asker), Some(listener)]) => {
                turn(planner, operation, run, pair, [asker, listener], turns)
            }
            (cut, _) => {
                let why = cut.map_or_else(|| "a node of it was removed".to_owned(), |cut| cut.why);
                end(planner, operation, pair, PairEnd::Skipped { why });
                format!("its network test with {names} is over")
            }
        };
    };
    let cut = match said {
        Some(PairOutcome::Measured(_)) => {
            end(planner, operation, pair, PairEnd::Said);
            return format!("network of {names}: measured");
        }
        Some(other) => Some(Cut::this_time(other.detail().unwrap_or_default())),
        None => cut
            .or_else(|| interrupted(operation, pair, [asker, listener]))
            .or_else(|| {
                let limit = limit(run, *began_at);
                (now >= limit).then(|| Cut::this_time("its agents said nothing for too long"))
            }),
    };
    let Some(cut) = cut else {
        return match asker.stress.work.as_ref().map(|work| &work.progress) {
            Some(StressProgress::Running { step }) => format!("network of {names}: {step}"),
            _ => format!("network of {names}: waits for their agents"),
        };
    };
    let again = cut.again
        && pair.tries < MOST_TRIES
        && now < run.window_ends
        && planner.given_up(operation).is_none();
    let what = cut.why.clone();
    end(
        planner,
        operation,
        pair,
        match (again, said) {
            (true, _) => PairEnd::Again { why: cut.why },
            (false, Some(_)) => PairEnd::Said,
            (false, None) => PairEnd::Incomplete { why: cut.why },
        },
    );
    format!("network of {names}: {what}")
}

/// When a pair that began then must be over.
fn limit(run: &StressRun, began_at: Timestamp) -> Timestamp {
    let seconds = run.kernel_seconds.unwrap_or(run.tier.pair_seconds());
    began_at.plus(Duration::from_secs(u64::from(seconds)) * 3 + SLACK)
}

fn names(planner: &Planner<'_, '_>, pair: &StressPair) -> String {
    let [asker, listener] = [&pair.asker, &pair.listener].map(|id| {
        let node = planner.index.snapshot.nodes.get(id);
        node.map_or_else(|| id.to_string(), |node| node.name.to_string())
    });
    format!("{asker} and {listener}")
}

/// What leaves no hope for a pair.
fn hopeless(
    planner: &Planner<'_, '_>,
    operation: &Operation,
    nodes: [Option<&Node>; 2],
) -> Option<Cut> {
    if let Some(cause) = planner.given_up(operation) {
        return Some(Cut::for_good(cause.words()));
    }
    nodes.into_iter().find_map(|node| {
        let Some(node) = node else {
            return Some(Cut::for_good("a node of it was removed"));
        };
        match (&node.policy, &node.condition) {
            (NodePolicy::Draining { operation, .. }, _) => Some(Cut::for_good(format!(
                "node {} is being emptied by {operation}",
                node.name
            ))),
            (_, NodeCondition::Lost { .. }) => {
                Some(Cut::for_good(format!("node {} was lost", node.name)))
            }
            _ => None,
        }
    })
}

/// What ended a try of a pair that runs.
fn interrupted(operation: &Operation, pair: &StressPair, nodes: [&Node; 2]) -> Option<Cut> {
    nodes.into_iter().find_map(|node| {
        let work = stress_run::work_of(node, operation)
            .filter(|work| work.pair.as_ref().map(|task| task.number) == Some(pair.number));
        let Some(work) = work else {
            let why = format!("node {} is not in it any more", node.name);
            return Some(Cut::this_time(why));
        };
        if node.boot_id != work.boot_id {
            let why = format!("node {} was restarted", node.name);
            return Some(Cut::this_time(why));
        }
        let stop = work.stop.as_ref()?;
        Some(Cut::this_time(format!("node {}: {stop}", node.name)))
    })
}

/// Begins a pair whose two nodes are free, or says what it waits for.
fn turn<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    run: &StressRun,
    pair: &'a StressPair,
    nodes: [&'a Node; 2],
    turns: &mut usize,
) -> String {
    let names = names(planner, pair);
    let waits = nodes.into_iter().find_map(|node| {
        let waits = stress_run::waits(planner, run, node)?;
        Some(format!("node {} {waits}", node.name))
    });
    if planner.index.snapshot.now >= run.window_ends {
        let why = waits.map_or_else(
            || "the window is over".to_owned(),
            |waits| format!("the window is over, and {waits}"),
        );
        end(planner, operation, pair, PairEnd::Skipped { why });
        return format!("network of {names}: the window is over");
    }
    if let Some(waits) = waits {
        return format!("network of {names}: {waits}");
    }
    // A run that may test one node at a time still needs two for a pair.
    let needed = usize::try_from(run.parallel.clamp(1, 2)).unwrap_or(2);
    if *turns < needed {
        return format!(
            "network of {names}: waits for its turn, {} nodes at a time",
            run.parallel.max(2)
        );
    }
    *turns = turns.saturating_sub(2);
    planner.tested.extend(nodes.map(|node| &node.id));
    planner.actions.push(Action::BeginPair {
        operation: operation.id.clone(),
        number: pair.number,
    });
    format!("network of {names}: waits for their agents")
}

fn end(planner: &mut Planner<'_, '_>, operation: &Operation, pair: &StressPair, end: PairEnd) {
    planner.actions.push(Action::EndPair {
        operation: operation.id.clone(),
        number: pair.number,
        end,
    });
}
