//! Why a request was not done. Each variant is one answer that a caller can act on; nothing was changed in any of them.

use serde_json::{Value, json};
use supernode_store::StoreError;
use supernode_types::JobId;
use supernode_types::retry_policy::RetryFinding;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The request cannot mean anything.
    #[error("{0}")]
    Invalid(String),
    /// There is no such object.
    #[error("there is no {kind} `{name}`; `supernode {kind_command} list` shows what there is")]
    NotFound {
        /// What kind of object.
        kind: &'static str,
        /// The command that lists them.
        kind_command: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The object's state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The caller may not.
    #[error("{0}")]
    Forbidden(String),
    /// Jobs run on what would be removed.
    #[error("{message}")]
    JobsRunning {
        /// What to do.
        message: String,
        /// The jobs.
        jobs: Vec<JobId>,
    },
    /// A super node keeps at least one node.
    #[error("{0}")]
    LastNode(String),
    /// Not enough suitable nodes.
    #[error("{message}")]
    NotEnoughNodes {
        /// What to do.
        message: String,
        /// Which nodes were looked at and why each was not usable.
        excluded: Vec<String>,
    },
    /// More nodes than the spec allows.
    #[error("{0}")]
    OverMaximum(String),
    /// A disk cannot have this size.
    #[error("{0}")]
    DiskSize(String),
    /// A disk cannot grow at all.
    #[error("{message}")]
    DiskLayout {
        /// Which and why.
        message: String,
        /// One line for each node.
        nodes: Vec<String>,
    },
    /// A job insists on re-execution, which would not happen.
    #[error("{message}")]
    RetryPrevented {
        /// Why, and what to do.
        message: String,
        /// All that stands in the way.
        findings: Vec<RetryFinding>,
    },
    /// A node is of another kind.
    #[error("{0}")]
    SpecMismatch(String),
    /// The object changed since the caller looked.
    #[error(
        "{kind} `{name}` has generation {found}, not {wanted}; look at it again and repeat the change if it still makes sense"
    )]
    PreconditionFailed {
        /// What kind of object.
        kind: &'static str,
        /// Which one.
        name: String,
        /// What the caller named.
        wanted: i64,
        /// What it has.
        found: i64,
    },
    /// The key belongs to another request.
    #[error(
        "this idempotency key was used for a different request; take a new key for a new request"
    )]
    IdempotencyKeyReused,
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// Nothing of this kind has this name.
    pub fn not_found(kind: &'static str, kind_command: &'static str, name: &str) -> Self {
        Self::NotFound {
            kind,
            kind_command,
            name: name.chars().take(200).collect(),
        }
    }

    /// What a program may want beside the message.
    pub fn details(&self) -> Option<Value> {
        match self {
            Self::JobsRunning { jobs, .. } => Some(json!({ "jobs": jobs })),
            Self::NotEnoughNodes { excluded, .. } if !excluded.is_empty() => {
                Some(json!({ "excluded": excluded }))
            }
            Self::DiskLayout { nodes, .. } => Some(json!({ "nodes": nodes })),
            Self::RetryPrevented { findings, .. } if !findings.is_empty() => {
                Some(json!({ "findings": findings }))
            }
            Self::PreconditionFailed { wanted, found, .. } => {
                Some(json!({ "wanted": wanted, "found": found }))
            }
            _ => None,
        }
    }
}
