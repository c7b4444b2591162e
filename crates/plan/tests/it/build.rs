//! Short ways to say what a test begins with, and the requests that `control` would turn into operations.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_plan::{Action, Contact, Limits, SpecLimit, choose};
use supernode_types::disk::NodeDisk;
use supernode_types::job::{Job, JobSpec, JobState, RankEnd, RankState};
use supernode_types::node::{
    Membership, Node, NodeCondition, NodeHealth, NodePolicy, Position, SpecMatch,
};
use supernode_types::operation::{
    Admission, Operation, OperationKind, OperationState, Provision, ProvisionState, Target,
    TargetState,
};
use supernode_types::stress::NodeStress;
use supernode_types::super_node::{DrainMode, Replacement, SuperNode};
use supernode_types::{JobId, Name, NodeId, OperationId, ProvisionId, SpecId, SuperNodeId};

use crate::model::Model;

pub(crate) const DEADLINE: Duration = Duration::from_mins(5);

/// A scale-up of nodes that join as they are.
pub(crate) const UNTESTED: OperationKind = OperationKind::ScaleUp {
    admission: Admission::None,
};

pub(crate) fn limits() -> Limits {
    Limits {
        lost_after: Duration::from_secs(10),
        start_timeout: Duration::from_secs(30),
        master_ports: (29_500, 29_515),
        queue_depth: 50,
        quarantine_percent: 20,
        admission: Admission::None,
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a valid name")
}

pub(crate) fn job_spec(nodes: u32) -> JobSpec {
    JobSpec {
        nodes,
        devices: None,
        arguments: vec!["true".into()],
        environment: BTreeMap::new(),
        workdir: None,
        priority: 0,
        time_limit_seconds: None,
        requeue_limit: 0,
        grace_seconds: 5,
        run_as_root: false,
    }
}

impl Model {
    /// The spec with this name, declared if it is not yet.
    pub(crate) fn spec(&mut self, text: &str) -> SpecId {
        let found = self
            .snapshot
            .specs
            .iter()
            .find(|(_, limit)| limit.name.as_str() == text)
            .map(|(id, _)| id.clone());
        found.unwrap_or_else(|| {
            let id = SpecId::new(self.snapshot.now, &self.entropy);
            self.snapshot.specs.insert(
                id.clone(),
                SpecLimit {
                    name: name(text),
                    maximum_nodes: 48,
                },
            );
            id
        })
    }

    /// A connected, ready spare of spec `std` with `devices` devices, in hyperplane `h1`.
    pub(crate) fn spare(&mut self, text: &str, devices: u32) -> NodeId {
        self.advance(Duration::from_millis(1));
        let id = NodeId::new(self.snapshot.now, &self.entropy);
        let spec = self.spec("std");
        let node = Node {
            id: id.clone(),
            name: name(text),
            membership: Membership::Spare,
            spec: SpecMatch::Matches { spec },
            policy: NodePolicy::InService,
            condition: NodeCondition::Ready,
            health: NodeHealth::Unproven,
            labels: BTreeMap::new(),
            position: Position {
                hyperplane: Some("h1".into()),
                rack: None,
                leaf: None,
            },
            address: "127.0.0.1".into(),
            device_count: devices,
            boot_id: "boot-0".into(),
            agent_version: "0.1.0".into(),
            provision: None,
            environment_applied: 0,
            environment_problems: Vec::new(),
            disk: NodeDisk::default(),
            stress: NodeStress::default(),
            desired_generation: 0,
            generation: 0,
            enrolled_at: self.snapshot.now,
        };
        self.snapshot.nodes.insert(id.clone(), node);
        self.snapshot
            .contacts
            .insert(id.clone(), Contact::Connected);
        id
    }

    /// A spare at a place.
    pub(crate) fn spare_at(&mut self, text: &str, rack: &str, leaf: &str) -> NodeId {
        let id = self.spare(text, 1);
        let position = &mut self.node(&id).position;
        (position.rack, position.leaf) = (Some(rack.into()), Some(leaf.into()));
        id
    }

    pub(crate) fn empty_super_node(&mut self, text: &str) -> SuperNodeId {
        let id = SuperNodeId::new(self.snapshot.now, &self.entropy);
        let super_node = SuperNode {
            id: id.clone(),
            name: name(text),
            spec: self.spec("std"),
            hyperplane: Some("h1".into()),
            labels: BTreeMap::new(),
            environment_revision: 1,
            environment_generation: 1,
            retry_policy: None,
            replacement: Replacement::Manual,
            deleting: None,
            generation: 0,
            created_at: self.snapshot.now,
        };
        self.snapshot.super_nodes.insert(id.clone(), super_node);
        id
    }

    /// A super node whose members are ready.
    pub(crate) fn super_node(&mut self, text: &str, nodes: &[NodeId]) -> SuperNodeId {
        let id = self.empty_super_node(text);
        for node in nodes {
            let node = self.node(node);
            node.membership = Membership::Member {
                super_node: id.clone(),
            };
            node.environment_applied = 1;
        }
        id
    }

    /// `train` with `count` members `n1`, `n2`, … of `devices` devices.
    pub(crate) fn train(&mut self, count: usize, devices: u32) -> (SuperNodeId, Vec<NodeId>) {
        let nodes: Vec<NodeId> = (1..=count)
            .map(|number| self.spare(&format!("n{number}"), devices))
            .collect();
        (self.super_node("train", &nodes), nodes)
    }

    pub(crate) fn submit(&mut self, super_node: &SuperNodeId, spec: JobSpec) -> JobId {
        self.advance(Duration::from_millis(1));
        let id = JobId::new(self.snapshot.now, &self.entropy);
        let job = Job {
            id: id.clone(),
            name: "job".into(),
            owner: "ada".into(),
            super_node: super_node.clone(),
            spec,
            state: JobState::Queued {
                reason: "submitted".into(),
            },
            attempts: 0,
            requeues: 0,
            cancel_requested_by: None,
            retry_findings: Vec::new(),
            generation: 0,
            submitted_at: self.snapshot.now,
            started_at: None,
        };
        self.snapshot.jobs.insert(id.clone(), job);
        id
    }

    /// Submits and starts a job whose ranks all run.
    pub(crate) fn running(&mut self, super_node: &SuperNodeId, spec: JobSpec) -> JobId {
        let job = self.submit(super_node, spec);
        self.reconcile();
        self.set_ranks(&job, &RankState::Running);
        self.reconcile();
        assert_eq!(self.snapshot.jobs[&job].state.word(), "running");
        job
    }

    /// Says of all ranks of a job that have not ended how they stand.
    pub(crate) fn set_ranks(&mut self, job: &JobId, state: &RankState) {
        let attempt = self.snapshot.jobs[job]
            .state
            .attempt()
            .expect("the job has an attempt")
            .clone();
        let ranks = self
            .snapshot
            .ranks
            .get_mut(&attempt)
            .expect("an attempt has ranks");
        for rank in ranks.iter_mut().filter(|rank| !rank.state.ended()) {
            rank.state = state.clone();
        }
    }

    pub(crate) fn set_rank(&mut self, job: &JobId, rank: usize, state: RankState) {
        let attempt = self.snapshot.jobs[job]
            .state
            .attempt()
            .expect("the job has an attempt")
            .clone();
        self.snapshot
            .ranks
            .get_mut(&attempt)
            .expect("an attempt has ranks")[rank]
            .state = state;
    }

    /// The names of the nodes that a job runs on, in rank order.
    pub(crate) fn placed(&self, job: &JobId) -> Vec<String> {
        let attempt = self.snapshot.jobs[job]
            .state
            .attempt()
            .expect("the job has an attempt");
        let mut names: Vec<String> = self.snapshot.ranks[attempt]
            .iter()
            .map(|rank| self.snapshot.nodes[&rank.node].name.to_string())
            .collect();
        names.dedup();
        names
    }

    pub(crate) fn reason(&self, job: &JobId) -> String {
        match &self.snapshot.jobs[job].state {
            JobState::Queued { reason } => reason.clone(),
            other => panic!("not queued but {other:?}"),
        }
    }

    pub(crate) fn waits_for(&self, operation: &OperationId) -> String {
        match &self.snapshot.operations[operation].state {
            OperationState::Running { waits_for } => waits_for.clone(),
            other => panic!("not running but {other:?}"),
        }
    }

    pub(crate) fn operation(
        &mut self,
        kind: OperationKind,
        super_node: Option<&SuperNodeId>,
        nodes: &[NodeId],
    ) -> OperationId {
        self.advance(Duration::from_millis(1));
        let id = OperationId::new(self.snapshot.now, &self.entropy);
        let target = |(slot, node): (usize, &NodeId)| Target {
            slot: u32::try_from(slot).expect("few"),
            node: Some(node.clone()),
            provision: None,
            chosen_because: "test".into(),
            state: TargetState::Active {
                step: "accepted".into(),
            },
            steps: Vec::new(),
        };
        let operation = Operation {
            id: id.clone(),
            kind,
            super_node: super_node.cloned(),
            state: OperationState::Running {
                waits_for: "accepted".into(),
            },
            targets: nodes.iter().enumerate().map(target).collect(),
            actor: "ada".into(),
            deadline: self.snapshot.now.plus(DEADLINE),
            cancel_requested: false,
            generation: 0,
            created_at: self.snapshot.now,
            ended_at: None,
        };
        self.snapshot.operations.insert(id.clone(), operation);
        id
    }

    /// A scale-up by `count`, as `control` accepts it: spares first, then provisions.
    pub(crate) fn scale_up(
        &mut self,
        kind: OperationKind,
        super_node: &SuperNodeId,
        count: usize,
        provisioned: usize,
    ) -> Option<OperationId> {
        let found = self.snapshot.super_nodes[super_node].clone();
        let existing: Vec<&Node> = self
            .snapshot
            .nodes
            .values()
            .filter(|node| node.membership.listed_in(super_node))
            .collect();
        let chosen = choose::choose_spares(
            &self.snapshot,
            &found.spec,
            found.hyperplane.as_deref(),
            &existing,
            count,
        )
        .ok()?;
        let nodes: Vec<NodeId> = chosen.into_iter().map(|choice| choice.node).collect();
        let id = self.operation(kind, Some(super_node), &nodes);
        for slot in count..count + provisioned {
            let provision = ProvisionId::new(self.snapshot.now, &self.entropy);
            let wanted = Provision {
                id: provision.clone(),
                operation: id.clone(),
                super_node: super_node.clone(),
                node_name: format!(
                    "made-{}",
                    &provision.as_str()[provision.as_str().len() - 6..]
                ),
                node: None,
                state: ProvisionState::Creating {
                    message: String::new(),
                },
                calls: 0,
                next_call_at: self.snapshot.now,
            };
            self.snapshot.provisions.insert(provision.clone(), wanted);
            let targets = &mut self
                .snapshot
                .operations
                .get_mut(&id)
                .expect("just made")
                .targets;
            targets.push(Target {
                slot: u32::try_from(slot).expect("few"),
                node: None,
                provision: Some(provision),
                chosen_because: "made by the provisioner".into(),
                state: TargetState::Active {
                    step: "accepted".into(),
                },
                steps: Vec::new(),
            });
        }
        Some(id)
    }

    /// A scale-down of these members, as `control` accepts it: the drain is part of the acceptance.
    pub(crate) fn scale_down(
        &mut self,
        super_node: &SuperNodeId,
        nodes: &[NodeId],
        mode: DrainMode,
    ) -> OperationId {
        let id = self.operation(OperationKind::ScaleDown { mode }, Some(super_node), nodes);
        self.drain(&id, nodes);
        id
    }

    /// A replacement, as `control` accepts it: the spare is claimed at once.
    pub(crate) fn replace(
        &mut self,
        super_node: &SuperNodeId,
        node: &NodeId,
        spare: &NodeId,
        admission: Admission,
        mode: DrainMode,
    ) -> OperationId {
        let kind = OperationKind::NodeReplace { admission, mode };
        let targets = [spare.clone(), node.clone()];
        let id = self.operation(kind, Some(super_node), &targets);
        self.apply(&Action::Claim {
            node: spare.clone(),
            super_node: super_node.clone(),
            operation: id.clone(),
        });
        id
    }

    /// Quarantined members are replaced by themselves from now on.
    pub(crate) fn replace_automatically(&mut self, super_node: &SuperNodeId) {
        let found = self.snapshot.super_nodes.get_mut(super_node);
        found.expect("known").replacement = Replacement::Automatic;
    }

    /// A deletion, as `control` accepts it.
    pub(crate) fn delete(&mut self, super_node: &SuperNodeId) -> OperationId {
        let nodes: Vec<NodeId> = self
            .snapshot
            .members(super_node)
            .map(|node| node.id.clone())
            .collect();
        let id = self.operation(OperationKind::SuperNodeDelete, Some(super_node), &nodes);
        self.drain(&id, &nodes);
        self.snapshot
            .super_nodes
            .get_mut(super_node)
            .expect("known")
            .deleting = Some(id.clone());
        id
    }

    fn drain(&mut self, operation: &OperationId, nodes: &[NodeId]) {
        for node in nodes {
            let node = self.node(node);
            node.policy = node
                .policy
                .clone()
                .drain(operation.clone())
                .expect("the test drains what can be drained");
        }
    }

    pub(crate) fn cancel(&mut self, operation: &OperationId) {
        self.snapshot
            .operations
            .get_mut(operation)
            .expect("open")
            .cancel_requested = true;
    }

    /// A new environment revision, as `control` accepts it.
    pub(crate) fn change_environment(&mut self, super_node: &SuperNodeId) -> OperationId {
        let found = self
            .snapshot
            .super_nodes
            .get_mut(super_node)
            .expect("known");
        found.environment_revision += 1;
        found.environment_generation += 1;
        let (revision, environment_generation) =
            (found.environment_revision, found.environment_generation);
        let nodes: Vec<NodeId> = self
            .snapshot
            .members(super_node)
            .map(|node| node.id.clone())
            .collect();
        self.operation(
            OperationKind::EnvironmentChange {
                revision,
                environment_generation,
            },
            Some(super_node),
            &nodes,
        )
    }

    /// The agent of a node does what it is told about the environment.
    pub(crate) fn apply_environment(&mut self, node: &NodeId) {
        let membership = self.node(node).membership.clone();
        let wanted = membership
            .super_node()
            .filter(|super_node| membership.listed_in(super_node));
        let generation = wanted.map_or(0, |super_node| {
            self.snapshot.super_nodes[super_node].environment_generation
        });
        let node = self.node(node);
        node.environment_applied = generation;
        node.environment_problems.clear();
    }

    /// All agents do, until nothing changes any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            let nodes: Vec<NodeId> = self.snapshot.nodes.keys().cloned().collect();
            for node in &nodes {
                if self.snapshot.contacts.get(node) == Some(&Contact::Connected) {
                    self.apply_environment(node);
                }
            }
            self.reconcile();
        }
    }
}

pub(crate) fn exited(code: i32) -> RankState {
    RankState::Ended {
        end: RankEnd::Exited { code },
        last_lines: vec![format!("code {code}")],
    }
}

pub(crate) fn stopped() -> RankState {
    RankState::Ended {
        end: RankEnd::Stopped { code: 143 },
        last_lines: Vec::new(),
    }
}
