//! Client certificates that this server's authority issued.

use std::collections::BTreeMap;

use supernode_types::{CertificateSerial, NodeId, Timestamp};

use crate::{StoreError, Tx, params, record};

/// Records a certificate before it is handed out.
pub fn certificate_insert(
    tx: &mut Tx<'_>,
    serial: &CertificateSerial,
    node: &NodeId,
    ends_at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO certificate (serial, node, ends_at) VALUES ($1, $2, $3)",
        params![serial.as_str(), node.as_str(), ends_at.0],
    )?;
    Ok(())
}

/// Whether this certificate of this node was issued by us and is neither revoked nor over.
pub fn certificate_valid(
    tx: &mut Tx<'_>,
    serial: &CertificateSerial,
    node: &NodeId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let row = tx.query_optional(
        "SELECT serial FROM certificate WHERE serial = $1 AND node = $2 AND revoked_at IS NULL AND ends_at > $3",
        params![serial.as_str(), node.as_str(), now.0],
    )?;
    Ok(row.is_some())
}

/// Revokes all certificates of a node.
pub fn certificate_revoke_all(
    tx: &mut Tx<'_>,
    node: &NodeId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE certificate SET revoked_at = $2 WHERE node = $1 AND revoked_at IS NULL",
        params![node.as_str(), now.0],
    )?;
    Ok(())
}

/// When the newest valid certificate of each node ends.
pub fn certificate_ends(tx: &mut Tx<'_>) -> Result<BTreeMap<NodeId, Timestamp>, StoreError> {
    tx.query("SELECT node, MAX(ends_at) AS ends_at FROM certificate WHERE revoked_at IS NULL GROUP BY node", params![])?
        .iter()
        .map(|row| Ok((record::parsed(row, "node")?, Timestamp(row.get("ends_at")?))))
        .collect()
}

/// Forgets certificates that ended before `before`.
pub fn certificate_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM certificate WHERE ends_at < $1",
        params![before.0],
    )?;
    Ok(())
}
