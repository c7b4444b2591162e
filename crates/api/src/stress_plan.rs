//! Schedules of stress tests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::stress::{StressPlan, StressTerms};
use supernode_types::{Name, Timestamp};

use crate::{Nothing, Page, operations};

/// Makes a plan.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StressPlanRequest {
    /// The super node by name or id.
    pub super_node: String,
    /// What it does each time, and when.
    pub terms: StressTerms,
}

/// Changes a plan. Absent fields stay.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StressPlanUpdate {
    /// Replaces what it does each time, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<StressTerms>,
    /// Pauses or resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// A plan with the name of its super node and its next times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StressPlanView {
    /// The plan.
    #[serde(flatten)]
    pub plan: StressPlan,
    /// The name of its super node.
    pub super_node_name: Name,
    /// The next times; none while it is paused. A run may be put off by the jitter.
    pub upcoming: Vec<Timestamp>,
}

/// Which plans to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StressPlanListQuery {
    /// Name or id of a super node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_node: Option<String>,
}

operations! {
    StressPlanCreate = "stress_plan_create" Post "/api/v1/stress/plans" 201 Operator (Nothing, StressPlanRequest) -> StressPlanView, "Make a plan by which a super node tests itself.";
    StressPlanList = "stress_plan_list" Get "/api/v1/stress/plans" 200 Viewer (StressPlanListQuery, Nothing) -> Page<StressPlanView>, "List the plans of stress tests with their next times.";
    StressPlanShow = "stress_plan_show" Get "/api/v1/stress/plans/{plan}" 200 Viewer (Nothing, Nothing) -> StressPlanView, "Show a plan of stress tests.";
    StressPlanPatch = "stress_plan_update" Patch "/api/v1/stress/plans/{plan}" 200 Operator (Nothing, StressPlanUpdate) -> StressPlanView, "Change, pause or resume a plan of stress tests.";
    StressPlanDelete = "stress_plan_delete" Delete "/api/v1/stress/plans/{plan}" 200 Operator (Nothing, Nothing) -> Nothing, "Delete a plan of stress tests; its runs stay.";
}
