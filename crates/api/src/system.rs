//! The server itself. `/healthz`, `/readyz` and `/metrics` are plain paths beside the contract.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::Timestamp;

use crate::{Nothing, Role, operations};

/// What a client may want to know of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SystemInfo {
    /// The server's version.
    pub version: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// `pool`, `local` or `exec`.
    pub provisioner: String,
    /// When this process started.
    pub started_at: Timestamp,
    /// Seconds of silence after which a node is lost.
    pub lost_after_seconds: u64,
    /// The caller's name.
    pub actor: String,
    /// The caller's role.
    pub role: Role,
}

operations! {
    SystemShow = "system_show" Get "/api/v1/system" 200 Viewer (Nothing, Nothing) -> SystemInfo, "Show the server's version and settings, and who is asking.";
}
