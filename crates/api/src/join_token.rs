//! Join tokens: what lets a new node enrol.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::node::Position;
use supernode_types::{JoinTokenId, Timestamp};

use crate::{Nothing, Page, operations};

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JoinTokenView {
    /// Its id.
    pub id: JoinTokenId,
    /// How many more nodes may enrol with it.
    pub uses_left: u32,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// Fabric position that its nodes get, unless they discover a better one.
    pub position: Position,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Creates a join token.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenCreateRequest {
    /// How many nodes may enrol with it; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Seconds until it ends; 3,600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
    /// Labels that its nodes get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Fabric position that its nodes get.
    #[serde(default)]
    pub position: Position,
}

/// A new join token with its secret, shown once and stored only as a hash.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JoinTokenCreated {
    /// The token.
    #[serde(flatten)]
    pub join_token: JoinTokenView,
    /// The secret.
    pub secret: String,
    /// The command to run on the new node.
    pub command: String,
}

operations! {
    JoinTokenList = "join_token_list" Get "/api/v1/join-tokens" 200 Operator (Nothing, Nothing) -> Page<JoinTokenView>, "List join tokens.";
    JoinTokenCreate = "join_token_create" Post "/api/v1/join-tokens" 201 Operator (Nothing, JoinTokenCreateRequest) -> JoinTokenCreated, "Create a join token; its secret is shown once.";
    JoinTokenRevoke = "join_token_revoke" Delete "/api/v1/join-tokens/{join_token}" 200 Operator (Nothing, Nothing) -> JoinTokenView, "Revoke a join token at once.";
}
