//! The environment of a super node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::environment::EnvironmentDocument;
use supernode_types::{Generation, Name, Timestamp};

use crate::operation::OperationView;
use crate::{Nothing, Page, operations};

/// Which revision to show.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentQuery {
    /// The revision; the one in force when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentRevision {
    /// Its number, from 1.
    pub revision: i64,
    /// What it says.
    pub document: EnvironmentDocument,
    /// Who wrote it.
    pub actor: String,
    /// When.
    pub created_at: Timestamp,
}

/// A revision and how each member stands to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentDetail {
    /// The revision.
    #[serde(flatten)]
    pub revision: EnvironmentRevision,
    /// What members must have applied now.
    pub generation: Generation,
    /// Each member's state.
    pub members: Vec<EnvironmentMember>,
}

/// How one member stands to the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentMember {
    /// The node's name.
    pub node: Name,
    /// What it applied.
    pub applied_generation: Generation,
    /// What is not as wanted.
    pub problems: Vec<String>,
}

operations! {
    EnvironmentShow = "environment_show" Get "/api/v1/super-nodes/{super_node}/environment" 200 Viewer (EnvironmentQuery, Nothing) -> EnvironmentDetail, "Show the environment of a super node and each member's drift from it.";
    EnvironmentHistory = "environment_history" Get "/api/v1/super-nodes/{super_node}/environment/revisions" 200 Viewer (Nothing, Nothing) -> Page<EnvironmentRevision>, "List the revisions of an environment.";
    EnvironmentSet = "environment_set" Put "/api/v1/super-nodes/{super_node}/environment" 202 Operator (Nothing, EnvironmentDocument) -> OperationView, "Write a new revision and roll it out to all members.";
}
