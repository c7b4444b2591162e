//! The retry policy of a super node: operator-level re-execution.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::retry_policy::{RetryFinding, RetryLibrary, RetryPolicy, RetryTime};
use supernode_types::{Generation, Name};

use crate::{Nothing, operations};

/// A policy, and what it comes to on the present members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetryPolicyDetail {
    /// The name of the super node.
    pub super_node_name: Name,
    /// The generation of the super node, for `If-Match`.
    pub generation: Generation,
    /// The policy; absent while nobody has set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RetryPolicy>,
    /// The library of the members; absent while no member is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<RetryLibrary>,
    /// The variables that ranks of jobs that start now get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The times that follow from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<RetryTime>,
    /// What the library cannot do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// What stands in the way of a job on all members, or may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<RetryFinding>,
}

operations! {
    RetryPolicyShow = "retry_policy_show" Get "/api/v1/super-nodes/{super_node}/retry-policy" 200 Viewer (Nothing, Nothing) -> RetryPolicyDetail, "Show the retry policy of a super node, what it comes to on its members, and what stands in its way.";
    RetryPolicySet = "retry_policy_set" Put "/api/v1/super-nodes/{super_node}/retry-policy" 200 Operator (Nothing, RetryPolicy) -> RetryPolicyDetail, "Enable or disable operator-level re-execution for the jobs of a super node that start from now on.";
}
