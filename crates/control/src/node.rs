//! What operators do to single nodes: cordon, uncordon, label, place, remove.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_store::Tx;
use supernode_store::node::{node_find, node_update};
use supernode_store::provision::{provision_get, provision_update};
use supernode_types::ProvisionId;
use supernode_types::node::{Cordon, Membership, Node, NodePolicy, PolicyRefusal, Position};
use supernode_types::operation::{Operation, OperationKind, ProvisionState};

use crate::intent::{check_labels, check_position};
use crate::round::Round;
use crate::{Intent, Refusal, operation};

/// How long a node may take to be removed: its provisioner has to answer.
const REMOVE_DEADLINE: Duration = Duration::from_mins(15);

/// The node with this name or id.
pub fn find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Node, Refusal> {
    node_find(tx, id_or_name)?.ok_or_else(|| Refusal::not_found("node", "node", id_or_name))
}

fn find_for(tx: &mut Tx<'_>, intent: &Intent, id_or_name: &str) -> Result<Node, Refusal> {
    let node = find(tx, id_or_name)?;
    intent.check_generation("node", node.name.as_str(), node.generation)?;
    Ok(node)
}

fn change_policy(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    change: impl FnOnce(NodePolicy) -> Result<NodePolicy, PolicyRefusal>,
) -> Result<Node, Refusal> {
    let mut node = find_for(tx, intent, id_or_name)?;
    let policy = change(node.policy.clone())
        .map_err(|refusal| Refusal::Conflict(format!("node {}: {refusal}", node.name)))?;
    if policy != node.policy {
        node.policy = policy;
        node_update(tx, &mut node)?;
    }
    Ok(node)
}

/// Keeps new jobs away from a node.
pub fn cordon(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    reason: &str,
) -> Result<Node, Refusal> {
    if reason.trim().is_empty() || reason.len() > 500 || reason.contains(char::is_control) {
        return Err(Refusal::Invalid(
            "a cordon needs a reason of 1 to 500 characters on one line".into(),
        ));
    }
    let cordon = Cordon {
        by: intent.actor.clone(),
        reason: reason.to_owned(),
    };
    change_policy(tx, intent, id_or_name, |policy| policy.cordon(cordon))
}

/// Lets jobs be placed on a node again.
pub fn uncordon(tx: &mut Tx<'_>, intent: &Intent, id_or_name: &str) -> Result<Node, Refusal> {
    change_policy(tx, intent, id_or_name, NodePolicy::uncordon)
}

/// Changes labels or fabric position; a member stays where its super node is.
pub fn update(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id_or_name: &str,
    labels: Option<&BTreeMap<String, String>>,
    position: Option<&Position>,
) -> Result<Node, Refusal> {
    let mut node = find_for(tx, intent, id_or_name)?;
    if let Some(labels) = labels {
        check_labels(labels)?;
        node.labels.clone_from(labels);
    }
    if let Some(position) = position {
        check_position(position)?;
        if node.membership != Membership::Spare && position.hyperplane != node.position.hyperplane {
            return Err(Refusal::Conflict(format!(
                "node {} belongs to a super node, all nodes of which are in one hyperplane; remove it from the super node first",
                node.name
            )));
        }
        node.position = position.clone();
    }
    node_update(tx, &mut node)?;
    Ok(node)
}

/// Starts to take a spare out for good.
pub fn remove(tx: &mut Tx<'_>, intent: &Intent, id_or_name: &str) -> Result<Operation, Refusal> {
    let node = find_for(tx, intent, id_or_name)?;
    if node.membership != Membership::Spare {
        return Err(Refusal::Conflict(format!(
            "node {} belongs to a super node; scale it down first (supernode super-node scale-down … --node {})",
            node.name, node.name
        )));
    }
    let mut operation = operation::begin(intent, OperationKind::NodeRemove, None, REMOVE_DEADLINE);
    let provision = node.provision.clone();
    operation::add_target(
        &mut operation,
        Some(node.id.clone()),
        provision,
        "named in the request",
    );
    if let Some(provision) = &node.provision {
        ask_again(tx, provision)?;
    }
    let mut round = Round::of(tx, intent)?;
    round.drain(&node.id, &operation.id)?;
    round.insert_operation(operation.clone())?;
    round.finish()?;
    Ok(operation)
}

/// A provisioner that failed before gets another chance: its node is there, whatever it said.
fn ask_again(tx: &mut Tx<'_>, id: &ProvisionId) -> Result<(), Refusal> {
    if let Some(mut provision) = provision_get(tx, id)?
        && matches!(provision.state, ProvisionState::Failed { .. })
    {
        provision.state = ProvisionState::Created;
        provision_update(tx, &provision)?;
    }
    Ok(())
}
