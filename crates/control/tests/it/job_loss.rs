//! What becomes of jobs when nodes, agents or networks fail.

use supernode_types::JobId;
use supernode_types::job::{JobOutcome, JobSpec, JobState, RankEnd, RankState};

use crate::world::{Engine, World, job_spec, on_every_engine};

on_every_engine!(
    a_lost_node_queues_the_job_on_others,
    without_a_requeue_left_the_outcome_names_the_node,
    a_node_that_is_silent_for_a_moment_loses_nothing,
    a_restarted_node_never_runs_an_old_rank,
    a_fenced_rank_queues_the_job_again,
    a_rank_that_never_starts_is_given_up,
    a_node_that_comes_back_is_told_to_forget,
    a_cancel_beats_a_requeue,
    a_failed_rank_beside_a_lost_node_is_the_nodes_fault,
    another_node_cannot_speak_for_a_rank,
);

fn requeue(nodes: u32, limit: u32) -> JobSpec {
    JobSpec {
        requeue_limit: limit,
        ..job_spec(nodes)
    }
}

fn outcome(world: &World, job: &JobId) -> JobOutcome {
    match world.job(job).state {
        JobState::Ended { outcome, .. } => outcome,
        other => panic!("{job} is {}", other.word()),
    }
}

fn a_lost_node_queues_the_job_on_others(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let job = world.running("train", requeue(2, 1));
    let attempt = world.job(&job).state.attempt().cloned();
    world.lose("n2");
    world.settle();
    let after = world.job(&job);
    assert_eq!(
        (after.state.word(), after.attempts, after.requeues),
        ("running", 2, 1)
    );
    assert_ne!(after.state.attempt().cloned(), attempt);
    let lost = world.node("n2").id;
    assert!(world.ranks(&job).iter().all(|rank| rank.node != lost));
    assert_eq!(world.event_count("node.lost"), 1);
    let desired = world.agent("n1").desired.clone().expect("it was told");
    let supernode_types::agent::RankWish::Run(launch) = &desired.ranks[0].wish else {
        panic!("it runs");
    };
    assert_eq!(launch.place.restart_count, 1);
}

fn without_a_requeue_left_the_outcome_names_the_node(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let job = world.running("train", requeue(2, 1));
    world.lose("n1");
    world.settle();
    assert_eq!(world.job(&job).attempts, 2);
    world.lose("n3");
    world.settle();
    let JobOutcome::NodeLost { node, detail } = outcome(&world, &job) else {
        panic!("no requeue was left");
    };
    assert_eq!(node, "n3");
    assert!(detail.contains("lost contact"), "{detail}");
    assert_eq!(world.leased(), 0);
    assert!(world.agents["n2"].running().is_empty());
}

fn a_node_that_is_silent_for_a_moment_loses_nothing(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running("train", job_spec(1));
    world.agent("n1").connected = false;
    world.wait(9);
    world.settle();
    assert_eq!(world.node("n1").condition.word(), "ready");
    world.agent("n1").connected = true;
    world.wait(9);
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    assert_eq!(world.event_count("node.lost"), 0);
}

fn a_restarted_node_never_runs_an_old_rank(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running("train", requeue(1, 1));
    let agent = world.agent("n1");
    agent.reboot();
    // The disk was new, too: nothing is known of the rank any more.
    agent.ranks.clear();
    world.settle();
    let after = world.job(&job);
    assert_eq!(
        (after.state.word(), after.attempts, after.requeues),
        ("running", 2, 1)
    );
    assert_eq!(world.ranks(&job)[0].boot_id, "boot-2");
    assert_eq!(
        world.agent("n1").started.len(),
        2,
        "each attempt was started once"
    );
    assert_eq!(world.event_count("node.restarted"), 1);
}

fn a_fenced_rank_queues_the_job_again(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", requeue(2, 1));
    // The agent comes back just before the server gives it up, but its supervisors were faster.
    world.agent("n2").fence();
    world.settle();
    let after = world.job(&job);
    assert_eq!(
        (after.state.word(), after.attempts, after.requeues),
        ("running", 2, 1)
    );
}

fn a_rank_that_never_starts_is_given_up(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world.agent("n2").frozen = true;
    let job = world.submit("train", job_spec(2)).expect("queued").id;
    world.settle();
    world.wait(120);
    world.settle();
    let JobState::Stopping { reason, .. } = world.job(&job).state else {
        panic!("it is being stopped");
    };
    assert!(
        format!("{reason:?}").contains("did not start within 120 s"),
        "{reason:?}"
    );
    world.agent("n2").frozen = false;
    world.agent("n2").act();
    world.settle();
    assert!(matches!(outcome(&world, &job), JobOutcome::NodeLost { node, .. } if node == "n2"));
}

/// An agent that was killed before it started a rank, and comes back when the lease is somebody else's.
fn a_node_that_comes_back_is_told_to_forget(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world.agent("n1").frozen = true;
    let job = world.submit("train", requeue(1, 1)).expect("queued").id;
    world.settle();
    let first = world.ranks(&job)[0].node.clone();
    assert_eq!(first, world.node("n1").id);
    let before = world.agent("n1").stored;
    assert_eq!(
        world
            .agent("n1")
            .desired
            .as_ref()
            .map(|desired| desired.ranks.len()),
        Some(1),
        "stored, not started"
    );
    world.lose("n1");
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    assert!(
        world.node("n1").desired_generation > before,
        "so that the agent takes the new list for a new one"
    );
    let agent = world.agent("n1");
    agent.connected = true;
    agent.frozen = false;
    world.settle();
    assert_eq!(world.agent("n1").started.len(), 0);
    assert_eq!(
        world
            .agent("n1")
            .desired
            .as_ref()
            .map(|desired| desired.ranks.len()),
        Some(0)
    );
}

fn a_cancel_beats_a_requeue(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", requeue(2, 5));
    world.agent("n2").frozen = true;
    world.agent("n1").fence();
    world.settle();
    assert_eq!(world.job(&job).state.word(), "stopping");
    world.cancel_job(&job).expect("it has not ended");
    world.agent("n2").frozen = false;
    world.agent("n2").act();
    world.settle();
    assert_eq!(
        outcome(&world, &job),
        JobOutcome::Cancelled { by: "ada".into() }
    );
}

fn a_failed_rank_beside_a_lost_node_is_the_nodes_fault(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let job = world.running("train", requeue(2, 1));
    // n2's network is cut; its peer fails because of that, long before the server knows.
    world.agent("n2").connected = false;
    world.agent("n2").fence();
    world.exit(&job, 0, 1, &["connection reset"]);
    world.settle();
    assert_eq!(
        world.job(&job).state.word(),
        "stopping",
        "until n2 is known to run nothing"
    );
    world.wait(11);
    world.settle();
    let after = world.job(&job);
    assert_eq!((after.state.word(), after.requeues), ("running", 1));
}

fn another_node_cannot_speak_for_a_rank(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", job_spec(1));
    let rank = world.ranks(&job)[0].clone();
    let other = if rank.node == world.node("n1").id {
        "n2"
    } else {
        "n1"
    };
    let lie = RankState::Ended {
        end: RankEnd::Exited { code: 0 },
        last_lines: Vec::new(),
    };
    world
        .agent(other)
        .ranks
        .insert((rank.attempt, rank.rank), lie);
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
}
