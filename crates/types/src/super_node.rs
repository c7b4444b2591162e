//! A super node: a named group of nodes of one spec in one hyperplane.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::retry_policy::RetryPolicy;
use crate::{Generation, Name, OperationId, SpecId, SuperNodeId, Timestamp};

/// A super node as the control plane knows it. Its members are the nodes whose membership names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SuperNode {
    /// Its id.
    pub id: SuperNodeId,
    /// Its name, unique.
    pub name: Name,
    /// The spec of all its nodes.
    pub spec: SpecId,
    /// The hyperplane of all its nodes, where known.
    pub hyperplane: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The environment revision in force.
    pub environment_revision: i64,
    /// Increases when the revision, the member list or a member's address changes; what members must have applied.
    pub environment_generation: Generation,
    /// What becomes of its jobs' operators when a link breaks; nothing is set for them while nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// Who puts spares in the place of members that a test has quarantined.
    #[serde(default, skip_serializing_if = "Replacement::is_manual")]
    pub replacement: Replacement,
    /// The operation that deletes it, if one does.
    pub deleting: Option<OperationId>,
    /// Increases with every change of this record.
    pub generation: Generation,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Who puts spares in the place of members that a test has quarantined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// An operator.
    #[default]
    Manual,
    /// The control plane: as soon as there is a spare that fits. Jobs that run on the member finish.
    Automatic,
}

impl Replacement {
    /// Whether it is an operator's business.
    pub fn is_manual(&self) -> bool {
        *self == Self::Manual
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Automatic => "automatic",
        }
    }
}

/// How a drain treats running jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum DrainMode {
    /// Refuse when a job runs on a target.
    Refuse,
    /// Wait for jobs to finish until the operation's deadline.
    Wait,
    /// Signal, wait the grace time, kill, requeue.
    Evict {
        /// Seconds between the signal and the kill.
        grace_seconds: u32,
    },
}
