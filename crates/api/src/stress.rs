//! Stress tests: runs, what came of them, and what was measured.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::node::NodeHealth;
use supernode_types::stress::{
    Item, Share, StepEvidence, StressNetwork, StressPair, StressResult, Tier,
};
use supernode_types::{Name, NodeId, Timestamp};

use crate::operation::OperationView;
use crate::{Nothing, Page, operations};

/// How long busy nodes are waited for when a request does not say.
pub const DEFAULT_WINDOW_SECONDS: u64 = 3600;

/// Tests nodes: those that are named, or all full members of a super node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StressRunRequest {
    /// A super node by name or id; with `nodes`, they have to be members of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
    /// Which nodes, by name or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What is tested; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// How much is tested.
    pub tier: Tier,
    /// How many nodes are tested at a time, as a number or a share; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nodes: Option<Share>,
    /// Seconds for which busy nodes are waited for; then they are skipped. 3600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u64>,
    /// How long each kernel runs, in seconds; the tier's own times when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_seconds: Option<u32>,
    /// Names of the channels that are told what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Name>,
}

/// A run, with what came of it so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressRunView {
    /// The run as an operation, its targets being the nodes.
    pub operation: OperationView,
    /// What came of each node that is through, by name; of its test alone while the network is tested.
    pub results: Vec<StressResultView>,
    /// The test of the network between the nodes, once it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<StressNetworkView>,
}

/// The test of the network between the nodes of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressNetworkView {
    /// How far it is, and what it found.
    #[serde(flatten)]
    pub network: StressNetwork,
    /// Its pairs, in their order.
    pub pairs: Vec<StressPairView>,
}

/// Two nodes that measured the network between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressPairView {
    /// The name of the node that asked.
    pub asker_name: Name,
    /// The name of the node that listened.
    pub listener_name: Name,
    /// The pair.
    #[serde(flatten)]
    pub pair: StressPair,
}

/// What came of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressResultView {
    /// The node's name.
    pub node_name: Name,
    /// What came of it.
    #[serde(flatten)]
    pub result: StressResult,
}

/// Which runs to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StressRunListQuery {
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

/// A run in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressRunLine {
    /// The run as an operation.
    pub operation: OperationView,
    /// How many nodes came to each outcome so far, by its word.
    pub outcomes: BTreeMap<String, u32>,
}

/// Which measurements to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StressEvidenceQuery {
    /// Only of this node, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Continue after this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Nodes per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What one node measured in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressEvidence {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: Name,
    /// What came of it; absent while it is tested.
    pub result: Option<StressResult>,
    /// Round by round, what each kernel said; empty where it is not kept any more.
    pub rounds: Vec<Vec<StepEvidence>>,
    /// The pairs that it was in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<StressPairView>,
}

/// Why a node has the health that it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeHealthView {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: Name,
    /// What testing says of it.
    pub health: NodeHealth,
    /// When it passed a test last.
    pub last_passed: Option<Timestamp>,
    /// The whole chain in words, a sentence each.
    pub explanation: Vec<String>,
    /// What came of its latest tests, newest first.
    pub results: Vec<StressResult>,
}

/// Takes a node out of quarantine without a test.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeReleaseRequest {
    /// Why it may be trusted; goes into the audit log.
    pub reason: String,
    /// Parts were replaced: what they were like before is forgotten.
    #[serde(default)]
    pub repaired: bool,
}

operations! {
    StressRunStart = "stress_run" Post "/api/v1/stress/runs" 202 Operator (Nothing, StressRunRequest) -> OperationView, "Test nodes: computing, memory, links and storage, and the network between them.";
    StressRunList = "stress_run_list" Get "/api/v1/stress/runs" 200 Viewer (StressRunListQuery, Nothing) -> Page<StressRunLine>, "List stress runs, newest first.";
    StressRunShow = "stress_run_show" Get "/api/v1/stress/runs/{run}" 200 Viewer (Nothing, Nothing) -> StressRunView, "Show a stress run with what came of each node.";
    NodeHealthShow = "node_health_show" Get "/api/v1/nodes/{node}/health" 200 Viewer (Nothing, Nothing) -> NodeHealthView, "Explain what testing says of a node, with the tests that say it.";
    NodeRelease = "node_release" Post "/api/v1/nodes/{node}/release" 200 Operator (Nothing, NodeReleaseRequest) -> crate::node::NodeView, "Take a node out of quarantine without a test, on an operator's word.";
    StressEvidenceList = "stress_evidence_list" Get "/api/v1/stress/runs/{run}/evidence" 200 Viewer (StressEvidenceQuery, Nothing) -> Page<StressEvidence>, "List what the nodes of a stress run measured.";
}
