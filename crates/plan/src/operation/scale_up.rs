//! Adding nodes, also the first ones of a new super node.
//!
//! ```text
//!  provision --enrolled, fits (loop)--> spare --claim (loop)--> joining --environment applied, admitted (loop)--> member = Done
//!  joining --cancel | deadline | not admitted (loop)--> leaving --cleaned (loop)--> spare = Failed
//! ```
//! Nodes that have joined stay whatever happens to the others. A super node that is left without any node
//! in the end, because nothing of its creation came true, is deleted.

use supernode_types::node::{Membership, Node, NodeCondition, NodeHealth};
use supernode_types::operation::{
    Admission, Operation, OperationKind, OperationState, Target, TargetState,
};
use supernode_types::super_node::SuperNode;

use super::admission::{self, Verdict};
use super::{GivenUp, Planner, active, failed, leaves_by, provision, step_of};
use crate::{Action, choose, words};

pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    admission: Admission,
) {
    let (super_node, given_up) = prospects(planner, operation);
    let mut states = Vec::with_capacity(operation.targets.len());
    for target in &operation.targets {
        states.push(advance(
            planner, operation, target, super_node, given_up, admission,
        ));
    }
    planner.record(operation, &states);
    if let Some(waits_for) = planner.waits_for(operation, &states) {
        planner.wait(operation, waits_for);
        return;
    }
    let failures = planner.failures(operation, &states);
    if given_up.is_none() && failures.is_empty() {
        settle(planner, operation, super_node);
        return;
    }
    if let Some(super_node) = super_node.filter(|super_node| super_node.deleting.is_none()) {
        let nodes = planner.index.nodes_of(&super_node.id);
        if nodes.iter().any(|node| leaves_by(node, operation)) {
            planner.wait(operation, "the last node is released".into());
            return;
        }
        if nodes.is_empty() {
            // One that still adds nodes may claim one in this very pass, and deletes the super node itself if none comes.
            let waits_for = match still_adds(planner, operation, super_node) {
                Some(_) if given_up.is_some() => None,
                Some(other) => Some(format!("{} still adds nodes", other.id)),
                None => (!planner.delete_super_node(operation, super_node))
                    .then(|| format!("jobs of super node {} end", super_node.name)),
            };
            if let Some(waits_for) = waits_for {
                planner.wait(operation, waits_for);
                return;
            }
        }
    }
    let tally = Planner::tally(&states, "joined");
    let because = if failures.is_empty() {
        String::new()
    } else {
        format!("; {failures}")
    };
    planner.set(
        operation,
        match given_up {
            Some(GivenUp::Cancelled) => OperationState::Cancelled {
                detail: format!("{tally} and stay{because}"),
            },
            Some(cause) if failures.is_empty() => {
                // All have joined; at most the others do not know it yet.
                let lagging = super_node
                    .map(|super_node| lagging(planner, super_node).0)
                    .unwrap_or_default();
                if lagging.is_empty() {
                    OperationState::Succeeded
                } else {
                    OperationState::Failed {
                        reason: format!(
                            "{}; {tally}; {}",
                            cause.words(),
                            words::list(lagging.iter(), 3)
                        ),
                    }
                }
            }
            Some(cause) => OperationState::Failed {
                reason: format!("{}; {tally}{because}", cause.words()),
            },
            None => OperationState::Failed {
                reason: format!("{tally}{because}"),
            },
        },
    );
}

/// The super node that nodes are added to, and why they are not any more.
pub(super) fn prospects<'a>(
    planner: &Planner<'a, '_>,
    operation: &Operation,
) -> (Option<&'a SuperNode>, Option<GivenUp>) {
    let super_nodes = &planner.index.snapshot.super_nodes;
    let id = operation.super_node.as_ref();
    let super_node = id.and_then(|id| super_nodes.get(id));
    let going = super_node.is_none_or(|super_node| super_node.deleting.is_some());
    let given_up = planner.given_up(operation);
    (
        super_node,
        given_up.or(going.then_some(GivenUp::SuperNodeGoes)),
    )
}

/// Where a node that is added stands now.
pub(super) fn advance<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    target: &'a Target,
    super_node: Option<&SuperNode>,
    given_up: Option<GivenUp>,
    admission: Admission,
) -> TargetState {
    match (&target.state, given_up, super_node) {
        (TargetState::Active { .. }, None, Some(super_node)) => {
            forward(planner, operation, target, super_node, admission)
        }
        (TargetState::Active { .. }, cause, _) => {
            let cause = cause.unwrap_or(GivenUp::SuperNodeGoes);
            take_back(planner, operation, target, cause)
        }
        (ended, ..) => ended.clone(),
    }
}

/// Another operation that can still claim a node for the super node.
fn still_adds<'a>(
    planner: &Planner<'a, '_>,
    operation: &Operation,
    super_node: &SuperNode,
) -> Option<&'a Operation> {
    let others = planner.index.snapshot.operations.values();
    let mut adding = others.filter(|other| {
        other.id != operation.id
            && other.super_node.as_ref() == Some(&super_node.id)
            && !other.state.ended()
            && matches!(
                other.kind,
                OperationKind::SuperNodeCreate
                    | OperationKind::ScaleUp { .. }
                    | OperationKind::NodeReplace { .. }
            )
            && planner.given_up(other).is_none()
    });
    adding.find(|other| {
        let targets = &mut other.targets.iter();
        targets.any(|target| matches!(target.state, TargetState::Active { .. }))
    })
}

/// Ends in success once every other member that can knows of the new ones.
fn settle(planner: &mut Planner<'_, '_>, operation: &Operation, super_node: Option<&SuperNode>) {
    let (lagging, excused) = super_node
        .map(|super_node| lagging(planner, super_node))
        .unwrap_or_default();
    if lagging.is_empty() {
        planner.set(operation, OperationState::Succeeded);
        return;
    }
    let mut line = words::list(lagging.iter(), 3);
    if !excused.is_empty() {
        line = format!(
            "{line} (not waited for: {})",
            words::list(excused.iter(), 3)
        );
    }
    planner.wait(operation, line);
}

/// Ready members that have not applied the environment that lists the new ones, and members that are not waited for.
fn lagging(planner: &Planner<'_, '_>, super_node: &SuperNode) -> (Vec<String>, Vec<String>) {
    let (mut lagging, mut excused) = (Vec::new(), Vec::new());
    for node in planner
        .index
        .nodes_of(&super_node.id)
        .iter()
        .filter(|node| node.membership.member_of(&super_node.id))
    {
        let behind = node.environment_applied < super_node.environment_generation;
        match node.condition {
            NodeCondition::Ready if behind => lagging.push(format!(
                "node {} applies the new list of members",
                node.name
            )),
            NodeCondition::Lost { .. } | NodeCondition::Degraded { .. } if behind => {
                excused.push(format!("node {} is {}", node.name, node.condition.word()));
            }
            _ => {}
        }
    }
    (lagging, excused)
}

fn forward<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    target: &'a Target,
    super_node: &SuperNode,
    admission: Admission,
) -> TargetState {
    if target.node.is_none() {
        return provision::plan(planner, operation, target, super_node);
    }
    let Some(node) = planner.node(target) else {
        return failed("it was removed");
    };
    match &node.membership {
        Membership::Spare => claim(planner, operation, node, super_node),
        Membership::Joining { operation: by, .. } if *by == operation.id => {
            join(planner, operation, node, super_node, admission)
        }
        Membership::Member { super_node: found } if *found == super_node.id => TargetState::Done,
        Membership::Leaving { .. } if leaves_by(node, operation) => {
            leaving(planner, operation, target, node)
        }
        Membership::Joining { .. } | Membership::Member { .. } | Membership::Leaving { .. } => {
            failed("it was taken for something else")
        }
    }
}

fn claim<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    node: &'a Node,
    super_node: &SuperNode,
) -> TargetState {
    if let Some(why) = choose::standing(node) {
        return failed(format!("it {why}"));
    }
    if matches!(node.condition, NodeCondition::Ready) {
        let wrong = choose::spec_mismatch(planner.index.snapshot, node, &super_node.spec)
            .or_else(|| choose::misplaced(node, super_node.hyperplane.as_deref()));
        if let Some(why) = wrong {
            return failed(format!("it {why}"));
        }
    }
    if let Some(why) = choose::condition(node) {
        return active(format!("it {why}"));
    }
    if !planner.claimed.insert(&node.id) {
        return active("another operation claims it");
    }
    planner.actions.push(Action::Claim {
        node: node.id.clone(),
        super_node: super_node.id.clone(),
        operation: operation.id.clone(),
    });
    active("gets the environment and the list of members")
}

fn join<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    node: &'a Node,
    super_node: &SuperNode,
    admission: Admission,
) -> TargetState {
    if let NodeHealth::Quarantined { finding } = &node.health {
        return active(format!("it is quarantined: {finding}"));
    }
    match &node.condition {
        NodeCondition::Ready if node.environment_applied >= super_node.environment_generation => {
            match admission::plan(planner, operation, node, admission) {
                Verdict::Admitted => {
                    planner.actions.push(Action::Join {
                        node: node.id.clone(),
                    });
                    TargetState::Done
                }
                Verdict::NotYet(step) => active(step),
                Verdict::Refused(why) => {
                    leave(planner, operation, node);
                    active(why)
                }
            }
        }
        NodeCondition::Ready => active("gets the environment and the list of members"),
        NodeCondition::Joining { step } => active(step.as_str()),
        NodeCondition::Degraded { why } => active(why.as_str()),
        NodeCondition::Lost { .. } => active("it is lost: its agent is silent"),
        NodeCondition::Unknown => active("it has not reported yet"),
    }
}

fn take_back<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    target: &'a Target,
    cause: GivenUp,
) -> TargetState {
    if target.node.is_none() {
        return provision::take_back(planner, target, cause);
    }
    let waited = |target: &Target| match step_of(target) {
        "" => cause.words().to_owned(),
        step => format!("{}; it waited for this: {step}", cause.words()),
    };
    let Some(node) = planner.node(target) else {
        return failed("it was removed");
    };
    match &node.membership {
        Membership::Spare => failed(waited(target)),
        Membership::Joining { operation: by, .. } if *by == operation.id => {
            if let Some(step) = admission::take_back(planner, operation, node, cause) {
                return active(step);
            }
            leave(planner, operation, node);
            active(waited(target))
        }
        Membership::Member { super_node } if operation.super_node.as_ref() == Some(super_node) => {
            TargetState::Done
        }
        Membership::Leaving { .. } if leaves_by(node, operation) => {
            leaving(planner, operation, target, node)
        }
        Membership::Joining { .. } | Membership::Member { .. } | Membership::Leaving { .. } => {
            failed("it was taken for something else")
        }
    }
}

fn leave(planner: &mut Planner<'_, '_>, operation: &Operation, node: &Node) {
    planner.actions.push(Action::Leave {
        node: node.id.clone(),
        operation: operation.id.clone(),
    });
}

/// A node that is being taken back; its step says why.
fn leaving(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    target: &Target,
    node: &Node,
) -> TargetState {
    if planner.release(operation, node) {
        failed(step_of(target))
    } else {
        target.state.clone()
    }
}
