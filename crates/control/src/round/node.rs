//! What actions and requests do to nodes.

use supernode_store::StoreError;
use supernode_store::certificate::certificate_revoke_all;
use supernode_store::node::{inventory_get, node_update};
use supernode_types::disk::DiskWork;
use supernode_types::event::{Severity, Subjects};
use supernode_types::node::{Membership, Node, NodeCondition, NodePolicy};
use supernode_types::{NodeId, OperationId, SuperNodeId};

use super::{Round, missing};
use crate::Refusal;
use crate::agent::match_spec;

impl Round<'_, '_> {
    /// A node that a plan or a check just named; the snapshot has it because both read the same snapshot.
    pub(super) fn node(&mut self, id: &NodeId) -> Result<&mut Node, StoreError> {
        self.nodes.insert(id.clone());
        self.snapshot
            .nodes
            .get_mut(id)
            .ok_or_else(|| missing("node"))
    }

    pub(super) fn node_subjects(&self, node: &NodeId) -> Subjects {
        let found = self.snapshot.nodes.get(node);
        Subjects {
            node: Some(node.clone()),
            super_node: found.and_then(|node| node.membership.super_node()).cloned(),
            ..Subjects::default()
        }
    }

    /// Makes a spare join.
    pub(crate) fn claim(
        &mut self,
        node: &NodeId,
        super_node: &SuperNodeId,
        operation: &OperationId,
    ) -> Result<(), StoreError> {
        let record = self.node(node)?;
        record.membership = Membership::Joining {
            super_node: super_node.clone(),
            operation: operation.clone(),
        };
        record.condition = NodeCondition::Joining {
            step: "waits for the environment of its super node".into(),
        };
        self.environment_changed(super_node)
    }

    /// Takes a node out of scheduling on behalf of `operation`.
    pub(crate) fn drain(&mut self, id: &NodeId, operation: &OperationId) -> Result<(), Refusal> {
        let node = self.node(id)?;
        let drained = node.policy.clone().drain(operation.clone());
        node.policy = drained
            .map_err(|refusal| Refusal::Conflict(format!("node {}: {refusal}", node.name)))?;
        Ok(())
    }

    pub(super) fn set_policy(
        &mut self,
        node: &NodeId,
        policy: NodePolicy,
    ) -> Result<(), StoreError> {
        self.node(node)?.policy = policy;
        Ok(())
    }

    /// Only what the agent has to do is told to it: what it reported itself is no news to it.
    pub(super) fn set_disk(
        &mut self,
        id: &NodeId,
        work: Option<DiskWork>,
    ) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let wish = |work: &Option<DiskWork>| work.as_ref().and_then(DiskWork::wish);
        let news = wish(&node.disk.work) != wish(&work);
        node.disk.work = work;
        if news {
            self.told.insert(id.clone());
        }
        Ok(())
    }

    pub(super) fn set_condition(
        &mut self,
        id: &NodeId,
        condition: NodeCondition,
    ) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let event = supernode_plan::condition::event(node, &condition);
        node.condition = condition;
        event.map_or(Ok(()), |event| {
            self.tell(event.kind, event.severity, event.message, event.subjects)
        })
    }

    pub(super) fn join(&mut self, id: &NodeId) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let Some(super_node) = node.membership.super_node().cloned() else {
            return Err(missing("membership"));
        };
        node.membership = Membership::Member { super_node };
        let message = format!("{} is a member now", node.name);
        let subjects = self.node_subjects(id);
        self.tell("node.joined", Severity::Info, message, subjects)
    }

    /// The node is told to clean itself. What its agent reports of the environment stays as it is: generations are never used
    /// twice, so an agent that still applies the former environment says so, and is a spare that is not ready until it is clean.
    pub(super) fn leave(&mut self, id: &NodeId, operation: OperationId) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let Some(super_node) = node.membership.super_node().cloned() else {
            return Err(missing("membership"));
        };
        node.membership = Membership::Leaving {
            super_node: super_node.clone(),
            operation,
        };
        // Not clean until its agent, having heard of this, says so: it may be applying the environment just now.
        node.environment_applied = node.environment_applied.max(1);
        self.told.insert(id.clone());
        self.environment_changed(&super_node)
    }

    pub(super) fn release(&mut self, id: &NodeId) -> Result<(), StoreError> {
        let subjects = self.node_subjects(id);
        // As a member it counted as what its super node is made of; as a spare it is what fits it best.
        let inventory = inventory_get(self.tx, id)?;
        let spec = match &inventory {
            Some(inventory) => Some(match_spec(self.tx, inventory, None)?),
            None => None,
        };
        let node = self.node(id)?;
        node.membership = Membership::Spare;
        node.stress.replacement = None;
        node.spec = spec.unwrap_or_else(|| node.spec.clone());
        let message = format!("{} left and is a spare now", node.name);
        self.told.insert(id.clone());
        self.tell("node.left", Severity::Info, message, subjects)
    }

    /// The node leaves the snapshot, too: nothing is planned for it any more.
    pub(super) fn remove(&mut self, id: &NodeId) -> Result<(), StoreError> {
        let subjects = self.node_subjects(id);
        let found = self.snapshot.nodes.remove(id);
        let mut node = found.ok_or_else(|| missing("node"))?;
        node.policy = NodePolicy::Removed;
        node_update(self.tx, &mut node)?;
        certificate_revoke_all(self.tx, id, self.snapshot.now)?;
        self.told.remove(id);
        self.removed.insert(id.clone());
        let message = format!("{} was removed; its certificates are revoked", node.name);
        self.tell("node.removed", Severity::Info, message, subjects)
    }
}
