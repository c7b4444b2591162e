//! The audit log: who asked for what, and what came of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::Timestamp;

use crate::{Nothing, Page, operations};

/// One record, written in the same transaction as the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditRecord {
    /// Strictly increasing.
    pub sequence: i64,
    /// When.
    pub at: Timestamp,
    /// The name of the token.
    pub actor: String,
    /// The operation of the contract, for example `super_node_scale_up`.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// The request, without secrets.
    pub request: serde_json::Value,
    /// Finds the request in the server's log.
    pub request_id: String,
}

/// Which records to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditListQuery {
    /// Only earlier ones, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_sequence: Option<i64>,
    /// Only of this actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Items per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

operations! {
    AuditList = "audit_list" Get "/api/v1/audit" 200 Admin (AuditListQuery, Nothing) -> Page<AuditRecord>, "List audit records, newest first.";
}
