//! The life of a job that holds leases.

use std::time::Duration;

use supernode_types::job::{JobOutcome, JobSpec, RankEnd, RankState};
use supernode_types::super_node::DrainMode;
use supernode_types::{JobId, NodeId, SuperNodeId};

use crate::build::{exited, job_spec, limits, stopped};
use crate::model::Model;

struct Case {
    model: Model,
    super_node: SuperNodeId,
    nodes: Vec<NodeId>,
    job: JobId,
}

/// A job of two ranks runs on two of three nodes.
fn case(change: impl FnOnce(&mut JobSpec)) -> Case {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(3, 1);
    let mut spec = job_spec(2);
    change(&mut spec);
    let job = model.running(&super_node, spec);
    assert_eq!(model.placed(&job), ["n1", "n2"]);
    Case {
        model,
        super_node,
        nodes,
        job,
    }
}

impl Case {
    fn word(&self) -> &str {
        self.model.snapshot.jobs[&self.job].state.word()
    }

    fn stop_all(&mut self) {
        self.model.reconcile();
        assert_eq!(self.word(), "stopping");
        self.model.set_ranks(&self.job, &stopped());
        self.model.reconcile();
    }

    fn lose(&mut self, node: usize) {
        let node = self.nodes[node].clone();
        self.model.silent(&node, self.model.limits.lost_after);
        self.model.reconcile();
    }

    fn outcome(&self) -> JobOutcome {
        assert!(
            self.model
                .snapshot
                .leases
                .iter()
                .all(|lease| lease.job() != Some(&self.job)),
            "an ended job holds nothing"
        );
        self.model.ended_jobs[&self.job].clone()
    }
}

#[test]
fn a_gang_succeeds_when_every_rank_exited_with_0() {
    let mut case = case(|_| {});
    case.model.set_rank(&case.job, 0, exited(0));
    case.model.reconcile();
    assert_eq!(case.word(), "running");
    case.model.set_ranks(&case.job, &exited(0));
    case.model.reconcile();
    assert_eq!(case.outcome(), JobOutcome::Succeeded);
}

#[test]
fn a_gang_may_be_over_before_it_was_seen_running() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    let job = model.submit(&super_node, job_spec(1));
    model.reconcile();
    model.set_ranks(&job, &exited(0));
    model.reconcile();
    assert_eq!(model.ended_jobs[&job], JobOutcome::Succeeded);
}

#[test]
fn the_lowest_failed_rank_names_node_code_and_last_lines() {
    let mut case = case(|_| {});
    case.model.set_ranks(&case.job, &exited(3));
    case.model.reconcile();
    let JobOutcome::Failed(failure) = case.outcome() else {
        panic!("it failed")
    };
    assert_eq!(
        (failure.rank, failure.node.as_str(), failure.last_lines),
        (0, "n1", vec!["code 3".to_owned()])
    );
    assert_eq!(failure.end, RankEnd::Exited { code: 3 });
}

#[test]
fn a_failed_rank_stops_the_others_and_leases_stay_until_they_are_gone() {
    let mut case = case(|_| {});
    case.model.set_rank(&case.job, 1, exited(1));
    case.model.reconcile();
    assert_eq!(
        (case.word(), case.model.snapshot.leases.len()),
        ("stopping", 2)
    );
    case.stop_all();
    assert!(matches!(case.outcome(), JobOutcome::Failed(failure) if failure.node == "n2"));
}

#[test]
fn cancel_ends_a_queued_job_at_once_and_a_running_one_when_it_is_gone() {
    let mut case = case(|_| {});
    let waiting = case.model.submit(&case.super_node, job_spec(3));
    case.model.reconcile();
    for job in [&waiting, &case.job] {
        case.model.job(job).cancel_requested_by = Some("eve".into());
    }
    case.stop_all();
    let cancelled = JobOutcome::Cancelled { by: "eve".into() };
    assert_eq!(
        (case.outcome(), &case.model.ended_jobs[&waiting]),
        (cancelled.clone(), &cancelled)
    );
}

#[test]
fn the_time_limit_counts_from_running() {
    let mut case = case(|spec| spec.time_limit_seconds = Some(60));
    case.model.advance(Duration::from_secs(59));
    case.model.reconcile();
    assert_eq!(case.word(), "running");
    case.model.advance(Duration::from_secs(1));
    case.stop_all();
    assert_eq!(case.outcome(), JobOutcome::TimedOut);
}

#[test]
fn a_job_that_finished_before_the_stop_reached_it_succeeded() {
    let mut case = case(|spec| spec.time_limit_seconds = Some(60));
    case.model.advance(Duration::from_mins(1));
    case.model.reconcile();
    case.model.set_ranks(&case.job, &exited(0));
    case.model.reconcile();
    assert_eq!(case.outcome(), JobOutcome::Succeeded);
}

#[test]
fn a_lost_node_requeues_on_healthy_nodes_within_the_limit() {
    let mut case = case(|spec| spec.requeue_limit = 1);
    case.lose(0);
    assert_eq!(
        case.word(),
        "stopping",
        "the rank on the other node still runs"
    );
    case.stop_all();
    assert_eq!(case.word(), "starting");
    assert_eq!(case.model.placed(&case.job), ["n2", "n3"]);
    case.lose(1);
    case.stop_all();
    let JobOutcome::NodeLost { node, detail } = case.outcome() else {
        panic!("no requeue is left")
    };
    assert_eq!(
        (node.as_str(), detail.as_str()),
        (
            "n2",
            "rank 0 was lost: node n2 lost contact and has stopped its ranks"
        )
    );
}

#[test]
fn a_restarted_node_is_a_lost_one_and_so_is_a_removed_one() {
    let mut case = case(|spec| spec.requeue_limit = 2);
    let node = case.nodes[0].clone();
    case.model.node(&node).boot_id = "boot-1".into();
    case.stop_all();
    assert_eq!(case.word(), "starting", "the restarted node is fine again");
    case.model.snapshot.nodes.remove(&node);
    case.stop_all();
    assert_eq!(case.model.placed(&case.job), ["n2", "n3"]);
}

#[test]
fn a_rank_that_failed_because_its_peer_was_lost_does_not_cost_the_job() {
    let mut case = case(|spec| spec.requeue_limit = 1);
    let node = case.nodes[0].clone();
    case.model.silent(&node, Duration::from_secs(8));
    case.model.set_rank(&case.job, 1, exited(1));
    case.model.reconcile();
    assert_eq!(case.word(), "stopping");
    case.lose(0);
    assert_eq!(
        (case.word(), case.model.snapshot.jobs[&case.job].requeues),
        ("starting", 1)
    );
}

#[test]
fn a_fenced_rank_is_a_node_fault_also_when_the_node_is_back() {
    let mut case = case(|spec| spec.requeue_limit = 1);
    case.model.set_rank(&case.job, 0, exited(1));
    case.model.set_rank(
        &case.job,
        1,
        RankState::Ended {
            end: RankEnd::Fenced,
            last_lines: Vec::new(),
        },
    );
    case.model.reconcile();
    assert_eq!(
        (case.word(), case.model.snapshot.jobs[&case.job].requeues),
        ("starting", 1)
    );
}

#[test]
fn cancel_wins_over_requeue() {
    let mut case = case(|spec| spec.requeue_limit = 5);
    case.lose(0);
    case.model.job(&case.job.clone()).cancel_requested_by = Some("eve".into());
    case.stop_all();
    assert_eq!(case.outcome(), JobOutcome::Cancelled { by: "eve".into() });
}

#[test]
fn eviction_requeues_without_counting_and_other_drains_do_not_touch_jobs() {
    for (mode, word) in [
        (DrainMode::Wait, "running"),
        (DrainMode::Evict { grace_seconds: 1 }, "stopping"),
    ] {
        let mut case = case(|_| {});
        case.model
            .scale_down(&case.super_node, &case.nodes[..1], mode);
        case.model.reconcile();
        assert_eq!(case.word(), word, "{mode:?}");
        if word == "stopping" {
            case.stop_all();
            assert_eq!(
                (case.word(), case.model.snapshot.jobs[&case.job].requeues),
                ("starting", 0)
            );
            assert_eq!(case.model.placed(&case.job), ["n2", "n3"]);
        }
    }
}

#[test]
fn a_rank_that_does_not_start_in_time_is_a_fault_of_its_node() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(2, 1);
    let job = model.submit(&super_node, job_spec(2));
    model.reconcile();
    model.set_rank(&job, 0, RankState::Running);
    model.advance(Duration::from_secs(29));
    model.reconcile();
    assert_eq!(model.snapshot.jobs[&job].state.word(), "starting");
    model.advance(Duration::from_secs(1));
    model.reconcile();
    model.set_ranks(&job, &stopped());
    model.reconcile();
    let expected = JobOutcome::NodeLost {
        node: "n2".into(),
        detail: "rank 1 did not start within 30 s".into(),
    };
    assert_eq!(model.ended_jobs[&job], expected);
}
