//! Hardware specifications.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_types::spec::SpecDefinition;
use supernode_types::{Generation, Name, SpecId, Timestamp};

use crate::{Nothing, Page, operations};

/// A declared spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpecView {
    /// Its id.
    pub id: SpecId,
    /// Its name, unique.
    pub name: Name,
    /// What a node must have.
    pub definition: SpecDefinition,
    /// The most nodes of it in one super node.
    pub maximum_nodes: u32,
    /// The largest system disk of a node of it, in GiB.
    pub maximum_disk_gib: u32,
    /// How many nodes match it.
    pub matching_nodes: u32,
    /// Increases with every change.
    pub generation: Generation,
    /// When it was declared.
    pub created_at: Timestamp,
}

/// Declares a spec, from a definition or from a node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpecCreate {
    /// Its name.
    pub name: Name,
    /// What a node must have; or use `learn_from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<SpecDefinition>,
    /// Name or id of a node whose inventory becomes the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learn_from: Option<String>,
    /// The most nodes in one super node; 48 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_nodes: Option<u32>,
    /// The largest system disk of a node, in GiB; 1024 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_disk_gib: Option<u32>,
}

/// The maximum when a spec does not say.
pub const DEFAULT_MAXIMUM_NODES: u32 = 48;

operations! {
    SpecList = "spec_list" Get "/api/v1/specs" 200 Viewer (Nothing, Nothing) -> Page<SpecView>, "List declared specs.";
    SpecShow = "spec_show" Get "/api/v1/specs/{spec}" 200 Viewer (Nothing, Nothing) -> SpecView, "Show a spec.";
    SpecDeclare = "spec_create" Post "/api/v1/specs" 201 Admin (Nothing, SpecCreate) -> SpecView, "Declare a spec, from a definition or from a node.";
    SpecDelete = "spec_delete" Delete "/api/v1/specs/{spec}" 200 Admin (Nothing, Nothing) -> Nothing, "Delete a spec that no super node uses.";
}
