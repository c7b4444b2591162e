//! Provisions: what provisioners were asked for.

use supernode_types::operation::Provision;
use supernode_types::{NodeId, ProvisionId};

use crate::{StoreError, Tx, Value, params, record};

/// Stores a new provision.
pub fn provision_insert(tx: &mut Tx<'_>, provision: &Provision) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO provision (id, operation, state, node, record) VALUES ($1, $2, $3, $4, $5)",
        params![
            provision.id.as_str(),
            provision.operation.as_str(),
            provision.state.word(),
            provision.node.as_ref().map(NodeId::as_str),
            Value::json(provision)?
        ],
    )?;
    Ok(())
}

/// Stores a changed provision.
pub fn provision_update(tx: &mut Tx<'_>, provision: &Provision) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE provision SET state = $2, node = $3, record = $4 WHERE id = $1",
        params![
            provision.id.as_str(),
            provision.state.word(),
            provision.node.as_ref().map(NodeId::as_str),
            Value::json(provision)?
        ],
    )?;
    Ok(())
}

/// The provision with this id.
pub fn provision_get(tx: &mut Tx<'_>, id: &ProvisionId) -> Result<Option<Provision>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM provision WHERE id = $1",
        params![id.as_str()],
    )?)
}

/// Provisions that still matter to the loop: those that wait for the provisioner, those of an open operation, and those that made
/// a node which is being removed.
pub fn provision_list_open(tx: &mut Tx<'_>) -> Result<Vec<Provision>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM provision
         WHERE state IN ('creating', 'deleting')
            OR operation IN (SELECT id FROM operation WHERE state = 'running')
            OR (node IS NOT NULL AND node IN (SELECT id FROM node WHERE policy = 'draining'))
         ORDER BY id",
        params![],
    )?)
}
