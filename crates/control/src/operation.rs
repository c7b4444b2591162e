//! Beginning and cancelling operations. What a cancel takes back is the planner's business; here it is only written down.

use std::time::Duration;

use supernode_store::Tx;
use supernode_store::operation::{OperationRecord, operation_get, operation_update};
use supernode_types::operation::{Operation, OperationKind, OperationState, Target, TargetState};
use supernode_types::{Entropy, NodeId, OperationId, ProvisionId, SuperNodeId, Timestamp};

use crate::{Intent, Refusal};

/// The operation with this id.
pub fn find(tx: &mut Tx<'_>, id: &str) -> Result<OperationRecord, Refusal> {
    let missing = || Refusal::not_found("operation", "operation", id);
    let id: OperationId = id.parse().map_err(|_| missing())?;
    operation_get(tx, &id)?.ok_or_else(missing)
}

/// Asks to cancel an operation; asking again changes nothing.
pub fn cancel(tx: &mut Tx<'_>, intent: &Intent, id: &str) -> Result<OperationRecord, Refusal> {
    let mut record = find(tx, id)?;
    intent.check_generation("operation", id, record.operation.generation)?;
    if record.operation.state.ended() {
        return Err(Refusal::Conflict(format!(
            "operation {id} has ended already ({})",
            record.operation.state.word()
        )));
    }
    if !record.operation.cancel_requested {
        record.operation.cancel_requested = true;
        operation_update(tx, &mut record.operation)?;
    }
    Ok(record)
}

/// An operation that a request begins, with its targets to come.
pub(crate) fn begin(
    intent: &Intent,
    kind: OperationKind,
    super_node: Option<SuperNodeId>,
    deadline: Duration,
) -> Operation {
    begin_at(
        intent.now,
        &*intent.entropy,
        intent.actor.clone(),
        kind,
        super_node,
        deadline,
    )
}

/// An operation that somebody or something begins, with its targets to come.
pub(crate) fn begin_at(
    now: Timestamp,
    entropy: &dyn Entropy,
    actor: String,
    kind: OperationKind,
    super_node: Option<SuperNodeId>,
    deadline: Duration,
) -> Operation {
    Operation {
        id: OperationId::new(now, entropy),
        kind,
        super_node,
        state: OperationState::Running {
            waits_for: "the loop".into(),
        },
        targets: Vec::new(),
        actor,
        deadline: now.plus(deadline),
        cancel_requested: false,
        generation: 1,
        created_at: now,
        ended_at: None,
    }
}

/// Adds a target in the next slot.
pub(crate) fn add_target(
    operation: &mut Operation,
    node: Option<NodeId>,
    provision: Option<ProvisionId>,
    chosen_because: impl Into<String>,
) {
    let slot = u32::try_from(operation.targets.len()).expect("fewer than 2^32 targets");
    operation.targets.push(Target {
        slot,
        node,
        provision,
        chosen_because: chosen_because.into(),
        state: TargetState::Active {
            step: "accepted".into(),
        },
        steps: Vec::new(),
    });
}
