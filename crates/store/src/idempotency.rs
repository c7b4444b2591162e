//! Idempotency keys: what was answered to which request, so that a repeated one has one effect.

use supernode_types::Timestamp;

use crate::{StoreError, Tx, params};

/// What was stored under a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// Of the request.
    pub digest: String,
    /// What was answered, as JSON.
    pub response: String,
}

/// What was answered to this key of this actor.
pub fn idempotency_get(
    tx: &mut Tx<'_>,
    actor: &str,
    key: &str,
) -> Result<Option<Remembered>, StoreError> {
    tx.query_optional(
        "SELECT digest, response FROM idempotency WHERE actor = $1 AND key = $2",
        params![actor, key],
    )?
    .map(|row| {
        Ok(Remembered {
            digest: row.get("digest")?,
            response: row.get("response")?,
        })
    })
    .transpose()
}

/// Remembers an answer.
pub fn idempotency_put(
    tx: &mut Tx<'_>,
    actor: &str,
    key: &str,
    remembered: &Remembered,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO idempotency (actor, key, digest, response, created_at) VALUES ($1, $2, $3, $4, $5)",
        params![actor, key, remembered.digest.as_str(), remembered.response.as_str(), now.0],
    )?;
    Ok(())
}

/// Forgets keys older than `before`.
pub fn idempotency_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM idempotency WHERE created_at < $1",
        params![before.0],
    )?;
    Ok(())
}
