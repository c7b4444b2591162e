//! Super nodes.

use supernode_types::SuperNodeId;
use supernode_types::super_node::SuperNode;

use crate::{StoreError, Tx, Value, params, record};

/// Stores a new super node.
pub fn super_node_insert(tx: &mut Tx<'_>, super_node: &SuperNode) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO super_node (id, name, spec, generation, record) VALUES ($1, $2, $3, $4, $5)",
        params![
            super_node.id.as_str(),
            super_node.name.as_str(),
            super_node.spec.as_str(),
            super_node.generation,
            Value::json(super_node)?
        ],
    )?;
    Ok(())
}

/// Stores a changed super node and increases its generation.
pub fn super_node_update(tx: &mut Tx<'_>, super_node: &mut SuperNode) -> Result<(), StoreError> {
    let before = super_node.generation;
    super_node.generation += 1;
    let rows = tx.execute(
        "UPDATE super_node SET name = $3, generation = $4, record = $5 WHERE id = $1 AND generation = $2",
        params![super_node.id.as_str(), before, super_node.name.as_str(), super_node.generation, Value::json(super_node)?],
    )?;
    record::changed(rows, "super_node")
}

/// The super node with this id.
pub fn super_node_get(tx: &mut Tx<'_>, id: &SuperNodeId) -> Result<Option<SuperNode>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM super_node WHERE id = $1",
        params![id.as_str()],
    )?)
}

/// The super node with this id or name.
pub fn super_node_find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Option<SuperNode>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM super_node WHERE id = $1 OR name = $1",
        params![id_or_name],
    )?)
}

/// All super nodes by name.
pub fn super_node_list(tx: &mut Tx<'_>) -> Result<Vec<SuperNode>, StoreError> {
    record::all(&tx.query("SELECT record FROM super_node ORDER BY name", params![])?)
}

/// Removes a super node that no node belongs to.
pub fn super_node_delete(tx: &mut Tx<'_>, id: &SuperNodeId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM environment_revision WHERE super_node = $1",
        params![id.as_str()],
    )?;
    tx.execute("DELETE FROM super_node WHERE id = $1", params![id.as_str()])?;
    Ok(())
}
