//! Testing nodes: turns, busy nodes, windows, what interrupts a test, and what it does to the health of a node.

use std::time::Duration;

use supernode_types::node::{Cordon, NodeHealth, NodePolicy};
use supernode_types::operation::{OperationKind, OperationState, TargetState};
use supernode_types::stress::{Item, StressOutcome, StressProgress, StressRun, Tier};
use supernode_types::super_node::DrainMode;
use supernode_types::{NodeId, OperationId, SuperNodeId};

use crate::build::{exited, job_spec, limits};
use crate::model::Model;

const WINDOW: Duration = Duration::from_mins(2);

/// A full quick test of each node alone.
pub(crate) fn stress_run(model: &Model, parallel: u32, window: Duration) -> StressRun {
    StressRun {
        tier: Tier::Quick,
        items: Item::OF_ONE_NODE.to_vec(),
        kernel_seconds: None,
        parallel,
        window_ends: model.snapshot.now.plus(window),
        max_age_seconds: None,
        plan: None,
        notify: Vec::new(),
    }
}

struct Case {
    model: Model,
    super_node: SuperNodeId,
    nodes: Vec<NodeId>,
    run: OperationId,
}

/// A super node of some nodes with two devices each, and what happens before a run of all of them begins.
fn case(count: usize, parallel: u32, before: impl FnOnce(&mut Model, &SuperNodeId)) -> Case {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(count, 2);
    before(&mut model, &super_node);
    let run = stress_run(&model, parallel, WINDOW);
    begun(model, super_node, nodes, run)
}

fn begun(mut model: Model, super_node: SuperNodeId, nodes: Vec<NodeId>, run: StressRun) -> Case {
    let run = model.operation(OperationKind::StressRun(run), Some(&super_node), &nodes);
    model.reconcile();
    Case {
        model,
        super_node,
        nodes,
        run,
    }
}

fn quiet(count: usize) -> Case {
    case(count, 8, |_, _| {})
}

impl Case {
    fn judged(&mut self, node: usize, outcome: StressOutcome) {
        let node = self.nodes[node].clone();
        let work = self.model.node(&node).stress.work.as_mut();
        work.expect("it is tested").progress = StressProgress::Judged { outcome };
        self.model.reconcile();
    }

    fn again(&mut self) {
        let run = stress_run(&self.model, 8, WINDOW);
        let kind = OperationKind::StressRun(run);
        self.run = self
            .model
            .operation(kind, Some(&self.super_node), &self.nodes);
        self.model.reconcile();
    }

    fn tested(&self) -> Vec<usize> {
        let leased = |node: &NodeId| {
            let leases = &self.model.snapshot.leases;
            let of_run = leases
                .iter()
                .filter(|lease| lease.node == *node && lease.operation().is_some());
            match of_run.count() {
                0 => false,
                2 => true,
                other => panic!("{other} of two devices are leased"),
            }
        };
        (0..self.nodes.len())
            .filter(|index| leased(&self.nodes[*index]))
            .collect()
    }

    fn step(&self, slot: usize) -> String {
        match &self.model.snapshot.operations[&self.run].targets[slot].state {
            TargetState::Active { step } => step.clone(),
            other => other.word().to_owned(),
        }
    }

    fn end(&self) -> String {
        match &self.model.ended_operations[&self.run] {
            OperationState::Failed { reason } => format!("failed: {reason}"),
            OperationState::Cancelled { detail } => format!("cancelled: {detail}"),
            other => other.word().to_owned(),
        }
    }

    fn outcome(&self, node: usize) -> String {
        let outcome = &self.model.outcomes[&(self.run.clone(), self.nodes[node].clone())];
        let detail = outcome.detail().unwrap_or_default();
        format!("{} {detail}", outcome.word())
    }

    fn health(&self, node: usize) -> &'static str {
        self.model.snapshot.nodes[&self.nodes[node]].health.word()
    }
}

fn failed() -> StressOutcome {
    StressOutcome::Failed {
        finding: "core 3: digest".into(),
    }
}

#[test]
fn free_nodes_are_taken_whole_and_given_back() {
    let mut case = quiet(3);
    assert_eq!(case.tested(), [0, 1, 2]);
    let job = case.model.submit(&case.super_node, job_spec(1));
    case.model.reconcile();
    let reason = format!("{:?}", case.model.snapshot.jobs[&job].state);
    assert!(
        reason.contains(&format!("3 busy (test {})", case.run)),
        "{reason}"
    );
    for node in 0..3 {
        case.judged(node, StressOutcome::Passed);
    }
    assert_eq!((case.tested(), case.end()), (vec![], "succeeded".into()));
    assert_eq!(case.model.starts.len(), 1, "the job has begun");
    assert_eq!(case.health(0), "proven");
}

#[test]
fn a_few_are_tested_at_a_time() {
    let mut case = case(3, 1, |_, _| {});
    assert_eq!(case.tested(), [0]);
    assert_eq!(case.step(1), "waits for its turn, 1 at a time");
    case.judged(0, StressOutcome::Passed);
    assert_eq!(case.tested(), [1]);
}

#[test]
fn a_busy_node_is_waited_for_and_then_skipped_with_the_age_of_its_proof() {
    let mut job = None;
    let mut case = case(2, 8, |model, super_node| {
        job = Some(model.running(super_node, job_spec(1)));
    });
    let job = job.expect("it runs");
    assert_eq!(case.tested().len(), 1);
    let busy = 1 - case.tested()[0];
    assert_eq!(case.step(busy), format!("waits for {job}"));
    case.judged(1 - busy, StressOutcome::Passed);
    case.model.advance(WINDOW);
    case.model.reconcile();
    assert_eq!(
        case.outcome(busy),
        format!("skipped the window is over, and it still waits for {job}; never proven")
    );
    assert!(
        case.end().starts_with("failed: 1 of 2 nodes tested; node"),
        "{}",
        case.end()
    );
    assert!(
        !case.model.ended_jobs.contains_key(&job),
        "nothing is stopped for a test"
    );
}

#[test]
fn a_node_is_taken_as_soon_as_its_job_ends_before_the_next_job() {
    let mut job = None;
    let mut case = case(1, 8, |model, super_node| {
        job = Some(model.running(super_node, job_spec(1)));
    });
    let next = case.model.submit(&case.super_node, job_spec(1));
    case.model.set_ranks(&job.expect("it runs"), &exited(0));
    case.model.reconcile();
    assert_eq!(case.tested(), [0]);
    case.judged(0, StressOutcome::Passed);
    assert_eq!(case.model.snapshot.jobs[&next].state.word(), "starting");
}

/// A run on a schedule, of nodes that were all proven now; for an hour its tests give way.
fn planned(count: usize, before: impl FnOnce(&mut Model, &SuperNodeId)) -> Case {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(count, 2);
    for node in &nodes {
        let now = model.snapshot.now;
        model.node(node).stress.last_passed = Some(now);
    }
    before(&mut model, &super_node);
    let run = StressRun {
        max_age_seconds: Some(3600),
        ..stress_run(&model, 8, WINDOW)
    };
    begun(model, super_node, nodes, run)
}

#[test]
fn a_scheduled_test_is_stopped_for_a_job_and_no_more_of_them_than_it_needs() {
    let mut case = planned(3, |_, _| {});
    assert_eq!(case.tested(), [0, 1, 2]);
    let job = case.model.submit(&case.super_node, job_spec(2));
    case.model.reconcile();
    let told = format!("is told to stop: {job} needs the node");
    assert_eq!((case.step(0), case.step(1)), (told.clone(), told));
    assert_eq!(case.step(2), "waits for its agent");
    let why = "stopped".to_owned();
    case.judged(0, StressOutcome::Incomplete { why: why.clone() });
    case.judged(1, StressOutcome::Incomplete { why });
    assert_eq!(case.model.snapshot.jobs[&job].state.word(), "starting");
    assert_eq!(case.tested(), [2]);
    assert_eq!(case.health(0), "unproven", "neither a pass nor a failure");
}

#[test]
fn nothing_is_stopped_for_a_job_that_could_not_start_all_the_same() {
    let mut case = planned(2, |model, super_node| {
        model.running(super_node, job_spec(1));
    });
    case.model.submit(&case.super_node, job_spec(2));
    case.model.reconcile();
    assert_eq!(
        (case.step(1), case.tested()),
        ("waits for its agent".into(), vec![1])
    );
}

#[test]
fn a_scheduled_test_does_not_begin_where_a_job_is_about_to() {
    let mut job = None;
    let mut case = planned(1, |model, super_node| {
        job = Some(model.running(super_node, job_spec(1)));
    });
    let next = case.model.submit(&case.super_node, job_spec(1));
    case.model.set_ranks(&job.expect("it runs"), &exited(0));
    case.model.reconcile();
    assert_eq!(case.tested(), Vec::<usize>::new());
    assert_eq!(case.model.snapshot.jobs[&next].state.word(), "starting");
}

#[test]
fn the_test_of_a_node_whose_proof_is_too_old_gives_way_to_nobody() {
    let mut case = planned(1, |model, _| model.advance(Duration::from_hours(1)));
    assert_eq!(case.tested(), [0]);
    let job = case.model.submit(&case.super_node, job_spec(1));
    case.model.reconcile();
    assert_eq!(case.step(0), "waits for its agent");
    case.judged(0, StressOutcome::Passed);
    assert_eq!(case.model.snapshot.jobs[&job].state.word(), "starting");
}

#[test]
fn a_cancelled_run_stops_its_kernels_and_is_incomplete() {
    let mut case = case(2, 1, |_, _| {});
    let operation = case.model.snapshot.operations.get_mut(&case.run);
    operation.expect("it runs").cancel_requested = true;
    case.model.reconcile();
    assert_eq!(case.step(0), "is told to stop: the operation was cancelled");
    assert_eq!(case.tested(), [0], "until the agent says so");
    let why = "the operation was cancelled".to_owned();
    case.judged(0, StressOutcome::Incomplete { why });
    assert_eq!(
        case.outcome(1),
        "skipped the operation was cancelled; never proven"
    );
    assert!(
        case.end().starts_with("cancelled: 0 of 2 nodes tested"),
        "{}",
        case.end()
    );
    assert_eq!((case.tested(), case.health(0)), (vec![], "unproven"));
}

#[test]
fn an_agent_that_says_nothing_holds_nothing_for_ever() {
    let mut case = quiet(1);
    let deadline = case.model.snapshot.operations[&case.run].deadline;
    let left = deadline.since(case.model.snapshot.now) + supernode_plan::operation::FOLLOW_UP;
    case.model.advance(left);
    case.model.reconcile();
    assert!(
        case.outcome(0)
            .starts_with("incomplete the deadline passed"),
        "{}",
        case.outcome(0)
    );
    assert!(case.tested().is_empty());
}

#[test]
fn a_lost_and_a_restarted_node_are_incomplete_at_once() {
    let mut case = quiet(2);
    let lost_after = case.model.limits.lost_after;
    let nodes = case.nodes.clone();
    case.model.silent(&nodes[0], lost_after);
    case.model.node(&nodes[1]).boot_id = "another".into();
    case.model.reconcile();
    assert_eq!(case.outcome(0), "incomplete the node was lost");
    assert_eq!(case.outcome(1), "incomplete the node was restarted");
    assert!(case.tested().is_empty());
}

#[test]
fn a_test_gives_way_to_whoever_empties_the_node() {
    let mut case = quiet(2);
    let mode = DrainMode::Wait;
    let nodes = [case.nodes[0].clone()];
    let kind = OperationKind::ScaleDown { mode };
    let drain = case.model.operation(kind, Some(&case.super_node), &nodes);
    case.model.node(&nodes[0]).policy = NodePolicy::Draining {
        operation: drain.clone(),
        cordon: None,
    };
    case.model.reconcile();
    assert_eq!(
        case.step(0),
        format!("is told to stop: the node is being emptied by {drain}")
    );
    let why = String::new();
    case.judged(0, StressOutcome::Incomplete { why });
    assert_eq!(case.tested(), [1]);
    assert_eq!(case.model.node(&nodes[0]).membership.word(), "leaving");
}

#[test]
fn a_cordoned_node_can_be_tested() {
    let case = case(1, 8, |model, super_node| {
        let nodes: Vec<NodeId> = model
            .snapshot
            .members(super_node)
            .map(|node| node.id.clone())
            .collect();
        model.node(&nodes[0]).policy = NodePolicy::Cordoned(Cordon {
            by: "ada".into(),
            reason: "fan".into(),
        });
    });
    assert_eq!(case.tested(), [0]);
}

#[test]
fn a_node_that_failed_takes_no_new_work_until_it_passed_everything() {
    let mut case = quiet(2);
    case.judged(0, failed());
    case.judged(1, StressOutcome::Passed);
    assert_eq!((case.health(0), case.health(1)), ("quarantined", "proven"));
    let job = case.model.submit(&case.super_node, job_spec(2));
    case.model.reconcile();
    let reason = format!("{:?}", case.model.snapshot.jobs[&job].state);
    assert!(
        reason.contains("1 quarantined (n1: core 3: digest"),
        "{reason}"
    );
    case.again();
    assert_eq!(case.tested(), [0, 1], "it can be tested");
    case.judged(0, StressOutcome::Passed);
    assert_eq!(case.health(0), "proven");
}

#[test]
fn a_shortened_test_brings_nobody_back() {
    let mut case = quiet(2);
    case.judged(0, failed());
    case.judged(1, StressOutcome::Passed);
    let run = StressRun {
        kernel_seconds: Some(1),
        ..stress_run(&case.model, 8, WINDOW)
    };
    let kind = OperationKind::StressRun(run);
    case.run = case
        .model
        .operation(kind, Some(&case.super_node), &case.nodes);
    case.model.reconcile();
    case.judged(0, StressOutcome::Passed);
    assert_eq!(case.health(0), "quarantined");
}

#[test]
fn the_brake_keeps_the_rest_in_service() {
    let mut case = quiet(5);
    for node in 0..5 {
        case.judged(node, failed());
    }
    let words: Vec<&str> = (0..5).map(|node| case.health(node)).collect();
    assert_eq!(
        words,
        ["quarantined", "suspect", "suspect", "suspect", "suspect"]
    );
}

#[test]
fn what_says_nothing_changes_nothing() {
    let mut case = quiet(3);
    let suspect = NodeHealth::Suspect {
        finding: "before".into(),
    };
    let node = case.nodes[0].clone();
    case.model.node(&node).health = suspect.clone();
    let why = String::new;
    case.judged(0, StressOutcome::Undecided { why: why() });
    case.judged(1, StressOutcome::Incomplete { why: why() });
    case.judged(
        2,
        StressOutcome::Suspect {
            finding: "slow".into(),
        },
    );
    assert_eq!(case.model.node(&node).health, suspect);
    assert_eq!((case.health(1), case.health(2)), ("unproven", "suspect"));
}
