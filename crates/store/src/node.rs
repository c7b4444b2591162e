//! Nodes and their inventories.

use supernode_types::inventory::Inventory;
use supernode_types::node::Node;
use supernode_types::{JoinTokenId, Name, NodeId, SuperNodeId, Timestamp};

use crate::{StoreError, Tx, Value, params, record};

/// How a node came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOrigin {
    /// The machine that it enrolled from.
    pub machine_id: String,
    /// The join token that it enrolled with first.
    pub join_token: JoinTokenId,
}

/// Stores a new node.
pub fn node_insert(tx: &mut Tx<'_>, node: &Node, origin: &NodeOrigin) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO node (id, name, machine_id, join_token, membership, super_node, policy, condition, health, desired_generation, generation, record)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        params![
            node.id.as_str(), node.name.as_str(), origin.machine_id.as_str(), origin.join_token.as_str(), node.membership.word(), node.membership.super_node().map(SuperNodeId::as_str),
            node.policy.word(), node.condition.word(), node.health.word(), node.desired_generation, node.generation, Value::json(node)?
        ],
    )?;
    Ok(())
}

/// Stores a changed node and increases its generation.
pub fn node_update(tx: &mut Tx<'_>, node: &mut Node) -> Result<(), StoreError> {
    let before = node.generation;
    node.generation += 1;
    let rows = tx.execute(
        "UPDATE node SET name = $3, membership = $4, super_node = $5, policy = $6, condition = $7, health = $8, desired_generation = $9, generation = $10, record = $11
         WHERE id = $1 AND generation = $2",
        params![
            node.id.as_str(), before, node.name.as_str(), node.membership.word(), node.membership.super_node().map(SuperNodeId::as_str),
            node.policy.word(), node.condition.word(), node.health.word(), node.desired_generation, node.generation, Value::json(node)?
        ],
    )?;
    record::changed(rows, "node")
}

/// The node with this id, also a removed one.
pub fn node_get(tx: &mut Tx<'_>, id: &NodeId) -> Result<Option<Node>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM node WHERE id = $1",
        params![id.as_str()],
    )?)
}

/// The node with this id, or the one in service with this name.
pub fn node_find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Option<Node>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM node WHERE id = $1 OR (name = $1 AND policy <> 'removed')",
        params![id_or_name],
    )?)
}

/// The node in service with this name.
pub fn node_find_named(tx: &mut Tx<'_>, name: &Name) -> Result<Option<Node>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM node WHERE name = $1 AND policy <> 'removed'",
        params![name.as_str()],
    )?)
}

/// How a node came.
pub fn node_origin(tx: &mut Tx<'_>, id: &NodeId) -> Result<NodeOrigin, StoreError> {
    let row = tx.query_one(
        "SELECT machine_id, join_token FROM node WHERE id = $1",
        params![id.as_str()],
    )?;
    Ok(NodeOrigin {
        machine_id: row.get("machine_id")?,
        join_token: record::parsed(&row, "join_token")?,
    })
}

/// All nodes that were not removed, by name.
pub fn node_list(tx: &mut Tx<'_>) -> Result<Vec<Node>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM node WHERE policy <> 'removed' ORDER BY name, id",
        params![],
    )?)
}

/// Removed nodes, by name.
pub fn node_list_removed(tx: &mut Tx<'_>) -> Result<Vec<Node>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM node WHERE policy = 'removed' ORDER BY name, id",
        params![],
    )?)
}

/// All nodes of a super node, also joining and leaving ones, by name.
pub fn node_list_of(tx: &mut Tx<'_>, super_node: &SuperNodeId) -> Result<Vec<Node>, StoreError> {
    record::all(&tx.query(
        "SELECT record FROM node WHERE super_node = $1 ORDER BY name, id",
        params![super_node.as_str()],
    )?)
}

/// Stores what an agent discovered.
pub fn inventory_put(
    tx: &mut Tx<'_>,
    node: &NodeId,
    inventory: &Inventory,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO node_inventory (node, inventory, observed_at) VALUES ($1, $2, $3)
         ON CONFLICT (node) DO UPDATE SET inventory = excluded.inventory, observed_at = excluded.observed_at",
        params![node.as_str(), Value::json(inventory)?, now.0],
    )?;
    Ok(())
}

/// What an agent discovered last.
pub fn inventory_get(tx: &mut Tx<'_>, node: &NodeId) -> Result<Option<Inventory>, StoreError> {
    tx.query_optional(
        "SELECT inventory FROM node_inventory WHERE node = $1",
        params![node.as_str()],
    )?
    .map(|row| row.json("inventory"))
    .transpose()
}
