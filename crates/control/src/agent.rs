//! What an agent reported becomes fact: written only where it changed.

use supernode_store::attempt::rank_advance;
use supernode_store::event::event_insert;
use supernode_store::node::{inventory_get, inventory_put, node_get, node_list_of, node_update};
use supernode_store::spec::{SpecRecord, spec_list};
use supernode_store::super_node::{super_node_get, super_node_update};
use supernode_store::{StoreError, Tx};
use supernode_types::agent::Observed;
use supernode_types::environment::ItemState;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::inventory::Inventory;
use supernode_types::node::{Node, NodePolicy, SpecMatch};
use supernode_types::spec::{best_match, matches};
use supernode_types::{Generation, NodeId, Timestamp};

/// What a sync led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Stored.
    Stored {
        /// What the node should have; the agent is told again if it has another.
        desired_generation: Generation,
        /// Whether anything changed, so that the loop should look.
        changed: bool,
    },
    /// The node was removed: the connection has to be closed.
    Removed,
}

/// Records what the agent of `id` observed. `stored_generation` is the desired generation that the agent has.
pub fn sync(tx: &mut Tx<'_>, id: &NodeId, stored_generation: Generation, observed: Option<&Observed>, now: Timestamp) -> Result<SyncOutcome, StoreError> {
    let Some(before) = node_get(tx, id)? else { return Ok(SyncOutcome::Removed) };
    if before.policy == NodePolicy::Removed {
        return Ok(SyncOutcome::Removed);
    }
    let mut node = before.clone();
    let mut changed = false;
    if let Some(observed) = observed {
        node.agent_version.clone_from(&observed.agent_version);
        node.environment_applied = observed.environment_applied;
        node.environment_problems = observed.environment_items.iter().filter_map(ItemState::problem).collect();
        if node.boot_id != observed.boot_id {
            note_restart(tx, &node, now)?;
            node.boot_id.clone_from(&observed.boot_id);
        }
        if node.address != observed.address {
            node.address.clone_from(&observed.address);
            tell_members(tx, &mut node)?;
        }
        if let Some(inventory) = &observed.inventory {
            changed |= record_inventory(tx, &mut node, inventory, now)?;
        }
        for rank in &observed.ranks {
            changed |= rank_advance(tx, &rank.attempt, rank.rank, &rank.state)?;
        }
    }
    // A server that was restored from a backup may know less than its agents were told; going on above them keeps "larger is newer" true.
    if stored_generation > node.desired_generation {
        node.desired_generation = stored_generation + 1;
    }
    if node != before {
        node_update(tx, &mut node)?;
        changed = true;
    }
    Ok(SyncOutcome::Stored { desired_generation: node.desired_generation, changed })
}

fn note_restart(tx: &mut Tx<'_>, node: &Node, now: Timestamp) -> Result<(), StoreError> {
    if !node.boot_id.is_empty() {
        let subjects = Subjects { node: Some(node.id.clone()), super_node: node.membership.super_node().cloned(), ..Subjects::default() };
        let message = format!("{} was restarted", node.name);
        event_insert(tx, &NewEvent { kind: "node.restarted", severity: Severity::Warning, message, subjects }, now)?;
    }
    Ok(())
}

/// The other members of the node's super node have to learn its new address.
fn tell_members(tx: &mut Tx<'_>, node: &mut Node) -> Result<(), StoreError> {
    let Some(super_node) = node.membership.super_node().cloned() else { return Ok(()) };
    if !node.membership.listed_in(&super_node) {
        return Ok(());
    }
    if let Some(mut record) = super_node_get(tx, &super_node)? {
        record.environment_generation += 1;
        super_node_update(tx, &mut record)?;
    }
    for mut other in node_list_of(tx, &super_node)? {
        if other.id != node.id && other.membership.listed_in(&super_node) {
            other.desired_generation += 1;
            node_update(tx, &mut other)?;
        }
    }
    node.desired_generation += 1;
    Ok(())
}

fn record_inventory(tx: &mut Tx<'_>, node: &mut Node, inventory: &Inventory, now: Timestamp) -> Result<bool, StoreError> {
    node.device_count = inventory.device_count();
    node.spec = match_spec(tx, inventory)?;
    discover_position(node, inventory);
    if inventory_get(tx, &node.id)?.as_ref() == Some(inventory) {
        return Ok(false);
    }
    inventory_put(tx, &node.id, inventory, now)?;
    Ok(true)
}

/// The spec that an inventory matches, among all that are declared.
pub(crate) fn match_spec(tx: &mut Tx<'_>, inventory: &Inventory) -> Result<SpecMatch, StoreError> {
    let specs = spec_list(tx)?;
    if specs.is_empty() {
        return Ok(SpecMatch::Unknown);
    }
    let candidates: Vec<_> = specs.iter().map(|spec| (spec.name.as_str(), &spec.definition)).collect();
    Ok(match best_match(candidates, inventory) {
        Ok(Some(name)) => specs.iter().find(|spec| spec.name.as_str() == name).map_or(SpecMatch::Unknown, |spec| SpecMatch::Matches { spec: spec.id.clone() }),
        Ok(None) => SpecMatch::Differs { differences: differences(&specs, inventory) },
        Err(ambiguous) => SpecMatch::Differs { differences: vec![ambiguous.to_string()] },
    })
}

/// Which fact differs from which spec.
fn differences(specs: &[SpecRecord], inventory: &Inventory) -> Vec<String> {
    let of = |spec: &SpecRecord| {
        let found = matches(&spec.definition, inventory).err().unwrap_or_default();
        found.iter().map(|difference| format!("spec {}: {difference}", spec.name)).collect::<Vec<_>>()
    };
    specs.iter().flat_map(of).collect()
}

/// Hardware that says in which super pod it sits beats a label that a person typed.
fn discover_position(node: &mut Node, inventory: &Inventory) {
    if let Some(super_pod) = inventory.accelerators.iter().find_map(|accelerator| accelerator.super_pod_id.as_ref()) {
        node.position.hyperplane = Some(format!("super-pod-{super_pod}"));
    }
}
