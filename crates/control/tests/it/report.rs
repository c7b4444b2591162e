//! Reports of agents that are odd: ahead of the server, enormous, false.

use supernode_control::SyncOutcome;
use supernode_types::environment::{ItemCondition, ItemState};
use supernode_types::job::{RankEnd, RankState};

use crate::world::{Engine, World, job_spec, on_every_engine};

on_every_engine!(
    an_unchanged_report_writes_nothing,
    an_agent_ahead_of_a_restored_server_is_told_anew,
    absurd_generations_are_not_believed,
    long_reports_are_cut,
    a_bad_address_is_not_passed_on,
    a_new_address_reaches_the_other_members,
    a_late_report_does_not_bring_a_rank_back,
    a_report_of_nothing_known_changes_nothing,
);

fn an_unchanged_report_writes_nothing(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let before = world.node("n1");
    let observed = world.agent("n1").observed();
    let outcome = world.report(&before.id, before.desired_generation, Some(observed));
    assert_eq!(
        outcome,
        SyncOutcome::Stored {
            desired_generation: before.desired_generation,
            changed: false
        }
    );
    assert_eq!(
        world.report(&before.id, before.desired_generation, None),
        outcome
    );
    assert_eq!(world.node("n1"), before);
}

/// The database is as it was some time ago; the agents remember what they were told since.
fn an_agent_ahead_of_a_restored_server_is_told_anew(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    for node in ["n1", "n2"] {
        let agent = world.agent(node);
        agent.stored += 40;
        agent.applied += 30;
        // What it has is of a revision that the server has forgotten.
        let environment = agent.environment.as_mut().expect("it has one");
        environment.generation += 30;
        environment.variables.insert("FORGOTTEN".into(), "1".into());
    }
    let before = world.agent("n1").stored;
    world.settle();
    assert!(
        world.node("n1").desired_generation > before,
        "larger stays newer"
    );
    for node in ["n1", "n2"] {
        let environment = world.agent(node).environment.clone().expect("it has one");
        assert!(
            environment.variables.is_empty(),
            "{node} has what is in force now"
        );
        assert_eq!(world.node(node).condition.word(), "ready");
    }
    let generation = world.super_node("train").environment_generation;
    assert_eq!(world.node("n1").environment_applied, generation);
    let job = world.running("train", job_spec(2));
    world.finish(&job);
    world.settle();
}

fn absurd_generations_are_not_believed(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let node = world.node("n1");
    let generation = world.super_node("train").environment_generation;
    for absurd in [i64::MAX, i64::MAX - 1, 1 << 60, i64::MIN] {
        let mut observed = world.agent("n1").observed();
        observed.environment_applied = absurd;
        world.report(&node.id, absurd, Some(observed));
    }
    assert_eq!(world.node("n1").desired_generation, node.desired_generation);
    assert_eq!(
        world.node("n1").environment_applied,
        node.environment_applied
    );
    assert_eq!(world.super_node("train").environment_generation, generation);
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n2"]);
}

fn long_reports_are_cut(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running("train", job_spec(1));
    let state = ItemCondition::Failed {
        why: "x".repeat(10_000),
    };
    world.agent("n1").items = vec![
        ItemState {
            item: "file /a".into(),
            state
        };
        1000
    ];
    let rank = world.ranks(&job)[0].clone();
    let lines = (0..1000)
        .map(|line| format!("{line} {}", "y".repeat(10_000)))
        .collect();
    let ended = RankState::Ended {
        end: RankEnd::Exited { code: 1 },
        last_lines: lines,
    };
    world
        .agent("n1")
        .ranks
        .insert((rank.attempt, rank.rank), ended);
    world.settle();
    assert!(
        serde_json::to_string(&world.node("n1"))
            .expect("plain data")
            .len()
            < 40_000
    );
    let job = world.job(&job);
    assert!(serde_json::to_string(&job).expect("plain data").len() < 40_000);
    let RankState::Ended { last_lines, .. } = &world.ranks(&job.id)[0].state else {
        panic!("it ended");
    };
    assert!(
        last_lines
            .last()
            .is_some_and(|line| line.starts_with("999 ")),
        "the last ones are kept"
    );
}

fn a_bad_address_is_not_passed_on(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    for bad in [
        "",
        "evil.test\n127.0.0.1 bank.test",
        "a b",
        &"x".repeat(300),
    ] {
        world.agent("n2").address = bad.into();
        world.settle();
        assert_eq!(world.node("n2").address, "n2.test");
    }
}

fn a_new_address_reaches_the_other_members(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world.agent("n2").address = "10.0.0.7".into();
    world.settle();
    for node in ["n1", "n2"] {
        let members = world
            .agent(node)
            .environment
            .clone()
            .expect("it has one")
            .members;
        assert_eq!(members[1].address, "10.0.0.7", "{node} knows");
    }
    assert_eq!(
        world.node("n1").condition.word(),
        "ready",
        "it took jobs all the time"
    );
}

fn a_late_report_does_not_bring_a_rank_back(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running("train", job_spec(1));
    let late = world.agent("n1").observed();
    world.exit(&job, 0, 0, &[]);
    world.settle();
    assert_eq!(world.job(&job).state.word(), "succeeded");
    let node = world.node("n1");
    world.report(&node.id, node.desired_generation, Some(late));
    world.settle();
    assert_eq!(world.job(&job).state.word(), "succeeded");
    assert!(world.ranks(&job)[0].state.ended());
}

fn a_report_of_nothing_known_changes_nothing(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let unknown = supernode_types::NodeId::new(
        world.now(),
        &supernode_types::entropy::SeededEntropy::new(5),
    );
    let observed = world.agent("n1").observed();
    assert_eq!(
        world.report(&unknown, 1, Some(observed)),
        SyncOutcome::Removed
    );
    let attempt = supernode_types::AttemptId::new(
        world.now(),
        &supernode_types::entropy::SeededEntropy::new(5),
    );
    let mut observed = world.agent("n1").observed();
    observed.ranks.push(supernode_types::agent::ObservedRank {
        attempt,
        rank: 0,
        state: RankState::Running,
    });
    let node = world.node("n1");
    let outcome = world.report(&node.id, node.desired_generation, Some(observed));
    assert!(matches!(
        outcome,
        SyncOutcome::Stored { changed: false, .. }
    ));
}
