//! The agent protocol, spoken on a port of its own over mutual TLS.
//!
//! Enrolment: `POST /agent/v1/enrol` with a join token and a certificate request, no client certificate. Renewal:
//! `POST /agent/v1/renew` with the present certificate. Then one `WebSocket` at `/agent/v1/sync` that carries JSON text frames:
//! the agent sends [`FromAgent`], the server sends [`ToAgent`]. Everything is level-triggered: each `Sync` says all that matters, so
//! nothing depends on a message having arrived. The node's identity is its certificate, never a field. Unknown fields are ignored.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use supernode_types::agent::{
    Desired, DesiredRank, EnvironmentWish, Observed, ObservedRank, RankLaunch, RankPlace, RankWish,
};
use supernode_types::node::Position;
use supernode_types::{AttemptId, Generation, NodeId};

/// Path of enrolment.
pub const ENROL_PATH: &str = "/agent/v1/enrol";
/// Path of certificate renewal.
pub const RENEW_PATH: &str = "/agent/v1/renew";
/// Path of the sync connection.
pub const SYNC_PATH: &str = "/agent/v1/sync";
/// The most bytes in one frame.
pub const MAXIMUM_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Asks for a first certificate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EnrolRequest {
    /// The join token's secret.
    pub join_token: String,
    /// Certificate request, PEM; only its public key is used.
    pub certificate_request: String,
    /// The name that the node wants.
    pub name: String,
    /// The address that other nodes reach it at.
    pub address: String,
    /// Labels, added to the join token's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it sits, if it knows.
    #[serde(default)]
    pub position: Position,
    /// Stable id of the machine: the same machine may enrol again under its name, another may not.
    pub machine_id: String,
}

/// A certificate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EnrolResponse {
    /// The node's id.
    pub node: NodeId,
    /// Client certificate, PEM.
    pub certificate: String,
    /// The authority that signed it and the server's own certificate, PEM.
    pub authority: String,
}

/// Asks for the next certificate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RenewRequest {
    /// Certificate request, PEM; only its public key is used.
    pub certificate_request: String,
}

/// What an agent sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// Everything that matters, or only "still here".
    Sync(Box<Sync>),
    /// The answer to [`ToAgent::ReadLog`].
    Log(LogPart),
}

/// The agent's side of one exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// Echoed by the server's acknowledgement; increases within a connection.
    pub sequence: u64,
    /// The desired generation that the agent has stored; the server sends the desired state again if it has a newer one.
    pub stored_generation: Generation,
    /// What was observed; absent when nothing changed since the last acknowledged one on this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The sync with this sequence was stored: the fence may be extended from the moment it was sent.
    Acknowledge {
        /// Of the sync.
        sequence: u64,
        /// Seconds from the sending of the acknowledged sync after which ranks must stop themselves.
        fence_seconds: u64,
        /// Milliseconds until the next sync if nothing happens.
        interval_milliseconds: u64,
    },
    /// What the node should do; replaces what was said before if the generation is larger.
    Desired(Box<Desired>),
    /// Read a part of a rank's output.
    ReadLog(ReadLog),
}

/// Asks for a part of a rank's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadLog {
    /// Echoed in the answer.
    pub request: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// The rank.
    pub rank: u32,
    /// First byte.
    pub offset: u64,
    /// Most bytes.
    pub limit: u32,
}

/// A part of a rank's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogPart {
    /// Of the request.
    pub request: u64,
    /// The part, or why there is none.
    pub result: Result<LogContent, String>,
}

/// Bytes of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogContent {
    /// Where the content begins.
    pub offset: u64,
    /// Where to read on.
    pub next_offset: u64,
    /// The output; bytes that are not UTF-8 are replaced.
    pub content: String,
    /// The rank has ended and this is all.
    pub end: bool,
}
