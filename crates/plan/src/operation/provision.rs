//! A target whose node a provisioner makes: wait for the provisioner, for the node to enrol, and for it to be a spare like any other.

use supernode_types::node::{Membership, Node, NodeCondition, SpecMatch};
use supernode_types::operation::{Operation, ProvisionState, Target, TargetState};
use supernode_types::super_node::SuperNode;

use super::{GivenUp, Planner, active, failed};
use crate::{Action, choose};

/// Where a target without a node stands.
pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    target: &'a Target,
    super_node: &SuperNode,
) -> TargetState {
    let provisions = &planner.index.snapshot.provisions;
    let Some(provision) = target.provision.as_ref().and_then(|id| provisions.get(id)) else {
        return failed("there is neither a node nor a provision for it any more");
    };
    match &provision.state {
        ProvisionState::Creating { message } if message.is_empty() => {
            active("the provisioner makes it")
        }
        ProvisionState::Creating { message } => {
            active(format!("the provisioner makes it: {message}"))
        }
        ProvisionState::Failed { reason } => {
            failed(format!("the provisioner could not make it: {reason}"))
        }
        ProvisionState::Deleting { .. } | ProvisionState::Deleted => {
            failed("its provision is being deleted")
        }
        ProvisionState::Created => {
            let Some(node) = &provision.node else {
                return active("the provisioner has made it; its agent has not enrolled yet");
            };
            let Some(node) = planner.index.snapshot.nodes.get(node) else {
                return failed("it enrolled and was removed again");
            };
            if let Some(state) = unfit(planner, node, super_node) {
                return state;
            }
            planner.actions.push(Action::SetTargetNode {
                operation: operation.id.clone(),
                slot: target.slot,
                node: node.id.clone(),
            });
            active("enrolled")
        }
    }
}

/// Why an enrolled node cannot be claimed: for good, or not yet.
fn unfit(planner: &Planner<'_, '_>, node: &Node, super_node: &SuperNode) -> Option<TargetState> {
    if node.membership != Membership::Spare {
        return Some(failed("it was taken for something else"));
    }
    if matches!(
        node.condition,
        NodeCondition::Lost { .. } | NodeCondition::Unknown
    ) || node.spec == SpecMatch::Unknown
    {
        return choose::condition(node)
            .or_else(|| Some("has not reported its hardware yet".into()))
            .map(|why| active(format!("it {why}")));
    }
    let wrong = choose::spec_mismatch(planner.index.snapshot, node, &super_node.spec)
        .or_else(|| choose::misplaced(node, super_node.hyperplane.as_deref()))
        .or_else(|| choose::standing(node));
    if let Some(why) = wrong {
        return Some(failed(format!(
            "it was made, but it {why}; it stays as a spare"
        )));
    }
    choose::condition(node).map(|why| active(format!("it {why}")))
}

/// Where a target without a node ends when the operation is given up: its provision is not wanted any more.
pub(super) fn take_back<'a>(
    planner: &mut Planner<'a, '_>,
    target: &'a Target,
    cause: GivenUp,
) -> TargetState {
    let provisions = &planner.index.snapshot.provisions;
    let Some(provision) = target.provision.as_ref().and_then(|id| provisions.get(id)) else {
        return failed(cause.words());
    };
    if provision.node.is_some() {
        return failed(format!(
            "{}; it had enrolled and stays as a spare",
            cause.words()
        ));
    }
    if matches!(
        provision.state,
        ProvisionState::Creating { .. } | ProvisionState::Created
    ) {
        let state = ProvisionState::Deleting {
            message: String::new(),
        };
        planner.actions.push(Action::SetProvision {
            provision: provision.id.clone(),
            state,
        });
    }
    failed(format!(
        "{}; it had not enrolled, and the provisioner deletes it",
        cause.words()
    ))
}
