//! API tokens and join tokens. A secret is shown once and stored only as a hash that the caller computes.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_store::Tx;
use supernode_store::token::{
    JoinTokenRecord, TokenRecord, join_token_insert, join_token_revoke, token_authenticate,
    token_insert, token_revoke,
};
use supernode_types::node::Position;
use supernode_types::{JoinTokenId, Name, Timestamp, TokenId};

use crate::intent::{check_labels, check_position};
use crate::{Intent, Refusal};

/// The longest life of a token: ten years.
const MAXIMUM_LIFETIME: Duration = Duration::from_hours(10 * 366 * 24);

/// Creates an API token.
pub fn create(
    tx: &mut Tx<'_>,
    intent: &Intent,
    name: &Name,
    role: &str,
    lifetime: Option<Duration>,
    secret_hash: &str,
) -> Result<TokenRecord, Refusal> {
    check_lifetime(lifetime)?;
    let token = TokenRecord {
        id: TokenId::new(intent.now, &*intent.entropy),
        name: name.clone(),
        role: role.to_owned(),
        created_at: intent.now,
        expires_at: lifetime.map(|lifetime| intent.now.plus(lifetime)),
        revoked_at: None,
    };
    token_insert(tx, &token, secret_hash)?;
    Ok(token)
}

fn check_lifetime(lifetime: Option<Duration>) -> Result<(), Refusal> {
    match lifetime {
        Some(lifetime) if lifetime.is_zero() || lifetime > MAXIMUM_LIFETIME => {
            Err(Refusal::Invalid("lifetime_seconds must be between 1 second and 10 years; leave it out for a token that does not end".into()))
        }
        _ => Ok(()),
    }
}

/// The token with this secret, if it is neither revoked nor over.
pub fn authenticate(
    tx: &mut Tx<'_>,
    secret_hash: &str,
    now: Timestamp,
) -> Result<Option<TokenRecord>, Refusal> {
    Ok(token_authenticate(tx, secret_hash, now)?)
}

/// Revokes an API token at once.
pub fn revoke(tx: &mut Tx<'_>, intent: &Intent, id: &str) -> Result<TokenRecord, Refusal> {
    token_revoke(tx, id, intent.now)?.ok_or_else(|| Refusal::not_found("token", "token", id))
}

/// A wish for a join token.
#[derive(Debug, Clone)]
pub struct JoinTokenWish {
    /// How many nodes may enrol with it.
    pub uses: u32,
    /// How long.
    pub lifetime: Duration,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// Position that its nodes get.
    pub position: Position,
}

/// Creates a join token.
pub fn create_join(
    tx: &mut Tx<'_>,
    intent: &Intent,
    wish: &JoinTokenWish,
    secret_hash: &str,
) -> Result<JoinTokenRecord, Refusal> {
    check_lifetime(Some(wish.lifetime))?;
    check_labels(&wish.labels)?;
    check_position(&wish.position)?;
    if !(1..=100_000).contains(&wish.uses) {
        return Err(Refusal::Invalid(format!(
            "uses is {}; it must be between 1 and 100000",
            wish.uses
        )));
    }
    let token = JoinTokenRecord {
        id: JoinTokenId::new(intent.now, &*intent.entropy),
        uses_left: wish.uses,
        expires_at: intent.now.plus(wish.lifetime),
        revoked_at: None,
        labels: wish.labels.clone(),
        position: wish.position.clone(),
        provision: None,
        created_at: intent.now,
    };
    join_token_insert(tx, &token, secret_hash)?;
    Ok(token)
}

/// Revokes a join token at once.
pub fn revoke_join(tx: &mut Tx<'_>, intent: &Intent, id: &str) -> Result<JoinTokenRecord, Refusal> {
    join_token_revoke(tx, id, intent.now)?
        .ok_or_else(|| Refusal::not_found("join token", "join-token", id))
}
