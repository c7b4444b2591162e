//! Operations.

use supernode_types::operation::Operation;
use supernode_types::{Name, OperationId, SuperNodeId};

use crate::{Row, StoreError, Tx, Value, params, record};

/// An operation with the name that its super node had when it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// The operation.
    pub operation: Operation,
    /// The super node's name.
    pub super_node_name: Option<Name>,
}

fn read(row: &Row) -> Result<OperationRecord, StoreError> {
    let super_node_name = row
        .get::<Option<String>>("super_node_name")?
        .and_then(|name| name.parse().ok());
    Ok(OperationRecord {
        operation: record::one(row)?,
        super_node_name,
    })
}

/// Stores a new operation.
pub fn operation_insert(
    tx: &mut Tx<'_>,
    operation: &Operation,
    super_node_name: Option<&Name>,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO operation (id, kind, super_node, super_node_name, state, generation, created_at, record) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![
            operation.id.as_str(), operation.kind.word(), operation.super_node.as_ref().map(SuperNodeId::as_str), super_node_name.map(Name::as_str),
            operation.state.word(), operation.generation, operation.created_at.0, Value::json(operation)?
        ],
    )?;
    Ok(())
}

/// Stores a changed operation and increases its generation.
pub fn operation_update(tx: &mut Tx<'_>, operation: &mut Operation) -> Result<(), StoreError> {
    let before = operation.generation;
    operation.generation += 1;
    let rows = tx.execute(
        "UPDATE operation SET state = $3, generation = $4, record = $5 WHERE id = $1 AND generation = $2",
        params![operation.id.as_str(), before, operation.state.word(), operation.generation, Value::json(operation)?],
    )?;
    record::changed(rows, "operation")
}

/// The operation with this id.
pub fn operation_get(
    tx: &mut Tx<'_>,
    id: &OperationId,
) -> Result<Option<OperationRecord>, StoreError> {
    tx.query_optional(
        "SELECT record, super_node_name FROM operation WHERE id = $1",
        params![id.as_str()],
    )?
    .as_ref()
    .map(read)
    .transpose()
}

/// Operations that have not ended, oldest first.
pub fn operation_list_running(tx: &mut Tx<'_>) -> Result<Vec<OperationRecord>, StoreError> {
    tx.query(
        "SELECT record, super_node_name FROM operation WHERE state = 'running' ORDER BY id",
        params![],
    )?
    .iter()
    .map(read)
    .collect()
}

/// Operations of one kind, newest first, before `cursor`.
pub fn operation_list_of_kind(
    tx: &mut Tx<'_>,
    kind: &str,
    super_node: Option<&SuperNodeId>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Vec<OperationRecord>, StoreError> {
    tx.query(
        "SELECT record, super_node_name FROM operation
         WHERE kind = $1 AND (CAST($2 AS TEXT) IS NULL OR super_node = $2) AND (CAST($3 AS TEXT) IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        params![kind, super_node.map(SuperNodeId::as_str), cursor, limit],
    )?
    .iter()
    .map(read)
    .collect()
}

/// Operations, newest first, before `cursor`.
pub fn operation_list(
    tx: &mut Tx<'_>,
    super_node: Option<&SuperNodeId>,
    state: Option<&str>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Vec<OperationRecord>, StoreError> {
    tx.query(
        "SELECT record, super_node_name FROM operation
         WHERE (CAST($1 AS TEXT) IS NULL OR super_node = $1) AND (CAST($2 AS TEXT) IS NULL OR state = $2) AND (CAST($3 AS TEXT) IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        params![super_node.map(SuperNodeId::as_str), state, cursor, limit],
    )?
    .iter()
    .map(read)
    .collect()
}
