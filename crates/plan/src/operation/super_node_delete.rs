//! Taking a super node apart.
//!
//! All its nodes leave in one step, when no lease is left on any of them, so there is never half a super node: before that step a
//! cancel or the deadline puts everything back, after it the deletion goes on to its end. Then its queued jobs end, and it is gone.

use std::collections::BTreeSet;

use supernode_types::JobId;
use supernode_types::node::{Membership, Node};
use supernode_types::operation::{Operation, OperationState, Target, TargetState};

use super::{GivenUp, Planner, active, failed, leaves_by};
use crate::{Action, words};

pub(super) fn plan<'a>(planner: &mut Planner<'a, '_>, operation: &'a Operation) {
    let super_nodes = &planner.index.snapshot.super_nodes;
    let Some(super_node) = operation
        .super_node
        .as_ref()
        .and_then(|id| super_nodes.get(id))
    else {
        finish(planner, operation);
        return;
    };
    let nodes: Vec<&Node> = planner.index.nodes_of(&super_node.id).to_vec();
    // A super node without a member can only go.
    let is_member = |node: &Node| node.membership.member_of(&super_node.id);
    let under_way = !nodes.iter().any(|node| is_member(node))
        || operation
            .targets
            .iter()
            .any(|target| !node_of(planner, target).is_some_and(is_member));
    let given_up = planner.given_up(operation).filter(|_| !under_way);
    if let Some(cause) = given_up {
        put_back(planner, operation, cause);
        return;
    }
    let empty = nodes
        .iter()
        .all(|node| planner.index.leases_on(&node.id).is_empty());
    for node in &nodes {
        match &node.membership {
            Membership::Member { .. } if empty => planner.actions.push(Action::Leave {
                node: node.id.clone(),
                operation: operation.id.clone(),
            }),
            Membership::Leaving { .. }
                if leaves_by(node, operation) || planner.overdue(operation) =>
            {
                planner.release(operation, node);
            }
            _ => {}
        }
    }
    let state = |target: &Target| match node_of(planner, target) {
        Some(node) if node.membership.super_node() == Some(&super_node.id) => {
            active(step(planner, operation, node, empty))
        }
        _ => TargetState::Done,
    };
    let states: Vec<TargetState> = operation.targets.iter().map(state).collect();
    planner.record(operation, &states);
    if !empty {
        let jobs: BTreeSet<&JobId> = nodes
            .iter()
            .flat_map(|node| planner.index.jobs_on(&node.id))
            .collect();
        planner.wait(
            operation,
            format!("{} on its nodes", words::list(jobs.iter(), 3)),
        );
    } else if let Some(waits_for) = planner.waits_for(operation, &states) {
        let late = if operation.cancel_requested {
            " (too late to cancel: nodes have left)"
        } else {
            ""
        };
        planner.wait(operation, format!("{waits_for}{late}"));
    } else if let Some(node) = nodes.first() {
        planner.wait(
            operation,
            format!(
                "node {}: {}",
                node.name,
                step(planner, operation, node, empty)
            ),
        );
    } else if planner.delete_super_node(operation, super_node) {
        planner.set(operation, OperationState::Succeeded);
    } else {
        planner.wait(operation, "its queued jobs end".into());
    }
}

fn node_of<'a>(planner: &Planner<'a, '_>, target: &Target) -> Option<&'a Node> {
    planner.index.snapshot.nodes.get(target.node.as_ref()?)
}

fn step(planner: &Planner<'_, '_>, operation: &Operation, node: &Node, empty: bool) -> String {
    let jobs = planner.index.jobs_on(&node.id);
    match &node.membership {
        _ if !jobs.is_empty() => format!("{} on it", words::list(jobs.iter(), 3)),
        Membership::Member { .. } if !empty => "waits until no job is left on the others".into(),
        Membership::Joining { operation, .. } => format!("{operation} takes it back"),
        Membership::Leaving { operation: by, .. } if *by != operation.id => {
            format!("{by} takes it out")
        }
        _ => "its environment is being removed".into(),
    }
}

/// Nothing has left yet: everything is as before.
fn put_back(planner: &mut Planner<'_, '_>, operation: &Operation, cause: GivenUp) {
    for node in operation
        .targets
        .iter()
        .filter_map(|target| node_of(planner, target))
        .collect::<Vec<_>>()
    {
        planner.put_back(operation, node);
    }
    let states: Vec<_> = operation
        .targets
        .iter()
        .map(|_| failed(format!("back as it was before ({})", cause.words())))
        .collect();
    planner.record(operation, &states);
    planner.set(
        operation,
        match cause {
            GivenUp::Cancelled => OperationState::Cancelled {
                detail: "no node had left; the super node is as it was".into(),
            },
            GivenUp::DeadlinePassed | GivenUp::SuperNodeGoes => OperationState::Failed {
                reason: format!(
                    "{}; no node had left, the super node is as it was",
                    cause.words()
                ),
            },
        },
    );
}

/// The super node is gone.
fn finish(planner: &mut Planner<'_, '_>, operation: &Operation) {
    let states: Vec<_> = operation
        .targets
        .iter()
        .map(|_| TargetState::Done)
        .collect();
    planner.record(operation, &states);
    planner.set(operation, OperationState::Succeeded);
}
