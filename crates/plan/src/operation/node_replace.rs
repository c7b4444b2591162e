//! A spare takes the place of a member.
//!
//! ```text
//!  spare --as in a scale-up--> member = Done --> the other is drained --as in a scale-down--> spare = Done
//!  spare --as in a scale-up--> Failed --> the other stays as it is = Failed
//! ```
//! The super node is never smaller than before. When the member cannot leave in time both stay, and people are told.

use supernode_types::node::NodeHealth;
use supernode_types::operation::{Admission, Operation, OperationState, Target, TargetState};
use supernode_types::stress::ReplacementTry;

use super::{GivenUp, Planner, active, drained_by, failed, scale_down, scale_up};
use crate::Action;
use crate::replacement::PAUSE;

pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    admission: Admission,
) {
    let [newcomer, leaver] = &operation.targets[..] else {
        let reason = "it has not the two targets that a replacement has".into();
        planner.set(operation, OperationState::Failed { reason });
        return;
    };
    let (super_node, given_up) = scale_up::prospects(planner, operation);
    let joins = scale_up::advance(
        planner, operation, newcomer, super_node, given_up, admission,
    );
    let leaving = match (&joins, &leaver.state) {
        (TargetState::Active { .. }, TargetState::Active { .. }) => {
            active("a spare joins in its place first")
        }
        (TargetState::Failed { .. }, TargetState::Active { .. }) => {
            failed("it stays, because no spare joined in its place")
        }
        (TargetState::Done, TargetState::Active { .. }) => {
            leave(planner, operation, leaver, given_up)
        }
        (_, ended) => ended.clone(),
    };
    let states = [joins, leaving];
    planner.record(operation, &states);
    if let Some(waits_for) = planner.waits_for(operation, &states) {
        planner.wait(operation, waits_for);
        return;
    }
    if states[1] != TargetState::Done {
        note(planner, operation, leaver, &states[0]);
    }
    let failures = planner.failures(operation, &states);
    planner.set(
        operation,
        match given_up {
            _ if failures.is_empty() => OperationState::Succeeded,
            Some(GivenUp::Cancelled) => OperationState::Cancelled { detail: failures },
            Some(cause) => OperationState::Failed {
                reason: format!("{}; {failures}", cause.words()),
            },
            None => OperationState::Failed { reason: failures },
        },
    );
}

/// The member leaves now that another one is there: it is drained first, as a scale-down finds it.
fn leave<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    target: &'a Target,
    given_up: Option<GivenUp>,
) -> TargetState {
    let super_node = operation.super_node.as_ref();
    let waiting = planner.node(target).filter(|node| {
        let member = super_node.is_some_and(|super_node| node.membership.member_of(super_node));
        member && !drained_by(node, operation)
    });
    let (Some(node), None) = (waiting, given_up) else {
        return scale_down::advance(planner, operation, target, given_up);
    };
    match planner.drain(operation, node) {
        Ok(()) => active("it is being drained"),
        Err(waits) => active(waits),
    }
}

/// Writes down that a member that has to leave is still there.
fn note(
    planner: &mut Planner<'_, '_>,
    operation: &Operation,
    leaver: &Target,
    spare: &TargetState,
) {
    let sick = planner
        .node(leaver)
        .filter(|node| matches!(node.health, NodeHealth::Quarantined { .. }));
    let Some(node) = sick.map(|node| node.id.clone()) else {
        return;
    };
    let tried = match spare {
        TargetState::Done => ReplacementTry::Joined {
            operation: operation.id.clone(),
        },
        TargetState::Active { .. } | TargetState::Failed { .. } => ReplacementTry::Failed {
            again_at: planner.index.snapshot.now.plus(PAUSE),
        },
    };
    planner.actions.push(Action::SetReplacement { node, tried });
}
