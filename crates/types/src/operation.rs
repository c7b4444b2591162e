//! An operation: one durable, observable, cancellable, long-running change.
//!
//! ```text
//!  Running --all targets done (loop)--> Succeeded
//!  Running --deadline or a target that cannot (loop)--> Failed
//!  Running --cancel asked (operator), effects taken back (loop)--> Cancelled
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::disk::StepReport;
use crate::stress::StressRun;
use crate::super_node::DrainMode;
use crate::{Generation, NodeId, OperationId, ProvisionId, SuperNodeId, Timestamp};

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OperationKind {
    /// Creates a super node from spares (and provisioned nodes).
    SuperNodeCreate,
    /// Adds nodes.
    ScaleUp {
        /// What they have to pass before they join.
        #[serde(default)]
        admission: Admission,
    },
    /// Removes nodes.
    ScaleDown {
        /// How running jobs are treated.
        mode: DrainMode,
    },
    /// Puts a spare in the place of a member. Its first target is the spare, which joins; its second the member, which leaves then.
    NodeReplace {
        /// What the spare has to pass before it joins.
        admission: Admission,
        /// How jobs that run on the member are treated.
        mode: DrainMode,
    },
    /// Removes all nodes and the super node itself.
    SuperNodeDelete,
    /// Rolls a new environment revision out to all members.
    EnvironmentChange {
        /// The revision.
        revision: i64,
        /// The environment generation that every member must have applied.
        environment_generation: Generation,
    },
    /// Takes a spare out for good.
    NodeRemove,
    /// Grows the system disks of nodes.
    DiskExpand(DiskExpansion),
    /// Tests nodes.
    StressRun(StressRun),
}

/// What a node has to pass before it joins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "test", rename_all = "snake_case")]
pub enum Admission {
    /// Nothing.
    #[default]
    None,
    /// A quick test of everything.
    Quick {
        /// How long each kernel runs; the tier's own times when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kernel_seconds: Option<u32>,
    },
}

/// What an expansion of system disks is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskExpansion {
    /// The size that every target's disk is to have.
    pub size_bytes: u64,
    /// Whether nodes may be restarted where growth needs it, and how their jobs are treated then.
    pub restart: RestartConsent,
    /// How many nodes may be restarting at a time; with `fail_fast`, how many may be in work at a time.
    pub parallel: u32,
    /// Whether a failure on one node keeps the others from beginning.
    pub fail_fast: bool,
}

/// Whether an operation may restart a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "consent", rename_all = "snake_case")]
pub enum RestartConsent {
    /// It may not: what needs a restart fails.
    Refused,
    /// It may, after the node was drained.
    Allowed {
        /// How running jobs are treated.
        drain: DrainMode,
    },
}

impl OperationKind {
    /// The seconds between signal and kill of jobs on the nodes that it drains, if it evicts them.
    pub fn eviction_grace_seconds(&self) -> Option<u32> {
        let drain = match self {
            Self::ScaleDown { mode } | Self::NodeReplace { mode, .. } => mode,
            Self::DiskExpand(DiskExpansion {
                restart: RestartConsent::Allowed { drain },
                ..
            }) => drain,
            _ => return None,
        };
        match drain {
            DrainMode::Evict { grace_seconds } => Some(*grace_seconds),
            DrainMode::Refuse | DrainMode::Wait => None,
        }
    }

    /// The word for this kind, as the API and the database say it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::SuperNodeCreate => "super_node_create",
            Self::ScaleUp { .. } => "scale_up",
            Self::ScaleDown { .. } => "scale_down",
            Self::NodeReplace { .. } => "node_replace",
            Self::SuperNodeDelete => "super_node_delete",
            Self::EnvironmentChange { .. } => "environment_change",
            Self::NodeRemove => "node_remove",
            Self::DiskExpand(_) => "disk_expand",
            Self::StressRun(_) => "stress_run",
        }
    }
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running {
        /// One line: what it waits for.
        waits_for: String,
    },
    /// Done.
    Succeeded,
    /// Not done.
    Failed {
        /// Why.
        reason: String,
    },
    /// Taken back on request.
    Cancelled {
        /// What was kept and what was taken back.
        detail: String,
    },
}

impl OperationState {
    /// The word for this state.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn ended(&self) -> bool {
        !matches!(self, Self::Running { .. })
    }
}

/// One node (or place for one) that an operation works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// Its place in the operation, from 0.
    pub slot: u32,
    /// The node, once known.
    pub node: Option<NodeId>,
    /// The provision that will bring the node, if it is not a spare.
    pub provision: Option<ProvisionId>,
    /// Why this node was chosen.
    pub chosen_because: String,
    /// Where it stands.
    pub state: TargetState,
    /// The steps that its agent does, with their evidence, for kinds of operations that have any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepReport>,
}

/// Where a target stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TargetState {
    /// Under way.
    Active {
        /// The step it is in and what it waits for.
        step: String,
    },
    /// Done.
    Done,
    /// Will not be done.
    Failed {
        /// Why.
        reason: String,
    },
}

impl TargetState {
    /// The word for this state.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Active { .. } => "active",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

/// An operation as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    #[serde(flatten)]
    pub kind: OperationKind,
    /// The super node it works on, if one.
    pub super_node: Option<SuperNodeId>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: OperationState,
    /// Its targets.
    pub targets: Vec<Target>,
    /// Who asked for it.
    pub actor: String,
    /// When it is given up.
    pub deadline: Timestamp,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
    /// Increases with every change of this record.
    pub generation: Generation,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What a provisioner was asked for, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provision {
    /// Its id; the idempotency key of every call to the provisioner.
    pub id: ProvisionId,
    /// The operation that asked.
    pub operation: OperationId,
    /// The super node that the node is for.
    pub super_node: SuperNodeId,
    /// The name that the new node will have.
    pub node_name: String,
    /// The node, once it has enrolled.
    pub node: Option<NodeId>,
    /// How far it is.
    pub state: ProvisionState,
    /// How often the provisioner was called for the present wish.
    pub calls: u32,
    /// When to call it next.
    pub next_call_at: Timestamp,
}

/// How far a provision is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ProvisionState {
    /// Wanted; the provisioner has not confirmed it (it may or may not have been called).
    Creating {
        /// What the provisioner said last.
        message: String,
    },
    /// The provisioner says that it made the node.
    Created,
    /// No longer wanted; the provisioner has not confirmed the deletion.
    Deleting {
        /// What the provisioner said last.
        message: String,
    },
    /// The provisioner says that it is gone.
    Deleted,
    /// The provisioner cannot.
    Failed {
        /// What it said.
        reason: String,
    },
}

impl ProvisionState {
    /// The word for this state.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Creating { .. } => "creating",
            Self::Created => "created",
            Self::Deleting { .. } => "deleting",
            Self::Deleted => "deleted",
            Self::Failed { .. } => "failed",
        }
    }
}
