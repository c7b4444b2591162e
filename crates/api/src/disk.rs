//! System disks of nodes: what they are made of, and growing them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::disk::{DiskPressure, DiskStep, DiskUsage, SystemDisk};
use supernode_types::super_node::DrainMode;
use supernode_types::{JobId, Name, NodeId, OperationId};

use crate::operation::OperationView;
use crate::{Nothing, Page, operations};

/// Which disks to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskListQuery {
    /// Name or id of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Name or id of a super node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
    /// Continue after this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Items per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The system disk of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskView {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: Name,
    /// The name of its super node.
    pub super_node_name: Option<Name>,
    /// The layout and whether it can grow; absent if its agent has not said.
    pub system_disk: Option<SystemDisk>,
    /// How full it is; absent if its agent has not said.
    pub usage: Option<DiskUsage>,
    /// How urgent that is.
    pub pressure: DiskPressure,
    /// The expansion that it is in.
    pub operation: Option<OperationId>,
}

/// Grows system disks: exactly one of `nodes` and `super_node`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskExpandRequest {
    /// Which nodes, by name or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// All full members of this super node, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
    /// The size to have, a whole number of GiB.
    pub size_bytes: u64,
    /// Restart nodes where growth needs it; without it, such a node fails.
    #[serde(default)]
    pub allow_restart: bool,
    /// How jobs on a node that has to restart are treated; `refuse` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainMode>,
    /// How many nodes restart at a time; 1 when absent. With `fail_fast`, how many are in work at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Begin no further node once one has failed.
    #[serde(default)]
    pub fail_fast: bool,
    /// Seconds until the operation is given up; 900 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// What an expansion would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskExpandPlan {
    /// The size that every disk would have.
    pub size_bytes: u64,
    /// The nodes.
    pub nodes: Vec<PlannedDisk>,
}

/// What an expansion would do to one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedDisk {
    /// The node's name.
    pub node_name: Name,
    /// The kernel's name of the disk.
    pub disk: String,
    /// Its present size.
    pub present_bytes: u64,
    /// The steps in their order; one whose layer is large enough changes nothing.
    pub steps: Vec<DiskStep>,
    /// Whether every layer has the size already.
    pub at_size: bool,
    /// Jobs that run on the node; they go on unless it has to restart.
    pub jobs: Vec<JobId>,
}

operations! {
    DiskList = "disk_list" Get "/api/v1/disks" 200 Viewer (DiskListQuery, Nothing) -> Page<DiskView>, "List the system disks of nodes with their layout and whether they can grow.";
    DiskExpand = "disk_expand" Post "/api/v1/disks/expand" 202 Operator (Nothing, DiskExpandRequest) -> OperationView, "Grow the system disks of nodes: device, partition, volume and file system.";
    DiskPlan = "disk_expand_plan" Post "/api/v1/disks/expand/plan" 200 Viewer (Nothing, DiskExpandRequest) -> DiskExpandPlan, "Show what growing system disks would do, or why it is refused; changes nothing.";
}
