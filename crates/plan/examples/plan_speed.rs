//! How long one plan takes. Run it with `cargo run --release -p supernode-plan --example plan_speed`.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_plan::{Action, Contact, Limits, Snapshot, SpecLimit, reconcile};
use supernode_types::disk::NodeDisk;
use supernode_types::entropy::SeededEntropy;
use supernode_types::job::{Job, JobSpec, JobState, Lease, LeaseHolder, Rank, RankState};
use supernode_types::node::{
    Membership, Node, NodeCondition, NodeHealth, NodePolicy, Position, SpecMatch,
};
use supernode_types::operation::Admission;
use supernode_types::stress::NodeStress;
use supernode_types::super_node::{Replacement, SuperNode};
use supernode_types::time::SystemClock;
use supernode_types::{AttemptId, Clock, JobId, Name, NodeId, SpecId, SuperNodeId, Timestamp};

fn name(text: &str) -> Name {
    text.parse().expect("a valid name")
}

/// One super node of `nodes` nodes with `devices` devices in racks of 32.
fn cluster(nodes: u32, devices: u32, entropy: &SeededEntropy) -> (Snapshot, SuperNodeId) {
    let now = Timestamp(1_763_900_000_000_000);
    let (spec, super_node) = (SpecId::new(now, entropy), SuperNodeId::new(now, entropy));
    let node = |number: u32| {
        let id = NodeId::new(now, entropy);
        let node = Node {
            id: id.clone(),
            name: name(&format!("gpu-{number:05}")),
            membership: Membership::Member {
                super_node: super_node.clone(),
            },
            spec: SpecMatch::Matches { spec: spec.clone() },
            policy: NodePolicy::InService,
            condition: NodeCondition::Ready,
            health: NodeHealth::Unproven,
            labels: BTreeMap::new(),
            position: Position {
                hyperplane: Some("h1".into()),
                rack: Some(format!("rack-{:03}", number / 32)),
                leaf: Some(format!("leaf-{:03}", number / 16)),
            },
            address: format!(
                "10.{}.{}.{}",
                number >> 16,
                (number >> 8) & 255,
                number & 255
            ),
            device_count: devices,
            boot_id: "5f3a".into(),
            agent_version: "0.1.0".into(),
            provision: None,
            environment_applied: 1,
            environment_problems: Vec::new(),
            disk: NodeDisk::default(),
            stress: NodeStress::default(),
            desired_generation: 1,
            generation: 1,
            enrolled_at: now,
        };
        (id, node)
    };
    let nodes: BTreeMap<NodeId, Node> = (0..nodes).map(node).collect();
    let found = SuperNode {
        id: super_node.clone(),
        name: name("train"),
        spec: spec.clone(),
        hyperplane: Some("h1".into()),
        labels: BTreeMap::new(),
        environment_revision: 1,
        environment_generation: 1,
        retry_policy: None,
        replacement: Replacement::Manual,
        deleting: None,
        generation: 1,
        created_at: now,
    };
    let snapshot = Snapshot {
        stress_networks: BTreeMap::new(),
        now,
        contacts: nodes
            .keys()
            .map(|id| (id.clone(), Contact::Connected))
            .collect(),
        nodes,
        super_nodes: [(super_node.clone(), found)].into(),
        specs: [(
            spec,
            SpecLimit {
                name: name("h100"),
                maximum_nodes: 5_000,
            },
        )]
        .into(),
        jobs: BTreeMap::new(),
        ranks: BTreeMap::new(),
        leases: Vec::new(),
        master_ports: BTreeMap::new(),
        operations: BTreeMap::new(),
        provisions: BTreeMap::new(),
        stress_plans: BTreeMap::new(),
    };
    (snapshot, super_node)
}

fn submit(
    snapshot: &mut Snapshot,
    super_node: &SuperNodeId,
    nodes: u32,
    limit: Option<u64>,
    entropy: &SeededEntropy,
) -> JobId {
    let id = JobId::new(snapshot.now, entropy);
    let spec = JobSpec {
        nodes,
        devices: None,
        arguments: vec!["train".into()],
        environment: BTreeMap::new(),
        workdir: None,
        priority: 0,
        time_limit_seconds: limit,
        requeue_limit: 0,
        grace_seconds: 10,
        run_as_root: false,
    };
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
        submitted_at: snapshot.now,
        started_at: None,
    };
    snapshot.jobs.insert(id.clone(), job);
    id
}

/// Does what a plan says about jobs; the ranks run at once.
fn apply(snapshot: &mut Snapshot, actions: Vec<Action>, entropy: &SeededEntropy) {
    for action in actions {
        match action {
            Action::Start {
                job,
                placement,
                master_port,
                ..
            } => {
                let attempt = AttemptId::new(snapshot.now, entropy);
                let rank = |(rank, place): (usize, &supernode_plan::action::Placement)| Rank {
                    attempt: attempt.clone(),
                    job: job.clone(),
                    rank: u32::try_from(rank).expect("fits"),
                    node_rank: 0,
                    local_rank: 0,
                    node: place.node.clone(),
                    device: place.device,
                    boot_id: "5f3a".into(),
                    state: RankState::Running,
                };
                let lease = |place: supernode_plan::action::Placement| Lease {
                    node: place.node,
                    device: place.device,
                    holder: LeaseHolder::Job {
                        job: job.clone(),
                        attempt: attempt.clone(),
                    },
                };
                snapshot.ranks.insert(
                    attempt.clone(),
                    placement.iter().enumerate().map(rank).collect(),
                );
                snapshot.master_ports.insert(attempt.clone(), master_port);
                snapshot.leases.extend(placement.into_iter().map(lease));
                snapshot.jobs.get_mut(&job).expect("queued").state = JobState::Running {
                    attempt,
                    since: snapshot.now,
                };
            }
            Action::SetQueueReason { job, reason } => {
                snapshot.jobs.get_mut(&job).expect("queued").state = JobState::Queued { reason }
            }
            other => panic!("not expected here: {other:?}"),
        }
    }
}

/// The best and the worst of some plans.
fn measure(what: &str, snapshot: &Snapshot, limits: &Limits) -> Vec<Action> {
    let clock = SystemClock;
    let mut times: Vec<Duration> = Vec::new();
    let mut actions = Vec::new();
    for _ in 0..20 {
        let begin = clock.monotonic();
        actions = reconcile(snapshot, limits);
        times.push(clock.monotonic().saturating_sub(begin));
    }
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{what:<62} median {:>7.2} ms  worst {:>7.2} ms  {} actions",
        milliseconds(times[10]),
        milliseconds(times[19]),
        actions.len()
    );
    actions
}

fn main() {
    let entropy = SeededEntropy::new(1);
    let limits = Limits {
        lost_after: Duration::from_secs(10),
        start_timeout: Duration::from_mins(1),
        master_ports: (29_500, 29_999),
        queue_depth: 1_000,
        quarantine_percent: 20,
        admission: Admission::None,
    };
    for devices in [1, 8] {
        let (mut snapshot, super_node) = cluster(5_000, devices, &entropy);
        submit(&mut snapshot, &super_node, 5_000, None, &entropy);
        let actions = measure(
            &format!("5,000 nodes x {devices}: place one gang on all"),
            &snapshot,
            &limits,
        );
        apply(&mut snapshot, actions, &entropy);
        measure(
            &format!("5,000 nodes x {devices}: the gang runs, nothing to do"),
            &snapshot,
            &limits,
        );
    }
    let (mut snapshot, super_node) = cluster(32, 8, &entropy);
    for number in 0..1_000 {
        submit(
            &mut snapshot,
            &super_node,
            1 + number % 8,
            (number % 3 > 0).then_some(3_600),
            &entropy,
        );
    }
    let actions = measure(
        "32 nodes, 1,000 queued jobs: the first plan",
        &snapshot,
        &limits,
    );
    apply(&mut snapshot, actions, &entropy);
    let actions = measure(
        "32 nodes, 1,000 queued jobs: full, nothing to do",
        &snapshot,
        &limits,
    );
    assert!(
        actions.is_empty(),
        "a plan that was applied is not made again"
    );
}
