//! Audit records; only ever added, in the transaction of the change.

use supernode_types::Timestamp;

use crate::{StoreError, Tx, Value, params, sequence};

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Strictly increasing; 0 before it is stored.
    pub sequence: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// The operation of the contract.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// The request, without secrets.
    pub request: serde_json::Value,
    /// The request's id.
    pub request_id: String,
}

/// Stores a record.
pub fn audit_insert(tx: &mut Tx<'_>, entry: &AuditEntry) -> Result<(), StoreError> {
    let sequence = sequence::next(tx, "audit")?;
    tx.execute(
        "INSERT INTO audit (sequence, at, actor, action, subject, request, request_id) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![
            sequence, entry.at.0, entry.actor.as_str(), entry.action.as_str(), entry.subject.as_str(), Value::json(&entry.request)?,
            entry.request_id.as_str()
        ],
    )?;
    Ok(())
}

/// Records before `before`, newest first.
pub fn audit_list(
    tx: &mut Tx<'_>,
    before: Option<i64>,
    actor: Option<&str>,
    limit: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    tx.query(
        "SELECT * FROM audit WHERE sequence < $1 AND (CAST($2 AS TEXT) IS NULL OR actor = $2) ORDER BY sequence DESC LIMIT $3",
        params![before.unwrap_or(i64::MAX), actor, limit],
    )?
    .iter()
    .map(|row| {
        Ok(AuditEntry {
            sequence: row.get("sequence")?,
            at: Timestamp(row.get("at")?),
            actor: row.get("actor")?,
            action: row.get("action")?,
            subject: row.get("subject")?,
            request: row.json("request")?,
            request_id: row.get("request_id")?,
        })
    })
    .collect()
}
