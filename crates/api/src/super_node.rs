//! Super nodes: create, scale, rename, delete.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::node::Node;
use supernode_types::super_node::{DrainMode, Replacement, SuperNode};
use supernode_types::{JobId, Name};

use crate::operation::OperationView;
use crate::{Nothing, Page, Watch, operations};

/// A super node in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SuperNodeView {
    /// The super node.
    #[serde(flatten)]
    pub super_node: SuperNode,
    /// The name of its spec.
    pub spec_name: Name,
    /// Full members.
    pub members: u32,
    /// Members that are ready for jobs.
    pub ready: u32,
    /// Nodes that join.
    pub joining: u32,
    /// Nodes that leave.
    pub leaving: u32,
    /// Jobs that hold devices.
    pub running_jobs: u32,
    /// Jobs that wait.
    pub queued_jobs: u32,
}

/// One super node with its members and how each stands to the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SuperNodeDetail {
    /// The super node.
    #[serde(flatten)]
    pub view: SuperNodeView,
    /// Its nodes, also joining and leaving ones.
    pub nodes: Vec<Node>,
    /// Operations that have not ended.
    pub operations: Vec<OperationView>,
}

/// Which nodes: a count or names, exactly one of the two.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuperNodeCreateRequest {
    /// Its name.
    pub name: String,
    /// Name or id of the spec; may be absent when only one is declared, or when `nodes` are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// How many nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Which nodes, by name or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds until the operation is given up; 900 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// Adds nodes: exactly one of `count`, `to` and `nodes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleUpRequest {
    /// How many more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// To how many in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
    /// Which spares, by name or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// They join without the test that the server's settings ask for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_admission: bool,
    /// Seconds until the operation is given up; 900 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// Removes nodes: exactly one of `count` and `nodes`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleDownRequest {
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Which members, by name or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// How running jobs are treated.
    pub drain: DrainMode,
    /// Seconds until the operation is given up; 900 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// Puts a spare in the place of a member.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeReplaceRequest {
    /// The member, by name or id.
    pub node: String,
    /// The spare, by name or id; chosen when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// How running jobs on the member are treated.
    pub drain: DrainMode,
    /// The spare joins without the test that the server's settings ask for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_admission: bool,
    /// Seconds until the operation is given up; 900 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// The deadline of an operation when the request does not say, in seconds.
pub const DEFAULT_DEADLINE_SECONDS: u64 = 900;
/// The longest deadline, in seconds: 30 days.
pub const MAXIMUM_DEADLINE_SECONDS: u64 = 30 * 24 * 3600;

/// Changes what a super node is called and how it is kept. Absent fields stay.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuperNodeUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Replaces all labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Who puts spares in the place of members that a test has quarantined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
}

/// What an operation would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScalePlan {
    /// The nodes, each with the reason.
    pub nodes: Vec<PlannedNode>,
    /// How many nodes a provisioner would have to make.
    pub provisioned: u32,
    /// Members before.
    pub members_before: u32,
    /// Members after.
    pub members_after: u32,
    /// Jobs that run on nodes that would leave.
    pub affected_jobs: Vec<JobId>,
}

/// One node of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedNode {
    /// The node's name.
    pub name: Name,
    /// Why it was chosen.
    pub chosen_because: String,
}

operations! {
    SuperNodeList = "super_node_list" Get "/api/v1/super-nodes" 200 Viewer (Nothing, Nothing) -> Page<SuperNodeView>, "List super nodes.";
    SuperNodeShow = "super_node_show" Get "/api/v1/super-nodes/{super_node}" 200 Viewer (Watch, Nothing) -> SuperNodeDetail, "Show a super node with its members and open operations.";
    SuperNodeCreate = "super_node_create" Post "/api/v1/super-nodes" 202 Operator (Nothing, SuperNodeCreateRequest) -> OperationView, "Create a super node from spares of one spec.";
    SuperNodeCreatePlan = "super_node_create_plan" Post "/api/v1/super-nodes/plan" 200 Viewer (Nothing, SuperNodeCreateRequest) -> ScalePlan, "Show what creating a super node would do; changes nothing.";
    SuperNodePatch = "super_node_update" Patch "/api/v1/super-nodes/{super_node}" 200 Operator (Nothing, SuperNodeUpdate) -> SuperNodeView, "Rename or label a super node, or say who replaces quarantined members.";
    SuperNodeDelete = "super_node_delete" Delete "/api/v1/super-nodes/{super_node}" 202 Operator (Nothing, Nothing) -> OperationView, "Delete a super node; refused while jobs run on it.";
    ScaleUp = "super_node_scale_up" Post "/api/v1/super-nodes/{super_node}/scale-up" 202 Operator (Nothing, ScaleUpRequest) -> OperationView, "Add nodes to a super node.";
    ScaleUpPlan = "super_node_scale_up_plan" Post "/api/v1/super-nodes/{super_node}/scale-up/plan" 200 Viewer (Nothing, ScaleUpRequest) -> ScalePlan, "Show what a scale-up would do; changes nothing.";
    ScaleDown = "super_node_scale_down" Post "/api/v1/super-nodes/{super_node}/scale-down" 202 Operator (Nothing, ScaleDownRequest) -> OperationView, "Remove nodes from a super node.";
    ScaleDownPlan = "super_node_scale_down_plan" Post "/api/v1/super-nodes/{super_node}/scale-down/plan" 200 Viewer (Nothing, ScaleDownRequest) -> ScalePlan, "Show what a scale-down would do; changes nothing.";
    NodeReplace = "super_node_replace" Post "/api/v1/super-nodes/{super_node}/replace" 202 Operator (Nothing, NodeReplaceRequest) -> OperationView, "Put a spare in the place of a member.";
    NodeReplacePlan = "super_node_replace_plan" Post "/api/v1/super-nodes/{super_node}/replace/plan" 200 Viewer (Nothing, NodeReplaceRequest) -> ScalePlan, "Show which spare would take the place of a member; changes nothing.";
}
