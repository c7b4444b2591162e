//! Cancelling operations. What a cancel takes back is the planner's business; here it is only written down.

use supernode_store::Tx;
use supernode_store::operation::{OperationRecord, operation_get, operation_update};
use supernode_types::OperationId;

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
        return Err(Refusal::Conflict(format!("operation {id} has ended already ({})", record.operation.state.word())));
    }
    if !record.operation.cancel_requested {
        record.operation.cancel_requested = true;
        operation_update(tx, &mut record.operation)?;
    }
    Ok(record)
}
