//! Testing the network between nodes: when pairs begin, what they wait for, what interrupts one, and what it does to the nodes.

use std::time::Duration;

use supernode_types::node::{NodeHealth, NodePolicy};
use supernode_types::operation::{OperationKind, OperationState, TargetState};
use supernode_types::stress::{
    Item, PairNumbers, PairOutcome, PairState, StressOutcome, StressProgress, StressRun,
};
use supernode_types::super_node::DrainMode;
use supernode_types::{NodeId, OperationId, SuperNodeId};

use crate::build::{exited, job_spec, limits};
use crate::model::Model;
use crate::stress_run::stress_run;

const WINDOW: Duration = Duration::from_mins(2);

struct Case {
    model: Model,
    super_node: SuperNodeId,
    nodes: Vec<NodeId>,
    run: OperationId,
}

/// A super node of some nodes with two devices each, and a run of these items on all of them.
fn case(
    count: usize,
    items: &[Item],
    change: impl FnOnce(&mut Model, &SuperNodeId, &mut StressRun),
) -> Case {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(count, 2);
    let mut run = stress_run(&model, 8, WINDOW);
    run.items = items.to_vec();
    change(&mut model, &super_node, &mut run);
    let run = model.operation(OperationKind::StressRun(run), Some(&super_node), &nodes);
    model.reconcile();
    Case {
        model,
        super_node,
        nodes,
        run,
    }
}

fn network(count: usize) -> Case {
    case(count, &[Item::Network], |_, _, _| {})
}

fn measured() -> PairOutcome {
    PairOutcome::Measured(PairNumbers {
        out_gbps: 100.0,
        back_gbps: 100.0,
        out_loss: 0.0,
        back_loss: 0.0,
        round_trip_microseconds: None,
        slow_round_trip_microseconds: None,
    })
}

impl Case {
    fn says(&mut self, number: u32, outcome: PairOutcome) {
        match &mut self.model.pair(&self.run, number).state {
            PairState::Running { said, .. } => *said = Some(outcome),
            other => panic!("{other:?} says nothing"),
        }
        self.model.reconcile();
    }

    fn judged(&mut self, node: usize, outcome: StressOutcome) {
        let node = self.nodes[node].clone();
        let work = self.model.node(&node).stress.work.as_mut();
        work.expect("it is tested").progress = StressProgress::Judged { outcome };
        self.model.reconcile();
    }

    /// The nodes that are leased to the run.
    fn leased(&self) -> Vec<usize> {
        let leased = |node: &NodeId| {
            let mut leases = self.model.snapshot.leases.iter();
            leases.any(|lease| lease.node == *node && lease.operation() == Some(&self.run))
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

    fn outcome(&self, node: usize) -> &'static str {
        self.model.outcomes[&(self.run.clone(), self.nodes[node].clone())].word()
    }

    fn end(&self) -> String {
        match &self.model.ended_operations[&self.run] {
            OperationState::Failed { reason } => format!("failed: {reason}"),
            OperationState::Cancelled { detail } => format!("cancelled: {detail}"),
            other => other.word().to_owned(),
        }
    }

    /// What the last pair that ended came to, with its detail.
    fn last_pair(&self) -> String {
        match &self.model.ended_pairs.last().expect("one ended").state {
            PairState::Waiting { after } => format!("again: {}", after.as_deref().unwrap_or("")),
            PairState::Ended { outcome, .. } => {
                format!("{}: {}", outcome.word(), outcome.detail().unwrap_or(""))
            }
            PairState::Running { .. } => "running".into(),
        }
    }

    fn health(&self, node: usize) -> &'static str {
        self.model.snapshot.nodes[&self.nodes[node]].health.word()
    }
}

#[test]
fn nodes_are_tested_alone_held_by_nobody_and_then_paired() {
    let mut case = case(4, &Item::ALL, |_, _, _| {});
    assert_eq!(case.leased(), [0, 1, 2, 3]);
    case.judged(0, StressOutcome::Passed);
    assert_eq!(
        case.leased(),
        [1, 2, 3],
        "free while it waits for the others"
    );
    assert!(
        case.step(0).contains("the network is next"),
        "{}",
        case.step(0)
    );
    for node in 1..4 {
        case.judged(node, StressOutcome::Passed);
    }
    assert_eq!(case.leased(), [0, 1, 2, 3]);
    assert_eq!(case.step(0), "network of n1 and n2: waits for their agents");
    case.says(1, measured());
    assert_eq!(case.leased(), [2, 3]);
    assert_eq!(case.step(0), "waits for the other pairs of round 1");
    case.says(2, measured());
    assert_eq!((case.leased(), case.end()), (vec![], "succeeded".into()));
    assert_eq!((case.outcome(0), case.health(0)), ("passed", "proven"));
}

#[test]
fn a_node_that_failed_alone_is_quarantined_at_once_and_not_paired() {
    let mut case = case(3, &[Item::Memory, Item::Network], |_, _, _| {});
    let finding = "core 3: digest".to_owned();
    case.judged(0, StressOutcome::Failed { finding });
    assert_eq!((case.outcome(0), case.health(0)), ("failed", "quarantined"));
    case.judged(1, StressOutcome::Passed);
    let why = "others used it".to_owned();
    case.judged(2, StressOutcome::Undecided { why });
    assert_eq!(
        case.leased(),
        [1, 2],
        "what is undecided alone can be paired"
    );
    case.says(1, measured());
    assert_eq!((case.outcome(1), case.outcome(2)), ("passed", "undecided"));
}

#[test]
fn a_busy_partner_is_waited_for_and_nobody_is_held_meanwhile() {
    let mut job = None;
    let mut case = case(2, &[Item::Network], |model, super_node, _| {
        job = Some(model.running(super_node, job_spec(1)));
    });
    let job = job.expect("it runs");
    assert_eq!(case.leased(), Vec::<usize>::new());
    let step = case.step(0);
    assert!(step.contains(&format!("waits for {job}")), "{step}");
    case.model.set_ranks(&job, &exited(0));
    case.model.reconcile();
    assert_eq!(case.leased(), [0, 1]);
}

#[test]
fn what_is_busy_until_the_window_ends_is_skipped_and_fails_nobody() {
    let mut case = case(2, &Item::ALL, |_, _, _| {});
    case.judged(0, StressOutcome::Passed);
    let job = case.model.running(&case.super_node, job_spec(1));
    case.judged(1, StressOutcome::Passed);
    assert_eq!(case.leased(), Vec::<usize>::new());
    case.model.advance(WINDOW);
    case.model.reconcile();
    let last = case.last_pair();
    assert!(
        last.starts_with("skipped: the window is over, and node"),
        "{last}"
    );
    assert_eq!(
        (case.outcome(0), case.end()),
        ("passed", "succeeded".into())
    );
    assert!(!case.model.ended_jobs.contains_key(&job));
}

#[test]
fn a_pair_needs_two_turns() {
    let mut case = case(4, &[Item::Network], |_, _, run| run.parallel = 2);
    assert_eq!(case.leased(), [0, 1]);
    assert_eq!(
        case.step(2),
        "network of n3 and n4: waits for its turn, 2 nodes at a time"
    );
    case.says(1, measured());
    assert_eq!(case.leased(), [2, 3]);
    let one = case_of_one_turn();
    assert_eq!(one.leased(), [0, 1], "a pair is never half");
}

fn case_of_one_turn() -> Case {
    case(4, &[Item::Network], |_, _, run| run.parallel = 1)
}

#[test]
fn a_pair_that_came_to_nothing_is_begun_once_more() {
    let mut case = network(2);
    let why = || "connection refused".to_owned();
    case.says(1, PairOutcome::Unreachable { why: why() });
    assert_eq!(case.last_pair(), "again: connection refused");
    assert_eq!(case.leased(), [0, 1], "at once, both are free");
    case.says(1, PairOutcome::Unreachable { why: why() });
    assert_eq!(case.last_pair(), "unreachable: connection refused");
    assert_eq!(case.leased(), Vec::<usize>::new());
}

#[test]
fn whoever_empties_a_node_and_whatever_is_lost_ends_the_pair_for_both() {
    let mut case = network(4);
    let mode = DrainMode::Wait;
    let nodes = [case.nodes[0].clone()];
    let kind = OperationKind::ScaleDown { mode };
    let drain = case.model.operation(kind, Some(&case.super_node), &nodes);
    case.model.node(&nodes[0]).policy = NodePolicy::Draining {
        operation: drain.clone(),
        cordon: None,
    };
    case.model.reconcile();
    let last = case.last_pair();
    assert_eq!(
        last,
        format!("incomplete: node n1 is being emptied by {drain}")
    );
    assert_eq!(case.leased(), [2, 3]);
    let lost_after = case.model.limits.lost_after;
    let third = case.nodes[2].clone();
    case.model.silent(&third, lost_after);
    case.model.reconcile();
    assert_eq!(case.last_pair(), "incomplete: node n3 was lost");
    assert_eq!(case.leased(), Vec::<usize>::new());
}

#[test]
fn a_restart_and_an_agent_that_says_nothing_cost_one_try() {
    let mut case = network(2);
    let first = case.nodes[0].clone();
    case.model.node(&first).boot_id = "another".into();
    case.model.reconcile();
    assert_eq!(case.last_pair(), "again: node n1 was restarted");
    assert_eq!(case.leased(), [0, 1]);
    // Three kernels of five seconds, and a minute.
    case.model.advance(Duration::from_secs(75));
    case.model.reconcile();
    assert_eq!(
        case.last_pair(),
        "incomplete: its agents said nothing for too long"
    );
    assert_eq!(case.leased(), Vec::<usize>::new());
}

#[test]
fn a_cancelled_run_ends_its_pairs_and_says_that_the_network_was_not_tested() {
    let mut case = case(4, &Item::ALL, |_, _, run| run.parallel = 2);
    for node in [0, 1, 2, 3] {
        case.judged(node, StressOutcome::Passed);
    }
    assert_eq!(case.leased(), [0, 1]);
    let operation = case.model.snapshot.operations.get_mut(&case.run);
    operation.expect("it runs").cancel_requested = true;
    case.model.reconcile();
    assert_eq!(case.leased(), Vec::<usize>::new());
    assert_eq!(
        case.end(),
        "cancelled: 4 of 4 nodes tested; the network was not tested to the end"
    );
    assert_eq!(case.outcome(3), "passed", "of what was tested of it alone");
}

#[test]
fn a_scheduled_pair_is_given_up_for_a_job_and_comes_back() {
    let mut case = case(2, &[Item::Network], |model, super_node, run| {
        let now = model.snapshot.now;
        let members: Vec<NodeId> = model
            .snapshot
            .members(super_node)
            .map(|node| node.id.clone())
            .collect();
        for node in &members {
            model.node(node).stress.last_passed = Some(now);
        }
        run.max_age_seconds = Some(3600);
    });
    assert_eq!(case.leased(), [0, 1]);
    let job = case.model.submit(&case.super_node, job_spec(1));
    case.model.reconcile();
    assert!(
        case.last_pair().contains(&format!("{job} needs the node")),
        "{}",
        case.last_pair()
    );
    assert_eq!(case.model.snapshot.jobs[&job].state.word(), "starting");
    assert_eq!(case.leased(), Vec::<usize>::new());
    case.model.set_ranks(&job, &exited(0));
    case.model.reconcile();
    assert_eq!(case.leased(), [0, 1]);
}

#[test]
fn a_sick_network_quarantines_its_node_and_only_a_network_test_brings_it_back() {
    let mut case = case(4, &Item::ALL, |_, _, _| {});
    let finding = "what n1 sends is slow".to_owned();
    let first = case.nodes[0].clone();
    case.model
        .found
        .insert(first.clone(), StressOutcome::Failed { finding });
    for node in 0..4 {
        case.judged(node, StressOutcome::Passed);
    }
    case.says(1, measured());
    case.says(2, measured());
    assert_eq!((case.outcome(0), case.health(0)), ("failed", "quarantined"));
    assert_eq!((case.outcome(1), case.health(1)), ("passed", "proven"));
    // Control notes it where it judges the network.
    case.model.node(&first).stress.network_doubt = Some(case.run.clone());
    case.model.found.clear();
    let again = |case: &mut Case, items: &[Item], nodes: &[NodeId]| {
        let mut run = stress_run(&case.model, 8, WINDOW);
        run.items = items.to_vec();
        let kind = OperationKind::StressRun(run);
        case.run = case.model.operation(kind, Some(&case.super_node), nodes);
        case.model.reconcile();
    };
    again(&mut case, &Item::ALL, std::slice::from_ref(&first));
    case.judged(0, StressOutcome::Passed);
    assert_eq!(
        (case.outcome(0), case.health(0)),
        ("passed", "quarantined"),
        "alone"
    );
    let all = case.nodes.clone();
    again(&mut case, &Item::ALL, &all);
    for node in 0..4 {
        case.judged(node, StressOutcome::Passed);
    }
    case.says(1, measured());
    case.says(2, measured());
    assert_eq!(case.health(0), "proven");
}

#[test]
fn a_node_that_is_not_ready_is_waited_for_before_anybody_is_paired() {
    let mut case = case(2, &[Item::Network], |model, super_node, _| {
        let first = model
            .snapshot
            .members(super_node)
            .next()
            .expect("two")
            .id
            .clone();
        let lost_after = model.limits.lost_after;
        model.silent(&first, lost_after);
    });
    assert_eq!(case.leased(), Vec::<usize>::new());
    assert_eq!(case.step(0), "is lost");
    case.model.advance(WINDOW);
    case.model.reconcile();
    assert_eq!(case.outcome(0), "skipped");
    assert!(
        case.end().starts_with("failed: 1 of 2 nodes tested"),
        "{}",
        case.end()
    );
    assert!(matches!(
        case.model.snapshot.nodes[&case.nodes[1]].health,
        NodeHealth::Unproven | NodeHealth::Proven { .. }
    ));
}
