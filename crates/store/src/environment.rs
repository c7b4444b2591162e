//! Environment revisions; written once, never changed. And the numbers that say which state of an environment a node has applied.

use supernode_types::environment::EnvironmentDocument;
use supernode_types::{Generation, SuperNodeId, Timestamp};

use crate::{Row, StoreError, Tx, Value, params, sequence};

/// One revision of a super node's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentRecord {
    /// Its number, from 1.
    pub revision: i64,
    /// What it says.
    pub document: EnvironmentDocument,
    /// Who wrote it.
    pub actor: String,
    /// When.
    pub created_at: Timestamp,
}

fn read(row: &Row) -> Result<EnvironmentRecord, StoreError> {
    Ok(EnvironmentRecord {
        revision: row.get("revision")?,
        document: row.json("document")?,
        actor: row.get("actor")?,
        created_at: Timestamp(row.get("created_at")?),
    })
}

/// Stores a new revision.
pub fn environment_insert(
    tx: &mut Tx<'_>,
    super_node: &SuperNodeId,
    environment: &EnvironmentRecord,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO environment_revision (super_node, revision, document, actor, created_at) VALUES ($1, $2, $3, $4, $5)",
        params![super_node.as_str(), environment.revision, Value::json(&environment.document)?, environment.actor.as_str(), environment.created_at.0],
    )?;
    Ok(())
}

/// One revision.
pub fn environment_get(
    tx: &mut Tx<'_>,
    super_node: &SuperNodeId,
    revision: i64,
) -> Result<Option<EnvironmentRecord>, StoreError> {
    tx.query_optional(
        "SELECT * FROM environment_revision WHERE super_node = $1 AND revision = $2",
        params![super_node.as_str(), revision],
    )?
    .as_ref()
    .map(read)
    .transpose()
}

/// All revisions, newest first.
pub fn environment_list(
    tx: &mut Tx<'_>,
    super_node: &SuperNodeId,
) -> Result<Vec<EnvironmentRecord>, StoreError> {
    tx.query(
        "SELECT * FROM environment_revision WHERE super_node = $1 ORDER BY revision DESC",
        params![super_node.as_str()],
    )?
    .iter()
    .map(read)
    .collect()
}

const GENERATION: &str = "environment";

/// A new environment generation. One sequence for all super nodes: no two environments ever have the same generation, so what a node
/// applied of one can never be taken for another's.
pub fn environment_generation_next(tx: &mut Tx<'_>) -> Result<Generation, StoreError> {
    sequence::next(tx, GENERATION)
}

/// Makes the next environment generation larger than `known`; answers whether it was not. A database that was restored from a backup
/// may be behind what nodes have applied.
pub fn environment_generation_raise(
    tx: &mut Tx<'_>,
    known: Generation,
) -> Result<bool, StoreError> {
    sequence::raise(tx, GENERATION, known)
}
