//! Declaring and deleting specs.

use supernode_store::node::{inventory_get, node_find, node_list, node_update};
use supernode_store::spec::{SpecRecord, spec_delete, spec_find, spec_insert};
use supernode_store::super_node::super_node_list;
use supernode_store::{StoreError, Tx};
use supernode_types::disk::DEFAULT_MAXIMUM_SYSTEM_DISK_GIB;
use supernode_types::spec::SpecDefinition;
use supernode_types::{Name, SpecId};

use crate::agent::match_node;
use crate::intent::check_name;
use crate::{Intent, Refusal};

/// Where a definition comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Written by hand.
    Definition(Box<SpecDefinition>),
    /// What this node (by name or id) has.
    Node(String),
}

/// What a spec allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maximums {
    /// Nodes in one super node.
    pub nodes: u32,
    /// GiB of the system disk of a node.
    pub disk_gib: u32,
}

impl Maximums {
    /// So many nodes, and the usual system disk.
    pub fn nodes(nodes: u32) -> Self {
        Self {
            nodes,
            disk_gib: DEFAULT_MAXIMUM_SYSTEM_DISK_GIB,
        }
    }
}

/// The spec with this name or id.
pub fn find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<SpecRecord, Refusal> {
    spec_find(tx, id_or_name)?.ok_or_else(|| Refusal::not_found("spec", "spec", id_or_name))
}

/// Declares a spec and matches every node anew.
pub fn declare(
    tx: &mut Tx<'_>,
    intent: &Intent,
    name: &Name,
    source: &Source,
    maximums: Maximums,
) -> Result<SpecRecord, Refusal> {
    let limits = [
        ("maximum_nodes", maximums.nodes),
        ("maximum_disk_gib", maximums.disk_gib),
    ];
    for (field, value) in limits {
        if !(1..=100_000).contains(&value) {
            return Err(Refusal::Invalid(format!(
                "{field} is {value}; it must be between 1 and 100000"
            )));
        }
    }
    let definition = match source {
        Source::Definition(definition) => (**definition).clone(),
        Source::Node(node) => {
            let found =
                node_find(tx, node)?.ok_or_else(|| Refusal::not_found("node", "node", node))?;
            let inventory = inventory_get(tx, &found.id)?.ok_or_else(|| {
                Refusal::Conflict(format!(
                    "node {} has not reported its inventory yet; wait until it is connected",
                    found.name
                ))
            })?;
            SpecDefinition::learn(&inventory)
        }
    };
    definition
        .validate()
        .map_err(|error| Refusal::Invalid(error.to_string()))?;
    check_name::<SpecId>(name)?;
    if spec_find(tx, name.as_str())?.is_some() {
        return Err(Refusal::AlreadyExists(format!(
            "there is a spec named {name} already; choose another name or delete it"
        )));
    }
    let spec = SpecRecord {
        id: SpecId::new(intent.now, &*intent.entropy),
        name: name.clone(),
        definition,
        maximum_nodes: maximums.nodes,
        maximum_disk_gib: maximums.disk_gib,
        generation: 1,
        created_at: intent.now,
    };
    spec_insert(tx, &spec)?;
    match_all(tx)?;
    Ok(spec)
}

/// Deletes a spec that no super node uses.
pub fn delete(tx: &mut Tx<'_>, intent: &Intent, id_or_name: &str) -> Result<SpecRecord, Refusal> {
    let spec = find(tx, id_or_name)?;
    intent.check_generation("spec", spec.name.as_str(), spec.generation)?;
    if let Some(user) = super_node_list(tx)?
        .into_iter()
        .find(|super_node| super_node.spec == spec.id)
    {
        return Err(Refusal::Conflict(format!(
            "spec {} is the spec of super node {}; delete that first",
            spec.name, user.name
        )));
    }
    spec_delete(tx, &spec.id)?;
    match_all(tx)?;
    Ok(spec)
}

/// Another set of specs can change what any node matches.
fn match_all(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    for mut node in node_list(tx)? {
        let Some(inventory) = inventory_get(tx, &node.id)? else {
            continue;
        };
        let matched = match_node(tx, &node, &inventory)?;
        if matched != node.spec {
            node.spec = matched;
            node_update(tx, &mut node)?;
        }
    }
    Ok(())
}
