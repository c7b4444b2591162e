//! Nodes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::inventory::Inventory;
use supernode_types::job::Lease;
use supernode_types::node::{Node, Position};
use supernode_types::{Name, Timestamp};

use crate::{Nothing, Page, Watch, operations};

/// Which nodes to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeListQuery {
    /// Name or id of a super node; `-` for spares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
    /// `in_service`, `cordoned`, `draining`, `removed`; removed nodes are listed only when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `unknown`, `joining`, `ready`, `degraded`, `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Continue after this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Items per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A node in a list, with the names that its ids stand for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// The node.
    #[serde(flatten)]
    pub node: Node,
    /// The name of its super node.
    pub super_node_name: Option<Name>,
    /// The name of its spec.
    pub spec_name: Option<Name>,
    /// Devices that jobs hold.
    pub leased_devices: u32,
    /// When the server heard from it last, if it did since it started.
    pub last_contact_at: Option<Timestamp>,
    /// When its certificate ends.
    pub certificate_ends_at: Option<Timestamp>,
}

/// One node with everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDetail {
    /// The node.
    #[serde(flatten)]
    pub view: NodeView,
    /// What its agent discovered.
    pub inventory: Option<Inventory>,
    /// What runs on it.
    pub leases: Vec<Lease>,
}

/// Changes labels and position. Absent fields stay.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeUpdate {
    /// Replaces all labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Replaces the fabric position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// Why a node is taken out of scheduling.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeCordonRequest {
    /// Shown to everybody who wonders.
    pub reason: String,
}

operations! {
    NodeList = "node_list" Get "/api/v1/nodes" 200 Viewer (NodeListQuery, Nothing) -> Page<NodeView>, "List nodes.";
    NodeShow = "node_show" Get "/api/v1/nodes/{node}" 200 Viewer (Watch, Nothing) -> NodeDetail, "Show a node with its inventory and leases.";
    NodePatch = "node_update" Patch "/api/v1/nodes/{node}" 200 Operator (Nothing, NodeUpdate) -> NodeView, "Change a node's labels or fabric position.";
    NodeCordon = "node_cordon" Post "/api/v1/nodes/{node}/cordon" 200 Operator (Nothing, NodeCordonRequest) -> NodeView, "Keep new jobs away from a node.";
    NodeUncordon = "node_uncordon" Post "/api/v1/nodes/{node}/uncordon" 200 Operator (Nothing, Nothing) -> NodeView, "Let jobs be placed on a node again.";
    NodeRemove = "node_remove" Delete "/api/v1/nodes/{node}" 202 Operator (Nothing, Nothing) -> crate::operation::OperationView, "Take a spare out for good: revokes its certificate and gives it back to its provisioner.";
}
