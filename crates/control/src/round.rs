//! One write transaction of the loop, or of a request that changes nodes: a snapshot that is changed in place, then written back.
//!
//! Requests and the loop change nodes, jobs and operations through the same few methods, so a drain that an operator starts and one
//! that the planner ends cannot differ in what they touch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use supernode_plan::action::Placement;
use supernode_plan::{Action, Contact, Limits, Snapshot};
use supernode_store::attempt::{AttemptRecord, attempt_insert, lease_insert, lease_release, rank_advance, rank_insert};
use supernode_store::certificate::certificate_revoke_all;
use supernode_store::event::event_insert;
use supernode_store::job::job_update;
use supernode_store::node::node_update;
use supernode_store::operation::{operation_insert, operation_update};
use supernode_store::provision::provision_update;
use supernode_store::super_node::{super_node_delete, super_node_insert, super_node_update};
use supernode_store::{ConflictKind, StoreError, Tx};
use supernode_types::event::{NewEvent, Severity, Subjects};
use supernode_types::job::{JobOutcome, JobState, Lease, Rank, RankEnd, RankState, StopReason};
use supernode_types::node::{Membership, Node, NodeCondition, NodePolicy};
use supernode_types::operation::{Operation, OperationState};
use supernode_types::super_node::SuperNode;
use supernode_types::{AttemptId, Entropy, JobId, NodeId, OperationId, ProvisionId, SuperNodeId};

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
pub fn reconcile<F>(tx: &mut Tx<'_>, limits: &Limits, now: supernode_types::Timestamp, entropy: &Arc<dyn Entropy>, contacts: F) -> Result<Changed, StoreError>
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
    deleted_super_nodes: Vec<SuperNodeId>,
    jobs: BTreeSet<JobId>,
    operations: BTreeSet<OperationId>,
    provisions: BTreeSet<ProvisionId>,
}

impl<'r, 't> Round<'r, 't> {
    /// Loads everything that has not ended.
    pub(crate) fn load(tx: &'r mut Tx<'t>, now: supernode_types::Timestamp, limits: &Limits, entropy: &Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let snapshot = crate::snapshot::load(tx, now, limits)?;
        Ok(Self {
            tx,
            snapshot,
            entropy: Arc::clone(entropy),
            nodes: BTreeSet::new(),
            told: BTreeSet::new(),
            removed: BTreeSet::new(),
            super_nodes: BTreeSet::new(),
            deleted_super_nodes: Vec::new(),
            jobs: BTreeSet::new(),
            operations: BTreeSet::new(),
            provisions: BTreeSet::new(),
        })
    }

    /// The transaction, for what is not part of the snapshot.
    pub(crate) fn tx(&mut self) -> &mut Tx<'t> {
        self.tx
    }

    /// Writes everything that changed.
    pub(crate) fn finish(mut self) -> Result<Changed, StoreError> {
        for id in &self.told {
            if let Some(node) = self.snapshot.nodes.get_mut(id) {
                node.desired_generation += 1;
                self.nodes.insert(id.clone());
            }
        }
        for id in &self.nodes {
            if let Some(node) = self.snapshot.nodes.get_mut(id) {
                node_update(self.tx, node)?;
            }
        }
        for id in &self.super_nodes {
            if let Some(super_node) = self.snapshot.super_nodes.get_mut(id) {
                super_node_update(self.tx, super_node)?;
            }
        }
        for id in &self.jobs {
            if let Some(job) = self.snapshot.jobs.get_mut(id) {
                job_update(self.tx, job)?;
            }
        }
        for id in &self.operations {
            if let Some(operation) = self.snapshot.operations.get_mut(id) {
                operation_update(self.tx, operation)?;
            }
        }
        for id in &self.provisions {
            if let Some(provision) = self.snapshot.provisions.get(id) {
                provision_update(self.tx, provision)?;
            }
        }
        for id in &self.deleted_super_nodes {
            super_node_delete(self.tx, id)?;
        }
        Ok(Changed { nodes: self.told, removed_nodes: self.removed, ..Changed::default() })
    }

    /// A node that a plan or a check just named; the snapshot has it because both read the same snapshot.
    fn node(&mut self, id: &NodeId) -> Result<&mut Node, StoreError> {
        self.nodes.insert(id.clone());
        self.snapshot.nodes.get_mut(id).ok_or_else(|| missing("node"))
    }

    fn job(&mut self, id: &JobId) -> Result<&mut supernode_types::job::Job, StoreError> {
        self.jobs.insert(id.clone());
        self.snapshot.jobs.get_mut(id).ok_or_else(|| missing("job"))
    }

    fn operation(&mut self, id: &OperationId) -> Result<&mut Operation, StoreError> {
        self.operations.insert(id.clone());
        self.snapshot.operations.get_mut(id).ok_or_else(|| missing("operation"))
    }

    /// The super node's environment changed: every node that has to have it is told.
    pub(crate) fn environment_changed(&mut self, id: &SuperNodeId) -> Result<(), StoreError> {
        let super_node = self.snapshot.super_nodes.get_mut(id).ok_or_else(|| missing("super_node"))?;
        super_node.environment_generation += 1;
        self.super_nodes.insert(id.clone());
        self.told.extend(self.snapshot.nodes.values().filter(|node| node.membership.listed_in(id)).map(|node| node.id.clone()));
        Ok(())
    }

    /// A super node's record, to change it.
    pub(crate) fn super_node(&mut self, id: &SuperNodeId) -> Result<&mut SuperNode, StoreError> {
        self.super_nodes.insert(id.clone());
        self.snapshot.super_nodes.get_mut(id).ok_or_else(|| missing("super_node"))
    }

    /// Adds a new super node.
    pub(crate) fn insert_super_node(&mut self, super_node: SuperNode) -> Result<(), StoreError> {
        super_node_insert(self.tx, &super_node)?;
        self.snapshot.super_nodes.insert(super_node.id.clone(), super_node);
        Ok(())
    }

    /// Adds a new operation.
    pub(crate) fn insert_operation(&mut self, operation: Operation) -> Result<(), StoreError> {
        let name = operation.super_node.as_ref().and_then(|id| self.snapshot.super_nodes.get(id)).map(|super_node| super_node.name.clone());
        operation_insert(self.tx, &operation, name.as_ref())?;
        self.tell("operation.accepted", Severity::Info, format!("{} accepted {} for {}", operation.id, operation.kind.word(), operation.actor), Subjects {
            operation: Some(operation.id.clone()),
            super_node: operation.super_node.clone(),
            ..Subjects::default()
        })?;
        self.snapshot.operations.insert(operation.id.clone(), operation);
        Ok(())
    }

    /// Makes a spare join.
    pub(crate) fn claim(&mut self, node: &NodeId, super_node: &SuperNodeId, operation: &OperationId) -> Result<(), StoreError> {
        let record = self.node(node)?;
        record.membership = Membership::Joining { super_node: super_node.clone(), operation: operation.clone() };
        record.condition = NodeCondition::Joining { step: "waits for the environment of its super node".into() };
        self.environment_changed(super_node)
    }

    /// Changes what is wanted of a node.
    pub(crate) fn set_policy(&mut self, node: &NodeId, policy: NodePolicy) -> Result<(), StoreError> {
        self.node(node)?.policy = policy;
        Ok(())
    }

    /// Stores an event.
    pub(crate) fn tell(&mut self, kind: &'static str, severity: Severity, message: String, subjects: Subjects) -> Result<(), StoreError> {
        event_insert(self.tx, &NewEvent { kind, severity, message, subjects }, self.snapshot.now)?;
        Ok(())
    }

    fn apply(&mut self, action: Action) -> Result<(), StoreError> {
        match action {
            Action::SetCondition { node, condition } => self.set_condition(&node, condition),
            Action::SetPolicy { node, policy } => self.set_policy(&node, policy),
            Action::Claim { node, super_node, operation } => self.claim(&node, &super_node, &operation),
            Action::Join { node } => self.join(&node),
            Action::Leave { node, operation } => self.leave(&node, operation),
            Action::Release { node } => self.release(&node),
            Action::Remove { node } => self.remove(&node),
            Action::DeleteSuperNode { super_node } => self.delete_super_node(super_node),
            Action::Start { job, placement, master_port, chosen_because } => self.start(&job, &placement, master_port, &chosen_because),
            Action::EndRank { attempt, rank, end } => self.end_rank(&attempt, rank, end),
            Action::MarkRunning { job } => self.mark_running(&job),
            Action::Stop { job, reason } => self.stop(&job, reason),
            Action::Requeue { job, counts, reason } => self.requeue(&job, counts, reason),
            Action::End { job, outcome } => self.end(&job, outcome),
            Action::SetQueueReason { job, reason } => {
                self.job(&job)?.state = JobState::Queued { reason };
                Ok(())
            }
            Action::SetTargetNode { operation, slot, node } => {
                self.target(&operation, slot)?.node = Some(node);
                Ok(())
            }
            Action::SetTarget { operation, slot, state } => {
                self.target(&operation, slot)?.state = state;
                Ok(())
            }
            Action::SetOperation { operation, state } => self.set_operation(&operation, state),
            Action::SetProvision { provision, state } => {
                let now = self.snapshot.now;
                let record = self.snapshot.provisions.get_mut(&provision).ok_or_else(|| missing("provision"))?;
                record.state = state;
                record.calls = 0;
                record.next_call_at = now;
                self.provisions.insert(provision);
                Ok(())
            }
            Action::Tell(event) => self.tell(event.kind, event.severity, event.message, event.subjects),
        }
    }

    fn target(&mut self, operation: &OperationId, slot: u32) -> Result<&mut supernode_types::operation::Target, StoreError> {
        self.operation(operation)?.targets.iter_mut().find(|target| target.slot == slot).ok_or_else(|| missing("operation target"))
    }

    fn node_subjects(&self, node: &NodeId) -> Subjects {
        let super_node = self.snapshot.nodes.get(node).and_then(|node| node.membership.super_node()).cloned();
        Subjects { node: Some(node.clone()), super_node, ..Subjects::default() }
    }

    fn set_condition(&mut self, id: &NodeId, condition: NodeCondition) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let event = supernode_plan::condition::event(node, &condition);
        node.condition = condition;
        event.map_or(Ok(()), |event| self.apply(Action::Tell(event)))
    }

    fn join(&mut self, id: &NodeId) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let Some(super_node) = node.membership.super_node().cloned() else { return Err(missing("membership")) };
        node.membership = Membership::Member { super_node };
        let message = format!("{} is a member now", node.name);
        let subjects = self.node_subjects(id);
        self.tell("node.joined", Severity::Info, message, subjects)
    }

    fn leave(&mut self, id: &NodeId, operation: OperationId) -> Result<(), StoreError> {
        let node = self.node(id)?;
        let Some(super_node) = node.membership.super_node().cloned() else { return Err(missing("membership")) };
        node.membership = Membership::Leaving { super_node: super_node.clone(), operation };
        self.told.insert(id.clone());
        self.environment_changed(&super_node)
    }

    fn release(&mut self, id: &NodeId) -> Result<(), StoreError> {
        let subjects = self.node_subjects(id);
        let node = self.node(id)?;
        node.membership = Membership::Spare;
        let message = format!("{} left and is a spare now", node.name);
        self.told.insert(id.clone());
        self.tell("node.left", Severity::Info, message, subjects)
    }

    fn remove(&mut self, id: &NodeId) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let node = self.node(id)?;
        node.policy = NodePolicy::Removed;
        let message = format!("{} was removed; its certificates are revoked", node.name);
        certificate_revoke_all(self.tx, id, now)?;
        self.removed.insert(id.clone());
        let subjects = self.node_subjects(id);
        self.tell("node.removed", Severity::Info, message, subjects)
    }

    fn delete_super_node(&mut self, id: SuperNodeId) -> Result<(), StoreError> {
        let Some(super_node) = self.snapshot.super_nodes.remove(&id) else { return Err(missing("super_node")) };
        self.super_nodes.remove(&id);
        self.tell("super_node.deleted", Severity::Info, format!("super node {} was deleted", super_node.name), Subjects {
            super_node: Some(id.clone()),
            ..Subjects::default()
        })?;
        self.deleted_super_nodes.push(id);
        Ok(())
    }

    fn start(&mut self, id: &JobId, placement: &[Placement], master_port: u16, because: &str) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let attempt = AttemptId::new(now, &*self.entropy);
        let job = self.job(id)?;
        job.attempts += 1;
        job.started_at.get_or_insert(now);
        job.state = JobState::Starting { attempt: attempt.clone(), since: now };
        let (number, super_node, name) = (job.attempts, job.super_node.clone(), job.name.clone());

        let mut order: Vec<NodeId> = Vec::new();
        let mut ranks = Vec::with_capacity(placement.len());
        for (rank, place) in placement.iter().enumerate() {
            let node_rank = order.iter().rposition(|node| *node == place.node).unwrap_or_else(|| {
                order.push(place.node.clone());
                order.len() - 1
            });
            let local_rank = ranks.iter().rev().take_while(|rank: &&Rank| rank.node == place.node).count();
            let boot_id = self.snapshot.nodes.get(&place.node).ok_or_else(|| missing("node"))?.boot_id.clone();
            ranks.push(Rank {
                attempt: attempt.clone(),
                job: id.clone(),
                rank: number_of(rank),
                node_rank: number_of(node_rank),
                local_rank: number_of(local_rank),
                node: place.node.clone(),
                device: place.device,
                boot_id,
                state: RankState::Assigned,
            });
        }
        let master_address = order.first().and_then(|node| self.snapshot.nodes.get(node)).ok_or_else(|| missing("node"))?.address.clone();
        let record = AttemptRecord {
            id: attempt.clone(),
            job: id.clone(),
            number,
            master_address,
            master_port,
            nodes: number_of(order.len()),
            world_size: number_of(ranks.len()),
        };
        attempt_insert(self.tx, &record)?;
        for rank in &ranks {
            let lease = Lease { node: rank.node.clone(), device: rank.device, job: id.clone(), attempt: attempt.clone() };
            if !lease_insert(self.tx, &lease)? {
                return Err(StoreError::Conflict { kind: ConflictKind::Unique, what: format!("lease on device {} of {}", rank.device, rank.node) });
            }
            self.snapshot.leases.push(lease);
            rank_insert(self.tx, rank)?;
        }
        self.told.extend(order.iter().cloned());
        self.snapshot.master_ports.insert(attempt.clone(), master_port);
        self.snapshot.ranks.insert(attempt, ranks);
        let nodes: Vec<&str> = order.iter().take(8).filter_map(|node| self.snapshot.nodes.get(node)).map(|node| node.name.as_str()).collect();
        let more = if order.len() > nodes.len() { format!(" and {} more", order.len() - nodes.len()) } else { String::new() };
        let message = format!("{name} starts on {}{more} (attempt {number}; {because})", nodes.join(", "));
        self.tell("job.started", Severity::Info, message, Subjects { job: Some(id.clone()), super_node: Some(super_node), ..Subjects::default() })
    }

    fn end_rank(&mut self, attempt: &AttemptId, number: u32, end: RankEnd) -> Result<(), StoreError> {
        let state = RankState::Ended { end, last_lines: Vec::new() };
        rank_advance(self.tx, attempt, number, &state)?;
        let rank = self.snapshot.ranks.get_mut(attempt).and_then(|ranks| ranks.iter_mut().find(|rank| rank.rank == number));
        rank.ok_or_else(|| missing("rank"))?.state = state;
        Ok(())
    }

    fn mark_running(&mut self, id: &JobId) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let job = self.job(id)?;
        if let Some(attempt) = job.state.attempt().cloned() {
            job.state = JobState::Running { attempt, since: now };
        }
        Ok(())
    }

    fn stop(&mut self, id: &JobId, reason: StopReason) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let job = self.job(id)?;
        let Some(attempt) = job.state.attempt().cloned() else { return Err(missing("attempt")) };
        job.state = JobState::Stopping { attempt: attempt.clone(), reason: reason.clone(), since: now };
        let (name, super_node) = (job.name.clone(), job.super_node.clone());
        if let Some(ranks) = self.snapshot.ranks.get(&attempt) {
            self.told.extend(ranks.iter().filter(|rank| !rank.state.ended()).map(|rank| rank.node.clone()));
        }
        let message = format!("{name} is being stopped: {}", describe_stop(&reason));
        self.tell("job.stopping", Severity::Info, message, Subjects { job: Some(id.clone()), super_node: Some(super_node), ..Subjects::default() })
    }

    fn release_leases(&mut self, id: &JobId) -> Result<(), StoreError> {
        let attempt = self.job(id)?.state.attempt().cloned();
        if let Some(attempt) = attempt {
            lease_release(self.tx, &attempt)?;
            self.snapshot.leases.retain(|lease| lease.attempt != attempt);
            self.snapshot.master_ports.remove(&attempt);
            self.snapshot.ranks.remove(&attempt);
        }
        Ok(())
    }

    fn requeue(&mut self, id: &JobId, counts: bool, reason: String) -> Result<(), StoreError> {
        self.release_leases(id)?;
        let job = self.job(id)?;
        job.requeues += u32::from(counts);
        let message = format!("{} is queued again: {reason}", job.name);
        job.state = JobState::Queued { reason };
        let subjects = Subjects { job: Some(id.clone()), super_node: Some(job.super_node.clone()), ..Subjects::default() };
        self.tell("job.requeued", Severity::Warning, message, subjects)
    }

    fn end(&mut self, id: &JobId, outcome: JobOutcome) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        self.release_leases(id)?;
        let mut job = self.snapshot.jobs.remove(id).ok_or_else(|| missing("job"))?;
        self.jobs.remove(id);
        let (kind, severity, what) = match &outcome {
            JobOutcome::Succeeded => ("job.succeeded", Severity::Info, "succeeded".to_owned()),
            JobOutcome::Failed(failure) => ("job.failed", Severity::Warning, format!("failed: rank {} on {} {}", failure.rank, failure.node, failure.end)),
            JobOutcome::Cancelled { by } => ("job.cancelled", Severity::Info, format!("was cancelled by {by}")),
            JobOutcome::TimedOut => ("job.timed_out", Severity::Warning, "was stopped at its time limit".to_owned()),
            JobOutcome::NodeLost { node, detail } => ("job.node_lost", Severity::Error, format!("ended because of {node}: {detail}")),
        };
        let message = format!("{} {what}", job.name);
        job.state = JobState::Ended { outcome, at: now };
        let subjects = Subjects { job: Some(id.clone()), super_node: Some(job.super_node.clone()), ..Subjects::default() };
        job_update(self.tx, &mut job)?;
        self.tell(kind, severity, message, subjects)
    }

    fn set_operation(&mut self, id: &OperationId, state: OperationState) -> Result<(), StoreError> {
        let now = self.snapshot.now;
        let (kind, severity, what) = match &state {
            OperationState::Running { .. } => {
                self.operation(id)?.state = state;
                return Ok(());
            }
            OperationState::Succeeded => ("operation.succeeded", Severity::Info, "succeeded".to_owned()),
            OperationState::Failed { reason } => ("operation.failed", Severity::Error, format!("failed: {reason}")),
            OperationState::Cancelled { detail } => ("operation.cancelled", Severity::Info, format!("was cancelled: {detail}")),
        };
        let mut operation = self.snapshot.operations.remove(id).ok_or_else(|| missing("operation"))?;
        self.operations.remove(id);
        operation.state = state;
        operation.ended_at = Some(now);
        let message = format!("{} {} {what}", operation.kind.word(), operation.id);
        let subjects = Subjects { operation: Some(id.clone()), super_node: operation.super_node.clone(), ..Subjects::default() };
        operation_update(self.tx, &mut operation)?;
        self.tell(kind, severity, message, subjects)
    }
}

/// A stop in words.
fn describe_stop(reason: &StopReason) -> String {
    match reason {
        StopReason::RankFailed(failure) => format!("rank {} on {} {}", failure.rank, failure.node, failure.end),
        StopReason::Cancelled { by } => format!("cancelled by {by}"),
        StopReason::TimeLimit => "its time limit passed".into(),
        StopReason::NodeLost { node, detail } => format!("{node}: {detail}"),
        StopReason::Evicted { operation } => format!("evicted by {operation}"),
    }
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).expect("a gang has fewer than 2^32 ranks")
}

/// A plan that names what its snapshot does not have is a bug; the transaction is undone and the message says where to look.
fn missing(what: &'static str) -> StoreError {
    StoreError::Conflict { kind: ConflictKind::ForeignKey, what: format!("{what} of a plan that is not in its snapshot") }
}

/// How recent a sync has to be for a node to count as connected.
pub(crate) fn connected_within(sync_interval: Duration) -> Duration {
    sync_interval * 4
}
