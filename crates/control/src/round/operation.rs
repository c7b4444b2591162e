//! What actions and requests do to operations and provisions.

use supernode_store::StoreError;
use supernode_store::operation::{operation_insert, operation_update};
use supernode_store::token::join_token_revoke_provision;
use supernode_types::event::{Severity, Subjects};
use supernode_types::node::{Cordon, Node, NodePolicy};
use supernode_types::operation::{Operation, OperationState, ProvisionState, Target};
use supernode_types::{OperationId, ProvisionId};

use super::{Round, missing};

impl Round<'_, '_> {
    fn operation(&mut self, id: &OperationId) -> Result<&mut Operation, StoreError> {
        self.operations.insert(id.clone());
        let found = self.snapshot.operations.get_mut(id);
        found.ok_or_else(|| missing("operation"))
    }

    pub(super) fn target(
        &mut self,
        operation: &OperationId,
        slot: u32,
    ) -> Result<&mut Target, StoreError> {
        let targets = &mut self.operation(operation)?.targets;
        let found = targets.iter_mut().find(|target| target.slot == slot);
        found.ok_or_else(|| missing("operation target"))
    }

    /// Adds a new operation.
    pub(crate) fn insert_operation(&mut self, operation: Operation) -> Result<(), StoreError> {
        let super_node = operation
            .super_node
            .as_ref()
            .and_then(|id| self.snapshot.super_nodes.get(id));
        let name = super_node.map(|super_node| super_node.name.clone());
        operation_insert(self.tx, &operation, name.as_ref())?;
        let message = format!(
            "{} {} was accepted from {}",
            operation.kind.word(),
            operation.id,
            operation.actor
        );
        let subjects = subjects(&operation);
        self.tell("operation.accepted", Severity::Info, message, subjects)?;
        let id = operation.id.clone();
        self.snapshot.operations.insert(id, operation);
        Ok(())
    }

    pub(super) fn set_operation(
        &mut self,
        id: &OperationId,
        state: OperationState,
    ) -> Result<(), StoreError> {
        let (kind, severity, what) = match &state {
            OperationState::Running { .. } => {
                self.operation(id)?.state = state;
                return Ok(());
            }
            OperationState::Succeeded => {
                ("operation.succeeded", Severity::Info, "succeeded".into())
            }
            OperationState::Failed { reason } => (
                "operation.failed",
                Severity::Error,
                format!("failed: {reason}"),
            ),
            OperationState::Cancelled { detail } => (
                "operation.cancelled",
                Severity::Info,
                format!("was cancelled: {detail}"),
            ),
        };
        let found = self.snapshot.operations.remove(id);
        let mut operation = found.ok_or_else(|| missing("operation"))?;
        operation.state = state;
        operation.ended_at = Some(self.snapshot.now);
        operation_update(self.tx, &mut operation)?;
        self.clean_up(&operation)?;
        self.resume(&operation)?;
        self.put_back(&operation)?;
        let message = format!("{} {} {what}", operation.kind.word(), operation.id);
        self.tell(kind, severity, message, subjects(&operation))
    }

    /// A provisioner that failed to make a node may have made it all the same: it is asked to take it away, so that no machine is
    /// left that nobody knows of.
    fn clean_up(&mut self, operation: &Operation) -> Result<(), StoreError> {
        for id in operation
            .targets
            .iter()
            .filter_map(|target| target.provision.as_ref())
        {
            let unsure = self.snapshot.provisions.get(id).is_some_and(|provision| {
                provision.node.is_none() && matches!(provision.state, ProvisionState::Failed { .. })
            });
            if unsure {
                let message = "whether it was made is not known".into();
                self.set_provision(id, ProvisionState::Deleting { message })?;
            }
        }
        Ok(())
    }

    /// No node is drained by an operation that has ended. One that its provisioner still deletes gets no new work.
    fn put_back(&mut self, operation: &Operation) -> Result<(), StoreError> {
        let drained = |node: &&Node| matches!(&node.policy, NodePolicy::Draining { operation: by, .. } if *by == operation.id);
        let all = self.snapshot.nodes.values();
        let left: Vec<Node> = all.filter(drained).cloned().collect();
        for node in left {
            let provision = node.provision.as_ref();
            let found = provision.and_then(|id| self.snapshot.provisions.get(id));
            let goes =
                found.is_some_and(|found| matches!(found.state, ProvisionState::Deleting { .. }));
            let policy = match node.policy.drained() {
                NodePolicy::InService if goes => NodePolicy::Cordoned(Cordon {
                    by: operation.actor.clone(),
                    reason: "its provisioner deletes it; remove it when that is done".into(),
                }),
                policy => policy,
            };
            self.set_policy(&node.id, policy)?;
        }
        Ok(())
    }

    /// A super node whose deletion was taken back is as any other again.
    fn resume(&mut self, operation: &Operation) -> Result<(), StoreError> {
        let Some(id) = &operation.super_node else {
            return Ok(());
        };
        let found = self.snapshot.super_nodes.get(id);
        if found.is_some_and(|found| found.deleting.as_ref() == Some(&operation.id)) {
            self.super_node(id)?.deleting = None;
        }
        Ok(())
    }

    /// A node that is not wanted any more cannot enrol any more.
    pub(super) fn set_provision(
        &mut self,
        id: &ProvisionId,
        state: ProvisionState,
    ) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        if matches!(state, ProvisionState::Deleting { .. }) {
            join_token_revoke_provision(self.tx, id, now)?;
        }
        self.provisions.insert(id.clone());
        let found = self.snapshot.provisions.get_mut(id);
        let provision = found.ok_or_else(|| missing("provision"))?;
        provision.state = state;
        provision.calls = 0;
        provision.next_call_at = now;
        Ok(())
    }
}

fn subjects(operation: &Operation) -> Subjects {
    Subjects {
        operation: Some(operation.id.clone()),
        super_node: operation.super_node.clone(),
        ..Subjects::default()
    }
}
