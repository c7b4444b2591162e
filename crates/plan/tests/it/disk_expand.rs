//! Growing system disks: turns, restarts, failures, cancels.

use std::time::Duration;

use supernode_types::disk::{
    DeviceGrowth, DiskReport, DiskReportState, GIB, StepReport, StepState,
};
use supernode_types::node::NodePolicy;
use supernode_types::operation::{
    DiskExpansion, OperationKind, OperationState, RestartConsent, TargetState,
};
use supernode_types::super_node::DrainMode;
use supernode_types::{NodeId, OperationId, SuperNodeId};

use crate::build::{DEADLINE, job_spec, limits, stopped};
use crate::model::Model;

const REFUSED: RestartConsent = RestartConsent::Refused;

fn allowed(drain: DrainMode) -> RestartConsent {
    RestartConsent::Allowed { drain }
}

/// A super node of `count` nodes and an expansion of all of them.
fn expansion(
    count: usize,
    restart: RestartConsent,
    parallel: u32,
    fail_fast: bool,
) -> (Model, SuperNodeId, Vec<NodeId>, OperationId) {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(count, 1);
    let kind = OperationKind::DiskExpand(DiskExpansion {
        size_bytes: 100 * GIB,
        restart,
        parallel,
        fail_fast,
    });
    let operation = model.operation(kind, Some(&super_node), &nodes);
    model.reconcile();
    (model, super_node, nodes, operation)
}

/// The provisioner has grown the device of a node.
fn grown(model: &mut Model, node: &NodeId, restart: bool) {
    let work = model.node(node).disk.work.as_mut().expect("it has begun");
    work.device = DeviceGrowth::Grown { restart };
    model.reconcile();
}

fn report(model: &mut Model, node: &NodeId, state: DiskReportState) {
    let work = model.node(node).disk.work.as_mut().expect("it has begun");
    work.report = Some(DiskReport {
        operation: work.operation.clone(),
        state,
        steps: Vec::new(),
    });
    model.reconcile();
}

fn needs_restart(model: &mut Model, node: &NodeId) {
    let boot_id = model.node(node).boot_id.clone();
    let why = "the kernel keeps the old table".into();
    report(model, node, DiskReportState::NeedsRestart { why, boot_id });
}

fn failed(model: &mut Model, node: &NodeId) {
    let (layer, why) = ("partition".into(), "growpart said no".into());
    report(model, node, DiskReportState::Failed { layer, why });
}

/// The node comes back in another boot.
fn boots(model: &mut Model, node: &NodeId, boot_id: &str) {
    model.node(node).boot_id = boot_id.into();
    model.reconcile();
}

fn step(model: &Model, operation: &OperationId, slot: usize) -> String {
    match &model.snapshot.operations[operation].targets[slot].state {
        TargetState::Active { step } => step.clone(),
        TargetState::Done => "done".into(),
        TargetState::Failed { reason } => format!("failed: {reason}"),
    }
}

fn end(model: &Model, operation: &OperationId) -> String {
    match &model.ended_operations[operation] {
        OperationState::Failed { reason } => format!("failed: {reason}"),
        OperationState::Cancelled { detail } => format!("cancelled: {detail}"),
        other => other.word().to_owned(),
    }
}

fn drains(model: &Model, node: &NodeId) -> bool {
    matches!(
        model.snapshot.nodes[node].policy,
        NodePolicy::Draining { .. }
    )
}

/// The device of many nodes has grown before their agents look.
#[test]
fn what_was_there_before_is_what_anybody_saw_first() {
    let (mut model, _, nodes, operation) = expansion(1, REFUSED, 1, false);
    let step = |layer: &str, before: Option<u64>| StepReport {
        layer: layer.into(),
        subject: "vda".into(),
        state: StepState::Waiting,
        before_bytes: before.map(|gib| gib * GIB),
        after_bytes: None,
        detail: String::new(),
    };
    let open = model.snapshot.operations.get_mut(&operation);
    open.expect("it is open").targets[0].steps =
        vec![step("device", Some(50)), step("partition", None)];
    grown(&mut model, &nodes[0], false);
    report(&mut model, &nodes[0], DiskReportState::Working);
    let work = model.node(&nodes[0]).disk.work.as_mut().expect("at work");
    work.report = Some(DiskReport {
        operation: operation.clone(),
        state: DiskReportState::Working,
        steps: vec![
            step("device", Some(100)),
            step("partition", Some(49)),
            step("file system", None),
        ],
    });
    model.reconcile();
    let told = &model.snapshot.operations[&operation].targets[0].steps;
    let before: Vec<_> = told.iter().map(|step| step.before_bytes).collect();
    assert_eq!(before, [Some(50 * GIB), Some(49 * GIB), None]);
}

#[test]
fn online_growth_begins_everywhere_at_once_and_disturbs_nobody() {
    let (mut model, super_node, nodes, operation) = expansion(3, REFUSED, 1, false);
    let job = model.running(&super_node, job_spec(3));
    for node in &nodes {
        grown(&mut model, node, false);
        report(&mut model, node, DiskReportState::Working);
        assert!(!drains(&model, node));
    }
    for node in &nodes {
        report(&mut model, node, DiskReportState::Done);
        assert_eq!(model.node(node).disk.work, None);
    }
    assert_eq!(end(&model, &operation), "succeeded");
    assert!(!model.ended_jobs.contains_key(&job));
}

#[test]
fn one_failure_does_not_stop_the_others_and_names_layer_node_and_tool() {
    let (mut model, _, nodes, operation) = expansion(2, REFUSED, 1, false);
    for node in &nodes {
        grown(&mut model, node, false);
    }
    failed(&mut model, &nodes[0]);
    assert_eq!(
        step(&model, &operation, 0),
        "failed: partition: growpart said no"
    );
    report(&mut model, &nodes[1], DiskReportState::Done);
    assert_eq!(
        end(&model, &operation),
        "failed: 1 of 2 nodes expanded; node n1: partition: growpart said no"
    );
}

#[test]
fn fail_fast_takes_a_few_at_a_time_and_holds_the_rest_back() {
    let (mut model, _, nodes, operation) = expansion(3, REFUSED, 1, true);
    assert_eq!(
        step(&model, &operation, 1),
        "waits for its turn, 1 at a time"
    );
    assert_eq!(model.node(&nodes[1]).disk.work, None);
    grown(&mut model, &nodes[0], false);
    failed(&mut model, &nodes[0]);
    let end = end(&model, &operation);
    assert!(
        end.starts_with("failed: 0 of 3 nodes expanded; node n1: partition")
            && end.contains("node n2: not begun: another node failed"),
        "{end}"
    );
    assert_eq!(model.node(&nodes[2]).disk.work, None);
}

#[test]
fn without_consent_a_restart_is_a_failure_that_says_what_to_do() {
    let (mut model, _, nodes, operation) = expansion(1, REFUSED, 1, false);
    grown(&mut model, &nodes[0], false);
    needs_restart(&mut model, &nodes[0]);
    assert!(end(&model, &operation).contains("run it again with --allow-restart"));
    assert!(!drains(&model, &nodes[0]));
}

#[test]
fn nodes_restart_one_at_a_time_go_on_and_are_back_in_service() {
    let restart = allowed(DrainMode::Refuse);
    let (mut model, _, nodes, operation) = expansion(2, restart, 1, false);
    for node in &nodes {
        grown(&mut model, node, false);
        needs_restart(&mut model, node);
    }
    assert_eq!(step(&model, &operation, 0), "it restarts");
    assert!(drains(&model, &nodes[0]) && !drains(&model, &nodes[1]));
    assert_eq!(
        step(&model, &operation, 1),
        "waits for its turn to restart, 1 at a time"
    );
    let work = model.node(&nodes[0]).disk.work.clone().expect("at work");
    assert_eq!(work.restart.as_deref(), Some("boot-0"));
    boots(&mut model, &nodes[0], "boot-1");
    assert_eq!(
        step(&model, &operation, 0),
        "it has restarted, and its agent goes on"
    );
    report(&mut model, &nodes[0], DiskReportState::Done);
    assert!(!drains(&model, &nodes[0]), "in service again");
    assert!(drains(&model, &nodes[1]), "the next one's turn");
    boots(&mut model, &nodes[1], "boot-1");
    report(&mut model, &nodes[1], DiskReportState::Done);
    assert_eq!(end(&model, &operation), "succeeded");
}

#[test]
fn a_node_that_needs_a_restart_after_its_restart_has_failed() {
    let restart = allowed(DrainMode::Refuse);
    let (mut model, _, nodes, operation) = expansion(1, restart, 1, false);
    grown(&mut model, &nodes[0], false);
    needs_restart(&mut model, &nodes[0]);
    boots(&mut model, &nodes[0], "boot-1");
    needs_restart(&mut model, &nodes[0]);
    assert!(end(&model, &operation).contains("it was restarted, and all the same"));
    assert!(!drains(&model, &nodes[0]));
}

#[test]
fn the_provisioner_can_ask_for_the_restart_before_the_agent_begins() {
    let restart = allowed(DrainMode::Wait);
    let (mut model, _, nodes, operation) = expansion(1, restart, 1, false);
    grown(&mut model, &nodes[0], true);
    let work = model.node(&nodes[0]).disk.work.clone().expect("at work");
    assert_eq!(
        work.wish().and_then(|wish| wish.restart).as_deref(),
        Some("boot-0")
    );
    boots(&mut model, &nodes[0], "boot-1");
    report(&mut model, &nodes[0], DiskReportState::Done);
    assert_eq!(end(&model, &operation), "succeeded");
}

#[test]
fn jobs_are_refused_waited_for_or_evicted_as_in_a_scale_down() {
    for drain in [
        DrainMode::Refuse,
        DrainMode::Wait,
        DrainMode::Evict { grace_seconds: 1 },
    ] {
        let mut model = Model::new(limits());
        let (super_node, nodes) = model.train(1, 1);
        let job = model.running(&super_node, job_spec(1));
        let kind = OperationKind::DiskExpand(DiskExpansion {
            size_bytes: 100 * GIB,
            restart: allowed(drain),
            parallel: 1,
            fail_fast: false,
        });
        let operation = model.operation(kind, Some(&super_node), &nodes);
        model.reconcile();
        grown(&mut model, &nodes[0], false);
        needs_restart(&mut model, &nodes[0]);
        if drain == DrainMode::Refuse {
            assert!(end(&model, &operation).contains(job.as_str()));
            assert!(!drains(&model, &nodes[0]));
            continue;
        }
        assert_eq!(
            step(&model, &operation, 0),
            format!("it is being drained to restart: {job} on it")
        );
        let stopping = model.snapshot.jobs[&job].state.word() == "stopping";
        assert_eq!(stopping, drain != DrainMode::Wait);
        model.set_ranks(&job, &stopped());
        model.reconcile();
        assert_eq!(step(&model, &operation, 0), "it restarts");
    }
}

#[test]
fn a_cancel_lets_what_has_begun_go_on() {
    let (mut model, _, nodes, operation) = expansion(2, REFUSED, 1, true);
    grown(&mut model, &nodes[0], false);
    model.cancel(&operation);
    model.reconcile();
    assert_eq!(step(&model, &operation, 0), "waits for its agent");
    report(&mut model, &nodes[0], DiskReportState::Done);
    assert_eq!(
        end(&model, &operation),
        "cancelled: 1 of 2 nodes expanded; node n2: not begun: the operation was cancelled"
    );
}

#[test]
fn at_its_deadline_it_ends_and_every_node_is_given_back() {
    let restart = allowed(DrainMode::Wait);
    let (mut model, super_node, nodes, operation) = expansion(2, restart, 2, false);
    model.running(&super_node, job_spec(1));
    for node in &nodes {
        grown(&mut model, node, false);
        needs_restart(&mut model, node);
    }
    model.advance(DEADLINE + Duration::from_secs(1));
    model.reconcile();
    assert!(end(&model, &operation).contains("the deadline passed"));
    for node in &nodes {
        assert!(!drains(&model, node));
        assert_eq!(model.node(node).disk.work, None);
    }
}
