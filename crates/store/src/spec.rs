//! Declared specs.

use supernode_types::spec::SpecDefinition;
use supernode_types::{Generation, Name, SpecId, Timestamp};

use crate::{Row, StoreError, Tx, Value, params, record};

/// A declared spec.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecRecord {
    /// Its id.
    pub id: SpecId,
    /// Its name.
    pub name: Name,
    /// What a node must have.
    pub definition: SpecDefinition,
    /// The most nodes of it in one super node.
    pub maximum_nodes: u32,
    /// The largest system disk of a node of it, in GiB.
    pub maximum_disk_gib: u32,
    /// Increases with every change.
    pub generation: Generation,
    /// When it was declared.
    pub created_at: Timestamp,
}

fn read(row: &Row) -> Result<SpecRecord, StoreError> {
    Ok(SpecRecord {
        id: record::parsed(row, "id")?,
        name: record::parsed(row, "name")?,
        definition: row.json("definition")?,
        maximum_nodes: row.get("maximum_nodes")?,
        maximum_disk_gib: row.get("maximum_disk_gib")?,
        generation: row.get("generation")?,
        created_at: Timestamp(row.get("created_at")?),
    })
}

/// Stores a new spec.
pub fn spec_insert(tx: &mut Tx<'_>, spec: &SpecRecord) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO spec (id, name, maximum_nodes, maximum_disk_gib, generation, definition, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![spec.id.as_str(), spec.name.as_str(), spec.maximum_nodes, spec.maximum_disk_gib, spec.generation, Value::json(&spec.definition)?, spec.created_at.0],
    )?;
    Ok(())
}

/// All specs by name.
pub fn spec_list(tx: &mut Tx<'_>) -> Result<Vec<SpecRecord>, StoreError> {
    tx.query("SELECT * FROM spec ORDER BY name", params![])?
        .iter()
        .map(read)
        .collect()
}

/// The spec with this id or name.
pub fn spec_find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Option<SpecRecord>, StoreError> {
    tx.query_optional(
        "SELECT * FROM spec WHERE id = $1 OR name = $1",
        params![id_or_name],
    )?
    .as_ref()
    .map(read)
    .transpose()
}

/// Removes a spec; a super node that uses it is a foreign key conflict.
pub fn spec_delete(tx: &mut Tx<'_>, id: &SpecId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM spec WHERE id = $1", params![id.as_str()])?;
    Ok(())
}
