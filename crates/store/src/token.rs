//! API tokens and join tokens, stored by the SHA-256 of their secret.

use std::collections::BTreeMap;

use supernode_types::node::Position;
use supernode_types::{JoinTokenId, Name, ProvisionId, Timestamp, TokenId};

use crate::{Row, StoreError, Tx, Value, params, record};

/// An API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// Its owner.
    pub name: Name,
    /// `viewer`, `user`, `operator` or `admin`.
    pub role: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

fn time(row: &Row, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.get::<Option<i64>>(column)?.map(Timestamp))
}

fn read_token(row: &Row) -> Result<TokenRecord, StoreError> {
    Ok(TokenRecord {
        id: record::parsed(row, "id")?,
        name: record::parsed(row, "name")?,
        role: row.get("role")?,
        created_at: Timestamp(row.get("created_at")?),
        expires_at: time(row, "expires_at")?,
        revoked_at: time(row, "revoked_at")?,
    })
}

/// Stores a new token.
pub fn token_insert(
    tx: &mut Tx<'_>,
    token: &TokenRecord,
    secret_hash: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO token (id, name, role, secret_hash, created_at, expires_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![
            token.id.as_str(), token.name.as_str(), token.role.as_str(), secret_hash, token.created_at.0, token.expires_at.map(|at| at.0),
            token.revoked_at.map(|at| at.0)
        ],
    )?;
    Ok(())
}

/// The token with this secret, if it is neither revoked nor over.
pub fn token_authenticate(
    tx: &mut Tx<'_>,
    secret_hash: &str,
    now: Timestamp,
) -> Result<Option<TokenRecord>, StoreError> {
    tx.query_optional(
        "SELECT id, name, role, created_at, expires_at, revoked_at FROM token
         WHERE secret_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
        params![secret_hash, now.0],
    )?
    .as_ref()
    .map(read_token)
    .transpose()
}

/// All tokens, oldest first.
pub fn token_list(tx: &mut Tx<'_>) -> Result<Vec<TokenRecord>, StoreError> {
    tx.query(
        "SELECT id, name, role, created_at, expires_at, revoked_at FROM token ORDER BY id",
        params![],
    )?
    .iter()
    .map(read_token)
    .collect()
}

/// Revokes a token; answers it, or nothing when there is none.
pub fn token_revoke(
    tx: &mut Tx<'_>,
    id: &str,
    now: Timestamp,
) -> Result<Option<TokenRecord>, StoreError> {
    tx.query_optional(
        "UPDATE token SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1 RETURNING id, name, role, created_at, expires_at, revoked_at",
        params![id, now.0],
    )?
    .as_ref()
    .map(read_token)
    .transpose()
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenRecord {
    /// Its id.
    pub id: JoinTokenId,
    /// How many more nodes may enrol with it.
    pub uses_left: u32,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// Position that its nodes get.
    pub position: Position,
    /// The provision that it belongs to, if a provisioner uses it.
    pub provision: Option<ProvisionId>,
    /// When it was created.
    pub created_at: Timestamp,
}

fn read_join_token(row: &Row) -> Result<JoinTokenRecord, StoreError> {
    Ok(JoinTokenRecord {
        id: record::parsed(row, "id")?,
        uses_left: row.get("uses_left")?,
        expires_at: Timestamp(row.get("expires_at")?),
        revoked_at: time(row, "revoked_at")?,
        labels: row.json("labels")?,
        position: row.json("position")?,
        provision: record::parsed_optional(row, "provision")?,
        created_at: Timestamp(row.get("created_at")?),
    })
}

/// Stores a new join token.
pub fn join_token_insert(
    tx: &mut Tx<'_>,
    token: &JoinTokenRecord,
    secret_hash: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO join_token (id, secret_hash, uses_left, expires_at, revoked_at, labels, position, provision, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            token.id.as_str(), secret_hash, token.uses_left, token.expires_at.0, token.revoked_at.map(|at| at.0), Value::json(&token.labels)?,
            Value::json(&token.position)?, token.provision.as_ref().map(ProvisionId::as_str), token.created_at.0
        ],
    )?;
    Ok(())
}

/// The join token with this secret, if it is neither revoked nor over; uses are not looked at.
pub fn join_token_find(
    tx: &mut Tx<'_>,
    secret_hash: &str,
    now: Timestamp,
) -> Result<Option<JoinTokenRecord>, StoreError> {
    tx.query_optional("SELECT * FROM join_token WHERE secret_hash = $1 AND revoked_at IS NULL AND expires_at > $2", params![secret_hash, now.0])?
        .as_ref()
        .map(read_join_token)
        .transpose()
}

/// Takes one use; answers whether one was left.
pub fn join_token_use(tx: &mut Tx<'_>, id: &JoinTokenId) -> Result<bool, StoreError> {
    Ok(tx.execute(
        "UPDATE join_token SET uses_left = uses_left - 1 WHERE id = $1 AND uses_left > 0",
        params![id.as_str()],
    )? == 1)
}

/// Revokes all join tokens of a provision at once.
pub fn join_token_revoke_provision(
    tx: &mut Tx<'_>,
    provision: &ProvisionId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE join_token SET revoked_at = $2 WHERE provision = $1 AND revoked_at IS NULL",
        params![provision.as_str(), now.0],
    )?;
    Ok(())
}

/// Forgets join tokens of provisions that ended before `before`.
pub fn join_token_prune(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM join_token WHERE provision IS NOT NULL AND expires_at < $1",
        params![before.0],
    )?;
    Ok(())
}

/// All join tokens of people, oldest first.
pub fn join_token_list(tx: &mut Tx<'_>) -> Result<Vec<JoinTokenRecord>, StoreError> {
    tx.query(
        "SELECT * FROM join_token WHERE provision IS NULL ORDER BY id",
        params![],
    )?
    .iter()
    .map(read_join_token)
    .collect()
}

/// Revokes a join token; answers it, or nothing when there is none.
pub fn join_token_revoke(
    tx: &mut Tx<'_>,
    id: &str,
    now: Timestamp,
) -> Result<Option<JoinTokenRecord>, StoreError> {
    tx.query_optional(
        "UPDATE join_token SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1 RETURNING *",
        params![id, now.0],
    )?
    .as_ref()
    .map(read_join_token)
    .transpose()
}
