//! A node: one server that runs an agent.
//!
//! Three questions, three types, never mixed: [`NodePolicy`] is what an operator wants, [`NodeCondition`] is what was observed,
//! [`NodeHealth`] is what testing says.
//!
//! ```text
//!  policy     InService --cordon (operator)--> Cordoned --uncordon (operator)--> InService
//!             InService | Cordoned --scale-down accepted (control)--> Draining --released (loop) | cancelled (operator)--> as before
//!             InService | Cordoned --remove (operator, spares only)--> Removed
//!  condition  Unknown --first sync (loop)--> Joining --environment applied (loop)--> Ready <--> Degraded
//!             any --silent too long (loop)--> Lost --sync (loop)--> Joining | Ready
//! ```

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::disk::NodeDisk;
use crate::stress::NodeStress;
use crate::{Generation, Name, NodeId, OperationId, ProvisionId, SpecId, SuperNodeId, Timestamp};

/// Who took a node out of scheduling, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cordon {
    /// The actor who asked.
    pub by: String,
    /// The reason that was given.
    pub reason: String,
}

/// What an operator wants of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodePolicy {
    /// Jobs may be placed.
    InService,
    /// No new jobs; running ones go on.
    Cordoned(Cordon),
    /// No new jobs; leaves its super node when empty.
    Draining {
        /// The operation that drains it.
        operation: OperationId,
        /// The cordon to return to if the operation is cancelled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cordon: Option<Cordon>,
    },
    /// Left for good; its certificate is revoked.
    Removed,
}

/// Why a node cannot change as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// A drain owns the node.
    #[error("it is being drained by {0}; wait for it or cancel it first")]
    Draining(OperationId),
    /// The node is gone.
    #[error("it was removed; enrol it again to use it")]
    Removed,
}

impl NodePolicy {
    /// Whether new work may be placed.
    pub fn schedulable(&self) -> bool {
        matches!(self, Self::InService)
    }

    /// Takes the node out of scheduling.
    pub fn cordon(self, cordon: Cordon) -> Result<Self, PolicyRefusal> {
        match self {
            Self::InService | Self::Cordoned(_) => Ok(Self::Cordoned(cordon)),
            Self::Draining { operation, .. } => Err(PolicyRefusal::Draining(operation)),
            Self::Removed => Err(PolicyRefusal::Removed),
        }
    }

    /// Puts the node back into scheduling.
    pub fn uncordon(self) -> Result<Self, PolicyRefusal> {
        match self {
            Self::InService | Self::Cordoned(_) => Ok(Self::InService),
            Self::Draining { operation, .. } => Err(PolicyRefusal::Draining(operation)),
            Self::Removed => Err(PolicyRefusal::Removed),
        }
    }

    /// Begins to empty the node on behalf of `operation`.
    pub fn drain(self, operation: OperationId) -> Result<Self, PolicyRefusal> {
        match self {
            Self::InService => Ok(Self::Draining {
                operation,
                cordon: None,
            }),
            Self::Cordoned(cordon) => Ok(Self::Draining {
                operation,
                cordon: Some(cordon),
            }),
            Self::Draining { operation, .. } => Err(PolicyRefusal::Draining(operation)),
            Self::Removed => Err(PolicyRefusal::Removed),
        }
    }

    /// What the node returns to when its drain ends or is cancelled.
    #[must_use]
    pub fn drained(self) -> Self {
        match self {
            Self::Draining {
                cordon: Some(cordon),
                ..
            } => Self::Cordoned(cordon),
            Self::Draining { cordon: None, .. } => Self::InService,
            other => other,
        }
    }

    /// The word for this policy, as the API and the database say it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::InService => "in_service",
            Self::Cordoned(_) => "cordoned",
            Self::Draining { .. } => "draining",
            Self::Removed => "removed",
        }
    }
}

/// What was observed of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeCondition {
    /// Enrolled, never heard of since.
    Unknown,
    /// Connected, not yet usable.
    Joining {
        /// What it is doing or waits for.
        step: String,
    },
    /// Connected; for a member: has the environment.
    Ready,
    /// Connected, but something is wrong that keeps new work away.
    Degraded {
        /// What is wrong.
        why: String,
    },
    /// Silent for longer than the server tolerates; its ranks have stopped themselves.
    Lost {
        /// When it was declared lost.
        since: Timestamp,
    },
}

impl NodeCondition {
    /// The word for this condition, as the API and the database say it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Joining { .. } => "joining",
            Self::Ready => "ready",
            Self::Degraded { .. } => "degraded",
            Self::Lost { .. } => "lost",
        }
    }

    /// The one-line detail, if the condition has one.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Joining { step } => Some(step.clone()),
            Self::Degraded { why } => Some(why.clone()),
            Self::Lost { since } => Some(format!("since {since}")),
            Self::Unknown | Self::Ready => None,
        }
    }
}

/// What testing says of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeHealth {
    /// No test result yet.
    Unproven,
    /// Passed what was asked.
    Proven {
        /// The run that proved it.
        run: String,
    },
    /// A finding points at it; not yet certain.
    Suspect {
        /// The finding.
        finding: String,
    },
    /// Kept out of new work.
    Quarantined {
        /// The finding.
        finding: String,
    },
}

impl NodeHealth {
    /// Whether new work may be placed.
    pub fn schedulable(&self) -> bool {
        !matches!(self, Self::Quarantined { .. })
    }

    /// Smaller is healthier; orders candidates.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Proven { .. } => 0,
            Self::Unproven => 1,
            Self::Suspect { .. } => 2,
            Self::Quarantined { .. } => 3,
        }
    }

    /// The word for this health.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Proven { .. } => "proven",
            Self::Suspect { .. } => "suspect",
            Self::Quarantined { .. } => "quarantined",
        }
    }
}

/// Where a node sits in the fabric; what is not known is absent.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The HCCS / `NVLink` domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hyperplane: Option<String>,
    /// The rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// The leaf switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<String>,
}

/// Which declared spec the observed inventory matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SpecMatch {
    /// No inventory yet, or no spec declared.
    Unknown,
    /// Matches this spec.
    Matches {
        /// The spec.
        spec: SpecId,
    },
    /// Matches none; each line says which fact differs from which spec.
    Differs {
        /// The differences.
        differences: Vec<String>,
    },
}

impl SpecMatch {
    /// The matched spec.
    pub fn spec(&self) -> Option<&SpecId> {
        match self {
            Self::Matches { spec } => Some(spec),
            Self::Unknown | Self::Differs { .. } => None,
        }
    }
}

/// How far a node belongs to a super node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Membership {
    /// Belongs to no super node.
    Spare,
    /// Claimed by a scale-up, not yet proven ready: takes no jobs.
    Joining {
        /// The super node.
        super_node: SuperNodeId,
        /// The operation that claimed it.
        operation: OperationId,
    },
    /// A full member.
    Member {
        /// The super node.
        super_node: SuperNodeId,
    },
    /// Taken out; its environment is being cleaned before it is a spare again.
    Leaving {
        /// The super node it leaves.
        super_node: SuperNodeId,
        /// The operation that removes it.
        operation: OperationId,
    },
}

impl Membership {
    /// The super node that the node belongs to, joins or leaves.
    pub fn super_node(&self) -> Option<&SuperNodeId> {
        match self {
            Self::Spare => None,
            Self::Joining { super_node, .. }
            | Self::Member { super_node }
            | Self::Leaving { super_node, .. } => Some(super_node),
        }
    }

    /// Whether the node is in the environment's member list of `super_node` (joining ones are, leaving ones are not).
    pub fn listed_in(&self, wanted: &SuperNodeId) -> bool {
        match self {
            Self::Joining { super_node, .. } | Self::Member { super_node } => super_node == wanted,
            Self::Spare | Self::Leaving { .. } => false,
        }
    }

    /// Whether the node is a full member of `super_node`.
    pub fn member_of(&self, wanted: &SuperNodeId) -> bool {
        matches!(self, Self::Member { super_node } if super_node == wanted)
    }

    /// The word for this membership.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Spare => "spare",
            Self::Joining { .. } => "joining",
            Self::Member { .. } => "member",
            Self::Leaving { .. } => "leaving",
        }
    }
}

/// A node as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its id, also in its certificate.
    pub id: NodeId,
    /// Its name, unique.
    pub name: Name,
    /// Which super node it belongs to, and how far.
    pub membership: Membership,
    /// The spec that its inventory matches.
    pub spec: SpecMatch,
    /// What an operator wants.
    pub policy: NodePolicy,
    /// What was observed.
    pub condition: NodeCondition,
    /// What testing says.
    pub health: NodeHealth,
    /// Labels given at enrolment or later.
    pub labels: BTreeMap<String, String>,
    /// Where it sits in the fabric.
    pub position: Position,
    /// The address that other nodes reach it at.
    pub address: String,
    /// How many devices it has; a plain CPU host has one, the host itself.
    pub device_count: u32,
    /// The boot that its agent reported last; a new one means that everything on it was stopped.
    pub boot_id: String,
    /// The agent's version, empty before its first sync.
    pub agent_version: String,
    /// The provision that made it, if a provisioner did.
    pub provision: Option<ProvisionId>,
    /// The environment generation that the agent reported as applied; 0 means clean.
    pub environment_applied: Generation,
    /// What of the environment is not as wanted, one line per item.
    pub environment_problems: Vec<String>,
    /// How full its system disk is, and the expansion that it is in.
    #[serde(default, skip_serializing_if = "NodeDisk::is_empty")]
    pub disk: NodeDisk,
    /// The test that it is in, and when it passed one last.
    #[serde(default, skip_serializing_if = "NodeStress::is_empty")]
    pub stress: NodeStress,
    /// Increases when what the node should do changes.
    pub desired_generation: Generation,
    /// Increases with every change of this record.
    pub generation: Generation,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_cancelled_drain_returns_to_the_cordon_it_found() {
        let operation = OperationId::new(Timestamp(0), &SeededEntropy::new(1));
        let cordon = Cordon {
            by: "ada".into(),
            reason: "fan".into(),
        };
        let draining = NodePolicy::InService
            .cordon(cordon.clone())
            .and_then(|policy| policy.drain(operation))
            .expect("allowed");
        assert!(draining.clone().uncordon().is_err());
        assert_eq!(draining.drained(), NodePolicy::Cordoned(cordon));
    }
}
