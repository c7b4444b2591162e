//! A database with the product's schema, and plain values to put into it.

use supernode_store::attempt::{AttemptRecord, attempt_insert};
use supernode_store::job::job_insert;
use supernode_store::migrations::MIGRATIONS;
use supernode_store::node::{NodeOrigin, node_insert};
use supernode_store::operation::operation_insert;
use supernode_store::spec::{SpecRecord, spec_insert};
use supernode_store::super_node::super_node_insert;
use supernode_store::{ConflictKind, DatabaseUrl, Options, Store, StoreError, Tx};
use supernode_types::disk::NodeDisk;
use supernode_types::entropy::SeededEntropy;
use supernode_types::job::{GroupKey, Job, JobSpec, JobState, Lease, LeaseHolder, Rank, RankState};
use supernode_types::node::{
    Membership, Node, NodeCondition, NodeHealth, NodePolicy, Position, SpecMatch,
};
use supernode_types::operation::{Admission, Operation, OperationKind, OperationState};
use supernode_types::retry_policy::{AttemptRetry, RetryLibrary, RetryPolicy};
use supernode_types::spec::SpecDefinition;
use supernode_types::stress::NodeStress;
use supernode_types::super_node::{Replacement, SuperNode};
use supernode_types::{
    AttemptId, JobId, JoinTokenId, Name, NodeId, OperationId, SpecId, SuperNodeId, Timestamp,
};

use crate::fixture::{Database, Engine};

/// When everything happens unless a test says otherwise.
pub(super) const NOW: Timestamp = Timestamp(1_763_900_000_000_000);

pub(super) struct Sample {
    pub(super) store: Store,
    database: Database,
}

/// A seed per object, so that ids are different and always the same.
pub(super) fn entropy(seed: u64) -> SeededEntropy {
    SeededEntropy::new(seed)
}

pub(super) fn after(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1_000_000)
}

pub(super) fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

impl Sample {
    pub(super) fn new(engine: Engine) -> Self {
        let database = Database::new(engine);
        let store = database.open_with(Options::new(MIGRATIONS));
        Self { store, database }
    }

    pub(super) fn url(&self) -> &DatabaseUrl {
        &self.database.url
    }

    /// Runs a transaction that succeeds.
    #[track_caller]
    pub(super) fn run<T: Send + 'static>(
        &self,
        closure: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        self.store
            .write_inline("test", closure)
            .unwrap_or_else(|error: StoreError| panic!("{error}"))
    }

    /// Runs a transaction that breaks a rule.
    #[track_caller]
    pub(super) fn conflict<T: Send + 'static + std::fmt::Debug>(
        &self,
        closure: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> ConflictKind {
        match self.store.write_inline("test", closure) {
            Err(StoreError::Conflict { kind, .. }) => kind,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn spec(spec_name: &str, seed: u64) -> SpecRecord {
    let mut definition = SpecDefinition::default();
    definition.cpu.cores = Some(8);
    SpecRecord {
        id: SpecId::new(NOW, &entropy(seed)),
        name: name(spec_name),
        definition,
        maximum_nodes: 48,
        maximum_disk_gib: 1024,
        generation: 1,
        created_at: NOW,
    }
}

pub(super) fn super_node(super_node_name: &str, spec: &SpecId, seed: u64) -> SuperNode {
    SuperNode {
        id: SuperNodeId::new(NOW, &entropy(seed)),
        name: name(super_node_name),
        spec: spec.clone(),
        hyperplane: None,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        environment_revision: 1,
        environment_generation: 1,
        retry_policy: None,
        replacement: Replacement::Automatic,
        deleting: None,
        generation: 1,
        created_at: NOW,
    }
}

pub(super) fn node(node_name: &str, seed: u64) -> Node {
    Node {
        id: NodeId::new(NOW, &entropy(seed)),
        name: name(node_name),
        membership: Membership::Spare,
        spec: SpecMatch::Unknown,
        policy: NodePolicy::InService,
        condition: NodeCondition::Unknown,
        health: NodeHealth::Unproven,
        labels: [("ünïcödé".to_owned(), "'\";--".to_owned())].into(),
        position: Position::default(),
        address: "10.0.0.1".into(),
        device_count: 1,
        boot_id: "boot".into(),
        agent_version: String::new(),
        provision: None,
        environment_applied: 0,
        environment_problems: Vec::new(),
        disk: NodeDisk::default(),
        stress: NodeStress::default(),
        desired_generation: 1,
        generation: 1,
        enrolled_at: NOW,
    }
}

pub(super) fn origin() -> NodeOrigin {
    NodeOrigin {
        machine_id: "machine".into(),
        join_token: JoinTokenId::new(NOW, &entropy(1)),
    }
}

pub(super) fn job(super_node: &SuperNodeId, seed: u64, submitted_at: Timestamp) -> Job {
    Job {
        id: JobId::new(submitted_at, &entropy(seed)),
        name: "train".into(),
        owner: "ada".into(),
        super_node: super_node.clone(),
        spec: JobSpec {
            nodes: 1,
            devices: None,
            arguments: vec!["/bin/true".into()],
            environment: std::collections::BTreeMap::new(),
            workdir: None,
            priority: 0,
            time_limit_seconds: None,
            requeue_limit: 0,
            grace_seconds: 10,
            run_as_root: false,
        },
        state: JobState::Queued {
            reason: "new".into(),
        },
        attempts: 0,
        requeues: 0,
        cancel_requested_by: None,
        retry_findings: Vec::new(),
        generation: 1,
        submitted_at,
        started_at: None,
    }
}

pub(super) fn attempt(job: &JobId, number: u32) -> AttemptRecord {
    AttemptRecord {
        id: AttemptId::new(NOW, &entropy(1000 + u64::from(number))),
        job: job.clone(),
        number,
        master_address: "10.0.0.1".into(),
        master_port: 29_999,
        nodes: 1,
        world_size: 1,
        group_key: Some(GroupKey::new(&entropy(u64::from(number)))),
        retry: (number % 2 == 1).then(|| AttemptRetry {
            policy: RetryPolicy::Disabled,
            library: RetryLibrary::Hccl,
            variables: [("HCCL_OP_RETRY_ENABLE".to_owned(), "L1:0,L2:0".to_owned())].into(),
            overridden: Vec::new(),
        }),
    }
}

pub(super) fn rank(attempt: &AttemptRecord, number: u32, node: &NodeId) -> Rank {
    Rank {
        attempt: attempt.id.clone(),
        job: attempt.job.clone(),
        rank: number,
        node_rank: 0,
        local_rank: number,
        node: node.clone(),
        device: number,
        boot_id: "boot".into(),
        state: RankState::Assigned,
    }
}

pub(super) fn lease(attempt: &AttemptRecord, node: &NodeId, device: u32) -> Lease {
    Lease {
        node: node.clone(),
        device,
        holder: LeaseHolder::Job {
            job: attempt.job.clone(),
            attempt: attempt.id.clone(),
        },
    }
}

pub(super) fn operation(seed: u64, at: Timestamp, super_node: Option<&SuperNodeId>) -> Operation {
    Operation {
        id: OperationId::new(at, &entropy(seed)),
        kind: OperationKind::ScaleUp {
            admission: Admission::Quick {
                kernel_seconds: Some(5),
            },
        },
        super_node: super_node.cloned(),
        state: OperationState::Running {
            waits_for: "the loop".into(),
        },
        targets: Vec::new(),
        actor: "ada".into(),
        deadline: after(900),
        cancel_requested: false,
        generation: 1,
        created_at: at,
        ended_at: None,
    }
}

/// What most tests need: a spec, a super node, two spares, a job with an attempt, an operation.
#[derive(Debug, Clone)]
pub(super) struct Basics {
    pub(super) spec: SpecRecord,
    pub(super) super_node: SuperNode,
    pub(super) nodes: [Node; 2],
    pub(super) job: Job,
    pub(super) attempt: AttemptRecord,
    pub(super) operation: Operation,
}

impl Sample {
    pub(super) fn with_basics(engine: Engine) -> (Self, Basics) {
        let sample = Self::new(engine);
        let spec = spec("std", 1);
        let super_node = super_node("train", &spec.id, 2);
        let job = job(&super_node.id, 5, NOW);
        let basics = Basics {
            attempt: attempt(&job.id, 1),
            operation: operation(6, NOW, Some(&super_node.id)),
            nodes: [node("n1", 3), node("n2", 4)],
            spec,
            super_node,
            job,
        };
        let stored = basics.clone();
        sample.run(move |tx| {
            spec_insert(tx, &stored.spec)?;
            super_node_insert(tx, &stored.super_node)?;
            for node in &stored.nodes {
                node_insert(tx, node, &origin())?;
            }
            job_insert(tx, &stored.job)?;
            attempt_insert(tx, &stored.attempt)?;
            operation_insert(tx, &stored.operation, Some(&stored.super_node.name))
        });
        (sample, basics)
    }
}
