//! API tokens of people and programs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::{Name, Timestamp, TokenId};

use crate::{Nothing, Page, Role, operations};

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// Its owner's name, shown in the audit log.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ends, if it does.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// Creates a token.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreateRequest {
    /// Its owner's name.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// Seconds until it ends; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
}

/// A new token with its secret, shown once and stored only as a hash.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The token.
    #[serde(flatten)]
    pub token: TokenView,
    /// The secret: pass it as `Authorization: Bearer …`.
    pub secret: String,
}

operations! {
    TokenList = "token_list" Get "/api/v1/tokens" 200 Admin (Nothing, Nothing) -> Page<TokenView>, "List API tokens.";
    TokenCreate = "token_create" Post "/api/v1/tokens" 201 Admin (Nothing, TokenCreateRequest) -> TokenCreated, "Create an API token; its secret is shown once.";
    TokenRevoke = "token_revoke" Delete "/api/v1/tokens/{token}" 200 Admin (Nothing, Nothing) -> TokenView, "Revoke an API token at once.";
}
