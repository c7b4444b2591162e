//! Rolling an environment revision out. The agents do the work; this watches.
//!
//! A lost member does not hold it up: it gets the environment before it is ready again. A newer change takes over at once, because
//! what it waits for includes everything that this one waits for.

use supernode_types::node::{Node, NodeCondition};
use supernode_types::operation::{Operation, OperationKind, OperationState, Target, TargetState};
use supernode_types::{Generation, OperationId};

use super::{GivenUp, Planner, active, failed};
use crate::words;

pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    revision: i64,
    generation: Generation,
) {
    let super_nodes = &planner.index.snapshot.super_nodes;
    let Some(super_node) = operation
        .super_node
        .as_ref()
        .and_then(|id| super_nodes.get(id))
    else {
        end(
            planner,
            operation,
            generation,
            OperationState::Failed {
                reason: "its super node was deleted".into(),
            },
        );
        return;
    };
    let missing: Vec<String> = planner
        .index
        .members_of(&super_node.id)
        .filter_map(|node| {
            Some(format!(
                "node {}: {}",
                node.name,
                missing(node, revision, generation)?
            ))
        })
        .collect();
    let Some(line) = words::first_and_more(&missing) else {
        end(planner, operation, generation, OperationState::Succeeded);
        return;
    };
    if let Some((newer, newer_revision)) = newer(planner, operation, revision) {
        let reason = format!("superseded by {newer} (revision {newer_revision})");
        end(
            planner,
            operation,
            generation,
            OperationState::Failed { reason },
        );
        return;
    }
    if super_node.environment_revision > revision {
        let reason = format!("superseded by revision {}", super_node.environment_revision);
        end(
            planner,
            operation,
            generation,
            OperationState::Failed { reason },
        );
        return;
    }
    match planner.given_up(operation) {
        Some(GivenUp::Cancelled) => {
            let detail = format!(
                "revision {revision} stays in force and reaches the nodes as they can take it; set the former one to go back"
            );
            end(
                planner,
                operation,
                generation,
                OperationState::Cancelled { detail },
            );
        }
        Some(cause) => end(
            planner,
            operation,
            generation,
            OperationState::Failed {
                reason: format!("{}; {line}", cause.words()),
            },
        ),
        None => {
            let states = states(planner, operation, revision, generation);
            planner.record(operation, &states);
            planner.wait(operation, line);
        }
    }
}

/// An open change of the same super node with a later revision.
fn newer<'a>(
    planner: &Planner<'a, '_>,
    operation: &Operation,
    revision: i64,
) -> Option<(&'a OperationId, i64)> {
    let others = planner
        .index
        .snapshot
        .operations
        .values()
        .filter(|other| other.super_node == operation.super_node && !other.state.ended());
    let newer = others.filter_map(|other| match other.kind {
        OperationKind::EnvironmentChange {
            revision: later, ..
        } if later > revision => Some((&other.id, later)),
        _ => None,
    });
    newer.max_by_key(|(_, later)| *later)
}

/// What keeps a member from having the revision; nothing for one that is not waited for.
fn missing(node: &Node, revision: i64, generation: Generation) -> Option<String> {
    if matches!(node.condition, NodeCondition::Lost { .. }) {
        return None;
    }
    if let Some(problem) = words::first_and_more(&node.environment_problems) {
        return Some(format!("environment revision {revision}: {problem}"));
    }
    (node.environment_applied < generation)
        .then(|| format!("environment revision {revision} is being applied"))
}

fn states(
    planner: &Planner<'_, '_>,
    operation: &Operation,
    revision: i64,
    generation: Generation,
) -> Vec<TargetState> {
    let member = |target: &Target| {
        let node = planner.index.snapshot.nodes.get(target.node.as_ref()?)?;
        node.membership
            .member_of(operation.super_node.as_ref()?)
            .then_some(node)
    };
    let state = |target: &Target| match (&target.state, member(target)) {
        (TargetState::Active { .. }, Some(node)) => match missing(node, revision, generation) {
            Some(step) => active(step),
            None if node.environment_applied < generation => {
                active("it is lost; it gets the environment when it returns")
            }
            None => TargetState::Done,
        },
        // It has left, so there is nothing to do.
        (TargetState::Active { .. }, None) => TargetState::Done,
        (ended, _) => ended.clone(),
    };
    operation.targets.iter().map(state).collect()
}

fn end(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    generation: Generation,
    state: OperationState,
) {
    let revision = match operation.kind {
        OperationKind::EnvironmentChange { revision, .. } => revision,
        _ => 0,
    };
    let mut states = states(planner, operation, revision, generation);
    for state in &mut states {
        if let TargetState::Active { step } = state {
            *state = failed(step.as_str());
        }
    }
    planner.record(operation, &states);
    planner.set(operation, state);
}
