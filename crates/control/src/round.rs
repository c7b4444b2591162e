//! One write transaction of the loop, or of a request that changes nodes: a snapshot that is changed in place, then written back.
//!
//! Requests and the loop change nodes, jobs and operations through the same few methods, so a drain that an operator starts and one
//! that the planner ends cannot differ in what they touch. What an action does to its subject stands in [`node`], [`job`],
//! [`operation`], [`stress`] and [`stress_network`].

mod job;
mod node;
mod operation;
mod stress;
mod stress_network;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use supernode_plan::{Action, Contact, Limits, Snapshot};
use supernode_store::environment::environment_generation_next;
use supernode_store::job::job_update;
use supernode_store::node::node_update;
use supernode_store::operation::operation_update;
use supernode_store::provision::provision_update;
use supernode_store::stress_plan::stress_plan_update;
use supernode_store::super_node::{super_node_delete, super_node_insert, super_node_update};
use supernode_store::{ConflictKind, StoreError, Tx};
use supernode_types::channel::Channel;
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::job::JobState;
use supernode_types::super_node::SuperNode;
use supernode_types::{
    Entropy, JobId, Name, NodeId, OperationId, ProvisionId, StressPlanId, SuperNodeId, Timestamp,
};

use crate::{Intent, node_replace, notify};

/// The planner is asked again until it has nothing to add; more rounds than this in one transaction mean that it does not converge,
/// and what is left waits for the next wake-up.
const MAXIMUM_ROUNDS: usize = 16;

/// What a transaction changed, for whoever has to be told after the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Nodes whose desired state changed.
    pub nodes: BTreeSet<NodeId>,
    /// Nodes that were removed: their connections have to be closed.
    pub removed_nodes: BTreeSet<NodeId>,
    /// How many actions were applied.
    pub actions: usize,
    /// Whether the planner still had something to add.
    pub unfinished: bool,
}

/// One pass of the loop: plan and apply until nothing is left to do.
pub fn reconcile<F>(
    tx: &mut Tx<'_>,
    limits: &Limits,
    now: Timestamp,
    entropy: &Arc<dyn Entropy>,
    contacts: F,
) -> Result<Changed, StoreError>
where
    F: FnOnce(&Snapshot) -> BTreeMap<NodeId, Contact>,
{
    let mut round = Round::load(tx, now, limits, entropy)?;
    round.snapshot.contacts = contacts(&round.snapshot);
    let mut applied = 0;
    let mut unfinished = true;
    for _ in 0..MAXIMUM_ROUNDS {
        let actions = supernode_plan::reconcile(&round.snapshot, limits);
        if actions.is_empty() {
            unfinished = false;
            break;
        }
        applied += actions.len();
        for action in actions {
            round.apply(action)?;
        }
    }
    let mut changed = round.finish()?;
    changed.actions = applied;
    changed.unfinished = unfinished;
    Ok(changed)
}

/// A snapshot with the changes that were made to it and are not yet written.
pub(crate) struct Round<'r, 't> {
    tx: &'r mut Tx<'t>,
    /// The present state, changes included.
    pub(crate) snapshot: Snapshot,
    entropy: Arc<dyn Entropy>,
    nodes: BTreeSet<NodeId>,
    told: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
    super_nodes: BTreeSet<SuperNodeId>,
    /// Super nodes whose environment has a new generation already: nobody outside has seen it, so one is enough.
    renewed: BTreeSet<SuperNodeId>,
    deleted_super_nodes: Vec<SuperNodeId>,
    jobs: BTreeSet<JobId>,
    operations: BTreeSet<OperationId>,
    provisions: BTreeSet<ProvisionId>,
    stress_plans: BTreeSet<StressPlanId>,
    /// Who could be told of events; read with the first of them.
    audience: Option<Vec<Channel>>,
}

impl<'r, 't> Round<'r, 't> {
    /// Loads everything that has not ended.
    fn load(
        tx: &'r mut Tx<'t>,
        now: Timestamp,
        limits: &Limits,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let snapshot = crate::snapshot::load(tx, now, limits)?;
        Ok(Self {
            tx,
            snapshot,
            entropy: Arc::clone(entropy),
            nodes: BTreeSet::new(),
            told: BTreeSet::new(),
            removed: BTreeSet::new(),
            super_nodes: BTreeSet::new(),
            renewed: BTreeSet::new(),
            deleted_super_nodes: Vec::new(),
            jobs: BTreeSet::new(),
            operations: BTreeSet::new(),
            provisions: BTreeSet::new(),
            stress_plans: BTreeSet::new(),
            audience: None,
        })
    }

    /// The round of a request.
    pub(crate) fn of(tx: &'r mut Tx<'t>, intent: &Intent) -> Result<Self, StoreError> {
        Self::load(tx, intent.now, &intent.settings.limits(), &intent.entropy)
    }

    /// The transaction, for what is not part of the snapshot.
    pub(crate) fn tx(&mut self) -> &mut Tx<'t> {
        self.tx
    }

    /// Writes everything that changed.
    pub(crate) fn finish(mut self) -> Result<Changed, StoreError> {
        self.tell_nodes();
        let (tx, snapshot) = (&mut *self.tx, &mut self.snapshot);
        for node in changed(&mut snapshot.nodes, &self.nodes) {
            node_update(tx, node)?;
        }
        for super_node in changed(&mut snapshot.super_nodes, &self.super_nodes) {
            super_node_update(tx, super_node)?;
        }
        for job in changed(&mut snapshot.jobs, &self.jobs) {
            job_update(tx, job)?;
        }
        for operation in changed(&mut snapshot.operations, &self.operations) {
            operation_update(tx, operation)?;
        }
        for provision in changed(&mut snapshot.provisions, &self.provisions) {
            provision_update(tx, provision)?;
        }
        for plan in changed(&mut snapshot.stress_plans, &self.stress_plans) {
            stress_plan_update(tx, plan)?;
        }
        for id in &self.deleted_super_nodes {
            super_node_delete(tx, id)?;
        }
        Ok(Changed {
            nodes: self.told,
            removed_nodes: self.removed,
            ..Changed::default()
        })
    }

    /// Gives every node that has to do something else a new desired generation.
    fn tell_nodes(&mut self) {
        for node in self.snapshot.nodes.values_mut() {
            let listed = node
                .membership
                .super_node()
                .is_some_and(|id| self.renewed.contains(id) && node.membership.listed_in(id));
            if listed || self.told.contains(&node.id) {
                node.desired_generation += 1;
                self.told.insert(node.id.clone());
                self.nodes.insert(node.id.clone());
            }
        }
    }

    /// The super node's environment changed: every node that has to have it is told.
    pub(crate) fn environment_changed(&mut self, id: &SuperNodeId) -> Result<(), StoreError> {
        if self.renewed.insert(id.clone()) {
            let generation = environment_generation_next(self.tx)?;
            self.super_node(id)?.environment_generation = generation;
        }
        Ok(())
    }

    /// A super node's record, to change it.
    pub(crate) fn super_node(&mut self, id: &SuperNodeId) -> Result<&mut SuperNode, StoreError> {
        self.super_nodes.insert(id.clone());
        let found = self.snapshot.super_nodes.get_mut(id);
        found.ok_or_else(|| missing("super_node"))
    }

    /// Adds a new super node.
    pub(crate) fn insert_super_node(&mut self, super_node: SuperNode) -> Result<(), StoreError> {
        super_node_insert(self.tx, &super_node)?;
        let id = super_node.id.clone();
        self.snapshot.super_nodes.insert(id, super_node);
        Ok(())
    }

    fn delete_super_node(&mut self, id: SuperNodeId) -> Result<(), StoreError> {
        let found = self.snapshot.super_nodes.remove(&id);
        let super_node = found.ok_or_else(|| missing("super_node"))?;
        let message = format!("super node {} was deleted", super_node.name);
        let subjects = Subjects {
            super_node: Some(id.clone()),
            ..Subjects::default()
        };
        self.deleted_super_nodes.push(id);
        self.tell("super_node.deleted", Severity::Info, message, subjects)
    }

    /// Stores an event and tells it to whoever wants it.
    pub(crate) fn tell(
        &mut self,
        kind: &'static str,
        severity: Severity,
        message: String,
        subjects: Subjects,
    ) -> Result<(), StoreError> {
        let event = NewEvent {
            kind,
            severity,
            message,
            subjects,
        };
        self.tell_also(&event, &[])
    }

    /// Stores an event and tells it to these channels, too.
    fn tell_also(&mut self, event: &NewEvent, named: &[Name]) -> Result<(), StoreError> {
        let audience = match self.audience.take() {
            Some(audience) => audience,
            None => notify::audience(self.tx)?,
        };
        let told = notify::tell_to(self.tx, &audience, event, named, self.snapshot.now);
        self.audience = Some(audience);
        told
    }

    fn apply(&mut self, action: Action) -> Result<(), StoreError> {
        match action {
            Action::SetCondition { node, condition } => self.set_condition(&node, condition),
            Action::SetPolicy { node, policy } => self.set_policy(&node, policy),
            Action::Claim {
                node,
                super_node,
                operation,
            } => self.claim(&node, &super_node, &operation),
            Action::Join { node } => self.join(&node),
            Action::Leave { node, operation } => self.leave(&node, operation),
            Action::Release { node } => self.release(&node),
            Action::Remove { node } => self.remove(&node),
            Action::DeleteSuperNode { super_node } => self.delete_super_node(super_node),
            Action::Start {
                job,
                placement,
                master_port,
                chosen_because,
            } => self.start(&job, &placement, master_port, &chosen_because),
            Action::EndRank { attempt, rank, end } => self.end_rank(&attempt, rank, end),
            Action::MarkRunning { job } => self.mark_running(&job),
            Action::Stop { job, reason } => self.stop(&job, reason),
            Action::Requeue {
                job,
                counts,
                reason,
            } => self.requeue(&job, counts, reason),
            Action::End { job, outcome } => self.end(&job, outcome),
            Action::SetQueueReason { job, reason } => {
                self.job(&job)?.state = JobState::Queued { reason };
                Ok(())
            }
            Action::SetTargetNode {
                operation,
                slot,
                node,
            } => {
                self.target(&operation, slot)?.node = Some(node);
                Ok(())
            }
            Action::SetTarget {
                operation,
                slot,
                state,
            } => {
                self.target(&operation, slot)?.state = state;
                Ok(())
            }
            Action::SetTargetSteps {
                operation,
                slot,
                steps,
            } => {
                self.target(&operation, slot)?.steps = steps;
                Ok(())
            }
            Action::SetDisk { node, work } => self.set_disk(&node, work.map(|work| *work)),
            Action::BeginStress { node, work } => self.begin_stress(&node, *work),
            Action::StopStress { node, why } => self.stop_stress(&node, why),
            Action::EndStress {
                operation,
                node,
                outcome,
            } => self.end_stress(&operation, &node, outcome),
            Action::ParkStress {
                operation,
                node,
                outcome,
            } => self.park_stress(&operation, &node, outcome),
            Action::BeginNetwork { operation, nodes } => self.begin_network(&operation, nodes),
            Action::BeginPair { operation, number } => self.begin_pair(&operation, number),
            Action::EndPair {
                operation,
                number,
                end,
            } => self.end_pair(&operation, number, end),
            Action::SettleStressPlan {
                plan,
                settled,
                next_due,
                begins,
                missed,
                why,
            } => {
                self.settle_stress_plan(&plan, settled, next_due, missed, &why)?;
                begins.map_or(Ok(()), |_| self.begin_planned(&plan))
            }
            Action::BeginReplacement {
                super_node,
                node,
                because,
                spare,
                admission,
            } => {
                let (now, entropy) = (self.snapshot.now, Arc::clone(&self.entropy));
                let operation = node_replace::automatic(now, &*entropy, super_node, admission);
                node_replace::begin(self, operation, &spare, node, because).map(drop)
            }
            Action::SetReplacement { node, tried } => {
                self.node(&node)?.stress.replacement = Some(tried);
                Ok(())
            }
            Action::SetHealth {
                node,
                health,
                operation,
            } => self.set_health(&node, &health, operation),
            Action::SetOperation { operation, state } => self.set_operation(&operation, state),
            Action::SetProvision { provision, state } => self.set_provision(&provision, state),
            Action::Tell(event) => {
                self.tell(event.kind, event.severity, event.message, event.subjects)
            }
        }
    }
}

/// The records that changed and are still there.
fn changed<'a, K: Ord, V>(
    all: &'a mut BTreeMap<K, V>,
    wanted: &BTreeSet<K>,
) -> impl Iterator<Item = &'a mut V> {
    all.iter_mut()
        .filter_map(|(id, record)| wanted.contains(id).then_some(record))
}

/// A plan that names what its snapshot does not have is a bug; the transaction is undone and the message says where to look.
fn missing(what: &'static str) -> StoreError {
    StoreError::Conflict {
        kind: ConflictKind::ForeignKey,
        what: format!("{what} of a plan that is not in its snapshot"),
    }
}

/// How recent a sync has to be for a node to count as connected.
pub(crate) fn connected_within(sync_interval: Duration) -> Duration {
    sync_interval * 4
}
