//! What the actions of a plan mean, on a snapshot instead of a database: what `control` does with them, as simply as it can be said.
//!
//! Each action has a precondition that a plan must have met, and breaking one fails the test. [`Model::reconcile`] applies plans
//! until one is empty and checks after each what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use supernode_plan::{Action, Contact, Limits, Snapshot, reconcile};
use supernode_types::entropy::SeededEntropy;
use supernode_types::job::{JobOutcome, JobState, Lease, LeaseHolder, Rank, RankState, StopReason};
use supernode_types::node::{Membership, NodeCondition, NodePolicy};
use supernode_types::operation::{OperationKind, OperationState};
use supernode_types::stress::{StressOutcome, StressPair, StressRun, StressWork};
use supernode_types::super_node::DrainMode;
use supernode_types::{
    AttemptId, JobId, NodeId, OperationId, StressPlanId, SuperNodeId, Timestamp,
};

mod network;

/// More rounds than any plan needs before there is nothing left to do.
const MOST_ROUNDS: usize = 24;

/// A control plane without a database.
pub(crate) struct Model {
    pub(crate) snapshot: Snapshot,
    pub(crate) limits: Limits,
    pub(crate) entropy: SeededEntropy,
    /// How every job ended.
    pub(crate) ended_jobs: BTreeMap<JobId, JobOutcome>,
    /// How every operation ended.
    pub(crate) ended_operations: BTreeMap<OperationId, OperationState>,
    /// The slots whose runs plans began.
    pub(crate) planned: Vec<Timestamp>,
    /// What came of every node of every stress run.
    pub(crate) outcomes: BTreeMap<(OperationId, NodeId), StressOutcome>,
    /// What network tests find on nodes, beside a pass.
    pub(crate) found: BTreeMap<NodeId, StressOutcome>,
    /// The pairs that were begun or given up, at each of their ends.
    pub(crate) ended_pairs: Vec<StressPair>,
    /// When every attempt started.
    pub(crate) starts: Vec<(Timestamp, JobId)>,
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        let snapshot = Snapshot {
            now: Timestamp(1_763_900_000_000_000),
            nodes: BTreeMap::new(),
            contacts: BTreeMap::new(),
            super_nodes: BTreeMap::new(),
            specs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ranks: BTreeMap::new(),
            leases: Vec::new(),
            master_ports: BTreeMap::new(),
            operations: BTreeMap::new(),
            provisions: BTreeMap::new(),
            stress_networks: BTreeMap::new(),
            stress_plans: BTreeMap::new(),
        };
        let (ended_jobs, ended_operations) = (BTreeMap::new(), BTreeMap::new());
        Self {
            snapshot,
            limits,
            entropy: SeededEntropy::new(1),
            ended_jobs,
            ended_operations,
            outcomes: BTreeMap::new(),
            found: BTreeMap::new(),
            ended_pairs: Vec::new(),
            planned: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Applies plans until one is empty; returns everything that was done.
    pub(crate) fn reconcile(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..MOST_ROUNDS {
            let actions = reconcile(&self.snapshot, &self.limits);
            self.check_determinism(&actions);
            if actions.is_empty() {
                self.check_ends();
                return done;
            }
            for action in &actions {
                self.apply(action);
            }
            self.check();
            done.extend(actions);
        }
        panic!(
            "plans do not come to rest; the last actions were {:#?}",
            &done[done.len().saturating_sub(12)..]
        );
    }

    /// The same facts in another order give the same plan.
    fn check_determinism(&self, actions: &[Action]) {
        let mut turned = self.snapshot.clone();
        turned.leases.reverse();
        assert_eq!(
            reconcile(&turned, &self.limits),
            actions,
            "the order of leases must not matter"
        );
    }

    pub(crate) fn apply(&mut self, action: &Action) {
        let now = self.snapshot.now;
        match action {
            Action::SetCondition { node, condition } => {
                self.node(node).condition = condition.clone();
            }
            Action::SetPolicy { node, policy } => {
                let drains = |policy: &NodePolicy| matches!(policy, NodePolicy::Draining { .. });
                assert_ne!(
                    drains(&self.node(node).policy),
                    drains(policy),
                    "an operation begins a drain, or undoes its own"
                );
                self.node(node).policy = policy.clone();
            }
            Action::Claim {
                node,
                super_node,
                operation,
            } => {
                let found = self.node(node);
                assert_eq!(found.membership, Membership::Spare);
                assert_eq!(
                    (&found.policy, &found.condition),
                    (&NodePolicy::InService, &NodeCondition::Ready)
                );
                assert!(found.health.schedulable());
                found.membership = Membership::Joining {
                    super_node: super_node.clone(),
                    operation: operation.clone(),
                };
                self.bump(super_node);
            }
            Action::Join { node } => {
                let found = self.node(node);
                assert_eq!(found.condition, NodeCondition::Ready);
                let Membership::Joining { super_node, .. } = found.membership.clone() else {
                    panic!("only a joining node joins")
                };
                found.membership = Membership::Member { super_node };
            }
            Action::Leave { node, operation } => {
                assert!(
                    self.snapshot.jobs_on(node).is_empty(),
                    "a node with leases never leaves"
                );
                self.check_not_last(node, operation);
                let found = self.node(node);
                let super_node = match found.membership.clone() {
                    Membership::Joining { super_node, .. } | Membership::Member { super_node } => {
                        super_node
                    }
                    other => panic!("{other:?} cannot leave"),
                };
                found.membership = Membership::Leaving {
                    super_node: super_node.clone(),
                    operation: operation.clone(),
                };
                found.environment_applied = found.environment_applied.max(1);
                self.bump(&super_node);
            }
            Action::Release { node } => {
                assert!(matches!(
                    self.node(node).membership,
                    Membership::Leaving { .. }
                ));
                let found = self.node(node);
                found.membership = Membership::Spare;
                found.stress.replacement = None;
            }
            Action::BeginReplacement {
                super_node,
                node,
                spare,
                admission,
                ..
            } => {
                assert!(!self.node(node).health.schedulable(), "only what is sick");
                let mode = DrainMode::Wait;
                self.replace(super_node, node, &spare.node, *admission, mode);
            }
            Action::SetReplacement { node, tried } => {
                let before = &mut self.node(node).stress.replacement;
                assert_ne!(before.as_ref(), Some(tried), "only what changed is said");
                *before = Some(tried.clone());
            }
            Action::Remove { node } => {
                assert_eq!(self.node(node).membership, Membership::Spare);
                self.snapshot.nodes.remove(node);
                self.snapshot.contacts.remove(node);
            }
            Action::DeleteSuperNode { super_node } => {
                assert!(
                    self.snapshot
                        .nodes
                        .values()
                        .all(|node| node.membership.super_node() != Some(super_node))
                );
                assert!(
                    self.snapshot
                        .jobs
                        .values()
                        .all(|job| job.super_node != *super_node)
                );
                assert!(self.snapshot.super_nodes.remove(super_node).is_some());
            }
            Action::Start {
                job,
                placement,
                master_port,
                chosen_because,
            } => {
                assert!(!chosen_because.is_empty());
                self.start(job, placement, *master_port);
            }
            Action::EndRank { attempt, rank, end } => {
                let ranks = self
                    .snapshot
                    .ranks
                    .get_mut(attempt)
                    .expect("the attempt is live");
                let rank = &mut ranks[usize::try_from(*rank).expect("fits")];
                assert!(!rank.state.ended(), "a rank ends once");
                rank.state = RankState::Ended {
                    end: end.clone(),
                    last_lines: Vec::new(),
                };
            }
            Action::MarkRunning { job } => {
                let job = self.job(job);
                let JobState::Starting { attempt, .. } = job.state.clone() else {
                    panic!("only a starting job runs")
                };
                job.state = JobState::Running {
                    attempt,
                    since: now,
                };
                job.started_at = job.started_at.or(Some(now));
            }
            Action::Stop { job, reason } => {
                if let StopReason::Evicted { operation } = reason {
                    let kind = &self.snapshot.operations[operation].kind;
                    assert!(
                        kind.eviction_grace_seconds().is_some(),
                        "only eviction evicts"
                    );
                }
                let job = self.job(job);
                let attempt = match job.state.clone() {
                    JobState::Starting { attempt, .. } | JobState::Running { attempt, .. } => {
                        attempt
                    }
                    other => panic!("{other:?} cannot be stopped"),
                };
                job.state = JobState::Stopping {
                    attempt,
                    reason: reason.clone(),
                    since: now,
                };
            }
            Action::Requeue {
                job,
                counts,
                reason,
            } => {
                self.give_back(job);
                let job = self.job(job);
                job.requeues += u32::from(*counts);
                assert!(
                    job.requeues <= job.spec.requeue_limit,
                    "never more often than asked"
                );
                job.state = JobState::Queued {
                    reason: reason.clone(),
                };
            }
            Action::End { job, outcome } => {
                self.give_back(job);
                self.snapshot.jobs.remove(job).expect("a job ends once");
                self.ended_jobs.insert(job.clone(), outcome.clone());
            }
            Action::SetQueueReason { job, reason } => {
                let job = self.job(job);
                assert!(
                    matches!(&job.state, JobState::Queued { reason: before } if before != reason),
                    "only what changed is said"
                );
                job.state = JobState::Queued {
                    reason: reason.clone(),
                };
            }
            Action::SetTargetNode {
                operation,
                slot,
                node,
            } => {
                let target = self.target(operation, *slot);
                assert_eq!(target.node, None);
                target.node = Some(node.clone());
            }
            Action::SetTargetSteps {
                operation,
                slot,
                steps,
            } => {
                let operation = self.snapshot.operations.get_mut(operation);
                let targets = &mut operation.expect("it is open").targets;
                targets[usize::try_from(*slot).expect("few")]
                    .steps
                    .clone_from(steps);
            }
            Action::SetDisk { node, work } => {
                self.node(node).disk.work = work.as_deref().cloned();
            }
            Action::SettleStressPlan {
                plan,
                settled,
                next_due,
                begins,
                missed,
                ..
            } => {
                let record = self.snapshot.stress_plans.get_mut(plan);
                let record = record.expect("the plan is known");
                assert!(record.settled <= *settled, "time goes forward");
                assert_ne!(record.next_due, *next_due, "something is settled");
                (record.settled, record.next_due) = (*settled, *next_due);
                record.missed += missed;
                if let Some(slot) = begins {
                    let (id, super_node) = (record.id.clone(), record.super_node.clone());
                    self.begin_planned(&id, &super_node, *slot);
                }
            }
            Action::BeginStress { node, work } => self.begin_stress(node, work),
            Action::ParkStress {
                operation,
                node,
                outcome,
            } => self.park_stress(operation, node, outcome),
            Action::BeginNetwork { operation, nodes } => self.begin_network(operation, nodes),
            Action::BeginPair { operation, number } => self.begin_pair(operation, *number),
            Action::EndPair {
                operation,
                number,
                end,
            } => self.end_pair(operation, *number, end),
            Action::StopStress { node, why } => {
                let work = self.node(node).stress.work.as_mut();
                let work = work.expect("only what is tested is told to stop");
                assert_eq!(work.stop.replace(why.clone()), None, "it is told once");
            }
            Action::EndStress {
                operation,
                node,
                outcome,
            } => {
                self.leave_test(operation, node);
                let key = (operation.clone(), node.clone());
                let before = self.outcomes.insert(key, outcome.clone());
                assert_eq!(before, None, "each node of a run ends once");
            }
            Action::SetHealth { node, health, .. } => {
                assert_ne!(self.node(node).health, *health, "only what changed is said");
                let found = self.node(node);
                found.health = health.clone();
                if found.health.schedulable() {
                    found.stress.replacement = None;
                }
            }
            Action::SetTarget {
                operation,
                slot,
                state,
            } => {
                let target = self.target(operation, *slot);
                assert_ne!(target.state, *state, "only what changed is said");
                assert_eq!(
                    target.state.word(),
                    "active",
                    "the end of a target is final"
                );
                target.state = state.clone();
            }
            Action::SetOperation { operation, state } => self.set_operation(operation, state),
            Action::SetProvision { provision, state } => {
                self.snapshot
                    .provisions
                    .get_mut(provision)
                    .expect("the provision is known")
                    .state = state.clone();
            }
            Action::Tell(event) => assert!(
                [
                    "node.disk_expanded",
                    "node.quarantine_held",
                    "super_node.no_spare"
                ]
                .contains(&event.kind),
                "nothing else needs to be told that no other action says: {event:?}"
            ),
        }
    }

    fn begin_planned(&mut self, plan: &StressPlanId, super_node: &SuperNodeId, slot: Timestamp) {
        let run = StressRun {
            plan: Some(plan.clone()),
            max_age_seconds: Some(60),
            ..crate::stress_run::stress_run(self, 8, Duration::from_mins(1))
        };
        let members = self.snapshot.members(super_node);
        let nodes: Vec<NodeId> = members.map(|node| node.id.clone()).collect();
        self.operation(OperationKind::StressRun(run), Some(super_node), &nodes);
        self.planned.push(slot);
    }

    /// A test takes all devices of a free node.
    fn begin_stress(&mut self, id: &NodeId, work: &StressWork) {
        let node = &self.snapshot.nodes[id];
        assert_eq!(
            (&node.condition, &node.stress.work),
            (&NodeCondition::Ready, &None)
        );
        assert!(!matches!(node.policy, NodePolicy::Draining { .. }));
        for device in 0..node.device_count {
            self.snapshot.leases.push(Lease {
                node: id.clone(),
                device,
                holder: LeaseHolder::Stress {
                    operation: work.operation.clone(),
                },
            });
        }
        self.node(id).stress.work = Some(work.clone());
    }

    fn set_operation(&mut self, id: &OperationId, state: &OperationState) {
        let operation = self
            .snapshot
            .operations
            .get_mut(id)
            .expect("the end of an operation is final");
        assert_ne!(operation.state, *state, "only what changed is said");
        operation.state = state.clone();
        if !state.ended() {
            return;
        }
        let operation = self.snapshot.operations.remove(id).expect("it was there");
        assert!(
            operation
                .targets
                .iter()
                .all(|target| target.state.word() != "active"),
            "an ended operation has no open target"
        );
        for super_node in self
            .snapshot
            .super_nodes
            .values_mut()
            .filter(|super_node| super_node.deleting.as_ref() == Some(id))
        {
            super_node.deleting = None;
        }
        self.snapshot.provisions.retain(|_, provision| {
            provision.operation != *id || provision.state.word() == "deleting"
        });
        self.snapshot.stress_networks.remove(id);
        self.ended_operations.insert(id.clone(), state.clone());
    }

    /// Only a deletion takes the last full member.
    fn check_not_last(&self, node: &NodeId, operation: &OperationId) {
        if let Membership::Member { super_node } = &self.snapshot.nodes[node].membership {
            let deletes =
                self.snapshot.operations[operation].kind == OperationKind::SuperNodeDelete;
            assert!(
                deletes || self.snapshot.members(super_node).count() > 1,
                "the last member stays"
            );
        }
    }

    fn start(
        &mut self,
        id: &JobId,
        placement: &[supernode_plan::action::Placement],
        master_port: u16,
    ) {
        let now = self.snapshot.now;
        let attempt = AttemptId::new(now, &self.entropy);
        let job = self.job(id);
        assert!(matches!(job.state, JobState::Queued { .. }));
        let (spec, super_node) = (job.spec.clone(), job.super_node.clone());
        job.attempts += 1;
        job.state = JobState::Starting {
            attempt: attempt.clone(),
            since: now,
        };
        assert!(self.snapshot.super_nodes[&super_node].deleting.is_none());
        let mut ranks: Vec<Rank> = Vec::new();
        for place in placement {
            let node = &self.snapshot.nodes[&place.node];
            assert!(
                node.membership.member_of(&super_node),
                "a gang stays in its super node"
            );
            assert_eq!(
                (&node.policy, &node.condition),
                (&NodePolicy::InService, &NodeCondition::Ready)
            );
            assert!(node.health.schedulable() && place.device < node.device_count);
            let same_node = ranks.last().is_some_and(|last| last.node == place.node);
            let node_rank = ranks
                .last()
                .map_or(0, |last| last.node_rank + u32::from(!same_node));
            let local_rank = if same_node {
                ranks.last().map_or(0, |last| last.local_rank + 1)
            } else {
                0
            };
            ranks.push(Rank {
                attempt: attempt.clone(),
                job: id.clone(),
                rank: u32::try_from(ranks.len()).expect("fits"),
                node_rank,
                local_rank,
                node: place.node.clone(),
                device: place.device,
                boot_id: node.boot_id.clone(),
                state: RankState::Assigned,
            });
            self.snapshot.leases.push(Lease {
                node: place.node.clone(),
                device: place.device,
                holder: LeaseHolder::Job {
                    job: id.clone(),
                    attempt: attempt.clone(),
                },
            });
        }
        let nodes: BTreeSet<&NodeId> = placement.iter().map(|place| &place.node).collect();
        assert_eq!(
            nodes.len(),
            spec.nodes as usize,
            "a gang has the nodes that it asked for"
        );
        let devices = spec
            .devices
            .unwrap_or_else(|| self.snapshot.nodes[&placement[0].node].device_count);
        assert_eq!(
            placement.len(),
            (spec.nodes * devices) as usize,
            "all ranks or none"
        );
        let address = self.snapshot.nodes[&placement[0].node].address.clone();
        for (other, port) in &self.snapshot.master_ports {
            let first = &self.snapshot.ranks[other][0].node;
            let shared = self
                .snapshot
                .nodes
                .get(first)
                .is_some_and(|node| node.address == address);
            assert!(
                !shared || *port != master_port,
                "two gangs on one address have two ports"
            );
        }
        self.snapshot
            .master_ports
            .insert(attempt.clone(), master_port);
        self.snapshot.ranks.insert(attempt, ranks);
        self.starts.push((now, id.clone()));
    }

    fn give_back(&mut self, id: &JobId) {
        let Some(attempt) = self.job(id).state.attempt().cloned() else {
            return;
        };
        let ranks = self.snapshot.ranks.remove(&attempt).unwrap_or_default();
        assert!(
            ranks.iter().all(|rank| rank.state.ended()),
            "leases are given back when nothing runs any more"
        );
        self.snapshot
            .leases
            .retain(|lease| lease.attempt() != Some(&attempt));
        self.snapshot.master_ports.remove(&attempt);
    }

    /// What must always hold.
    pub(crate) fn check(&self) {
        self.check_pairs();
        let mut held = BTreeSet::new();
        for lease in &self.snapshot.leases {
            assert!(
                held.insert((&lease.node, lease.device)),
                "two leases on one device"
            );
            let (job, attempt) = match &lease.holder {
                LeaseHolder::Job { job, attempt } => (job, attempt),
                LeaseHolder::Stress { operation } => {
                    let work = self.snapshot.nodes[&lease.node].stress.work.as_ref();
                    assert!(
                        work.is_some_and(|work| work.operation == *operation),
                        "a lease of a run belongs to a node that it tests"
                    );
                    continue;
                }
            };
            let job = self
                .snapshot
                .jobs
                .get(job)
                .expect("a lease belongs to a live job");
            assert_eq!(
                job.state.attempt(),
                Some(attempt),
                "a lease belongs to the present attempt"
            );
        }
        for job in self.snapshot.jobs.values() {
            let Some(attempt) = job.state.attempt() else {
                continue;
            };
            let leases = self
                .snapshot
                .leases
                .iter()
                .filter(|lease| lease.attempt() == Some(attempt))
                .count();
            assert_eq!(
                leases,
                self.snapshot.ranks[attempt].len(),
                "one lease for each rank, all ranks or none"
            );
        }
        for super_node in self.snapshot.super_nodes.values() {
            self.check_members(&super_node.id);
        }
    }

    /// Every operation ends by itself.
    fn check_ends(&self) {
        for operation in self.snapshot.operations.values() {
            let latest = operation
                .deadline
                .plus(supernode_plan::operation::FOLLOW_UP);
            assert!(
                self.snapshot.now < latest,
                "{operation:#?} should have ended by itself"
            );
        }
    }

    fn check_members(&self, id: &SuperNodeId) {
        let super_node = &self.snapshot.super_nodes[id];
        // A creation that failed beside a scale-up leaves its end to that.
        let brings_or_ends = |kind: &OperationKind| {
            matches!(
                kind,
                OperationKind::SuperNodeCreate
                    | OperationKind::ScaleUp { .. }
                    | OperationKind::SuperNodeDelete
            )
        };
        let mut open = self.snapshot.operations.values();
        let comes_or_goes =
            open.any(|open| open.super_node.as_ref() == Some(id) && brings_or_ends(&open.kind));
        assert!(
            self.snapshot.members(id).next().is_some() || comes_or_goes,
            "a super node always has a node"
        );
        for node in self
            .snapshot
            .nodes
            .values()
            .filter(|node| node.membership.listed_in(id))
        {
            assert_eq!(
                node.spec.spec(),
                Some(&super_node.spec),
                "all nodes have the spec"
            );
            assert_eq!(
                node.position.hyperplane, super_node.hyperplane,
                "all nodes are in the hyperplane"
            );
        }
    }

    fn bump(&mut self, super_node: &SuperNodeId) {
        let super_node = self
            .snapshot
            .super_nodes
            .get_mut(super_node)
            .expect("the super node is known");
        super_node.environment_generation += 1;
    }

    pub(crate) fn node(&mut self, id: &NodeId) -> &mut supernode_types::node::Node {
        self.snapshot.nodes.get_mut(id).expect("the node is known")
    }

    pub(crate) fn job(&mut self, id: &JobId) -> &mut supernode_types::job::Job {
        self.snapshot
            .jobs
            .get_mut(id)
            .expect("the end of a job is final")
    }

    fn target(
        &mut self,
        operation: &OperationId,
        slot: u32,
    ) -> &mut supernode_types::operation::Target {
        let operation = self
            .snapshot
            .operations
            .get_mut(operation)
            .expect("the end of an operation is final");
        operation
            .targets
            .iter_mut()
            .find(|target| target.slot == slot)
            .expect("the target is known")
    }

    pub(crate) fn advance(&mut self, duration: Duration) {
        self.snapshot.now = self.snapshot.now.plus(duration);
    }

    pub(crate) fn silent(&mut self, node: &NodeId, silence: Duration) {
        self.snapshot
            .contacts
            .insert(node.clone(), Contact::Silent(silence));
    }
}
