//! Operations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::Name;
use supernode_types::operation::Operation;

use crate::{Nothing, Page, Watch, operations};

/// An operation with the names that its ids stand for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationView {
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// The name of its super node, also after that was deleted.
    pub super_node_name: Option<Name>,
    /// The name of each target's node by slot; the name that it will have when a provisioner makes it.
    pub target_names: Vec<Option<String>>,
    /// Targets that are done, of all.
    pub targets_done: u32,
}

/// Which operations to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationListQuery {
    /// Name or id of a super node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
    /// `running`, `succeeded`, `failed`, `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Continue after this page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Items per page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

operations! {
    OperationList = "operation_list" Get "/api/v1/operations" 200 Viewer (OperationListQuery, Nothing) -> Page<OperationView>, "List operations, newest first.";
    OperationShow = "operation_show" Get "/api/v1/operations/{operation}" 200 Viewer (Watch, Nothing) -> OperationView, "Show an operation with its targets.";
    OperationCancel = "operation_cancel" Post "/api/v1/operations/{operation}/cancel" 202 Operator (Nothing, Nothing) -> OperationView, "Cancel an operation.";
}
