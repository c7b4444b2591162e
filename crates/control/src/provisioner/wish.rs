//! The database's half of a call to a provisioner: which wishes are due, the join token of a new node, and what an answer means. The
//! simulation runs this half with a provisioner of its own.

use std::time::Duration;

use supernode_store::provision::{provision_get, provision_update};
use supernode_store::super_node::super_node_get;
use supernode_store::token::{JoinTokenRecord, join_token_insert};
use supernode_store::{StoreError, Tx};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::node::Position;
use supernode_types::operation::{Provision, ProvisionState};
use supernode_types::{JoinTokenId, ProvisionId, Timestamp};

use super::{ProvisionAction, ProvisionAnswer};

/// What a wish for a node asks of the provisioner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeAction {
    /// Make the node.
    Create,
    /// Take it away.
    Delete,
}

impl From<NodeAction> for ProvisionAction {
    fn from(action: NodeAction) -> Self {
        match action {
            NodeAction::Create => Self::Create,
            NodeAction::Delete => Self::Delete,
        }
    }
}

/// How often a provisioner that fails is called before a wish for a node is given up. A deletion is never given up.
pub(super) const MAXIMUM_CALLS: u32 = 6;
/// How long a new node has to enrol after the first call.
const JOIN_TOKEN_LIFETIME: Duration = Duration::from_hours(24);
/// When to ask again after an answer that is still to come.
pub(super) const PENDING_PERIOD: Duration = Duration::from_secs(2);

/// Whether the provisioner has to be called for a wish now.
pub fn is_due(provision: &Provision, now: Timestamp) -> bool {
    let waits = matches!(
        provision.state,
        ProvisionState::Creating { .. } | ProvisionState::Deleting { .. }
    );
    waits && provision.next_call_at <= now
}

/// What it has to be asked for.
pub fn action(wish: &Provision) -> NodeAction {
    match wish.state {
        ProvisionState::Creating { .. } => NodeAction::Create,
        _ => NodeAction::Delete,
    }
}

/// Whether what is wanted is still the same.
pub(super) fn same_wish(present: &Provision, wish: &Provision) -> bool {
    std::mem::discriminant(&present.state) == std::mem::discriminant(&wish.state)
}

/// A join token for the node of a wish; none when the node is not wanted any more.
pub fn token_insert(
    tx: &mut Tx<'_>,
    id: &JoinTokenId,
    provision: &ProvisionId,
    secret_hash: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let found = provision_get(tx, provision)?;
    let Some(wish) = found.filter(|wish| action(wish) == NodeAction::Create) else {
        return Ok(false);
    };
    let super_node = super_node_get(tx, &wish.super_node)?;
    let token = JoinTokenRecord {
        id: id.clone(),
        uses_left: 1,
        expires_at: now.plus(JOIN_TOKEN_LIFETIME),
        revoked_at: None,
        labels: [("provision".to_owned(), provision.to_string())].into(),
        // Where it was ordered; what the node's own hardware says beats it.
        position: Position {
            hyperplane: super_node.and_then(|super_node| super_node.hyperplane),
            ..Position::default()
        },
        provision: Some(provision.clone()),
        created_at: now,
    };
    join_token_insert(tx, &token, secret_hash)?;
    Ok(true)
}

/// Writes an answer down, unless the wish is another one by now.
pub fn record(
    tx: &mut Tx<'_>,
    wish: &Provision,
    action: NodeAction,
    answer: &ProvisionAnswer,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut provision) = provision_get(tx, &wish.id)? else {
        return Ok(());
    };
    if !same_wish(&provision, wish) {
        // It enrolled, or it was cancelled, while the provisioner was being asked: what counts now is what came meanwhile.
        return Ok(());
    }
    judge(&mut provision, action, answer, now);
    provision_update(tx, &provision)?;
    let ProvisionState::Failed { reason } = &provision.state else {
        return Ok(());
    };
    let message = match action {
        NodeAction::Create => format!("{} could not be made: {reason}", provision.node_name),
        NodeAction::Delete => format!(
            "{} was not deleted by its provisioner and may still run: {reason}",
            provision.node_name
        ),
    };
    let event = NewEvent {
        kind: "provision.failed",
        severity: Severity::Error,
        message,
        subjects: Subjects {
            node: provision.node.clone(),
            super_node: Some(provision.super_node.clone()),
            operation: Some(provision.operation.clone()),
            ..Subjects::default()
        },
    };
    crate::notify::tell(tx, &event, now)
}

/// What an answer makes of a provision.
fn judge(provision: &mut Provision, action: NodeAction, answer: &ProvisionAnswer, now: Timestamp) {
    let waiting = |message: String| match action {
        NodeAction::Create => ProvisionState::Creating { message },
        NodeAction::Delete => ProvisionState::Deleting { message },
    };
    match answer {
        ProvisionAnswer::Done => {
            provision.state = match action {
                NodeAction::Create => ProvisionState::Created,
                NodeAction::Delete => ProvisionState::Deleted,
            };
        }
        ProvisionAnswer::Pending(message) => {
            provision.state = waiting(message.clone());
            provision.next_call_at = now.plus(PENDING_PERIOD);
        }
        ProvisionAnswer::Retry(reason) => {
            provision.calls += 1;
            let calls = provision.calls;
            if calls >= MAXIMUM_CALLS && action == NodeAction::Create {
                let reason = format!("{reason} ({calls} calls)");
                provision.state = ProvisionState::Failed { reason };
            } else {
                provision.state = waiting(format!("call {calls} failed: {reason}"));
                provision.next_call_at = now.plus(back_off(calls));
            }
        }
        ProvisionAnswer::Refused(reason) => {
            let reason = reason.clone();
            provision.state = ProvisionState::Failed { reason };
        }
    }
}

/// 1, 2, 4, … seconds, at most five minutes.
pub(super) fn back_off(calls: u32) -> Duration {
    Duration::from_secs(1 << calls.saturating_sub(1).min(8)).min(Duration::from_mins(5))
}
