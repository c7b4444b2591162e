//! An event: something that happened, for people and programs that watch. Who asked stands in the audit record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobId, NodeId, OperationId, SuperNodeId, Timestamp};

/// How much an event matters.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Ordinary progress.
    Info,
    /// Somebody should look at it some time.
    Warning,
    /// Something is broken.
    Error,
}

impl Severity {
    /// The word for this severity.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What an event is about; an event can be about several things at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Subjects {
    /// A node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// A super node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<SuperNodeId>,
    /// A job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// An operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
}

/// An event that has not been stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Dotted kind, for example `node.lost`.
    pub kind: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people.
    pub message: String,
    /// What it is about.
    pub subjects: Subjects,
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Strictly increasing; where a watcher continues.
    pub sequence: i64,
    /// When it happened.
    pub at: Timestamp,
    /// Dotted kind, for example `node.lost`.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people.
    pub message: String,
    /// What it is about.
    #[serde(flatten)]
    pub subjects: Subjects,
}
