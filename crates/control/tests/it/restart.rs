//! The server is killed and started again, in the middle of everything.

use supernode_control::scale_up::Selection;
use supernode_types::job::JobSpec;
use supernode_types::operation::OperationState;
use supernode_types::super_node::DrainMode;

use crate::world::{Engine, World, job_spec, on_every_engine};

on_every_engine!(
    a_restart_after_every_step_changes_nothing,
    every_node_gets_a_full_grace_after_a_restart,
    a_node_that_never_comes_back_is_lost_after_a_restart,
    an_acknowledged_job_survives_everything,
);

/// The whole story: once without a restart and once with one after every single step. The outcome is the same.
fn a_restart_after_every_step_changes_nothing(engine: Engine) {
    let quiet = story(engine, false);
    let shaken = story(engine, true);
    assert_eq!(quiet, shaken);
}

/// What it comes to: members, spares, job outcomes with attempts, operation states, how often each event was told.
type Outcome = (
    Vec<String>,
    Vec<String>,
    Vec<(String, u32)>,
    Vec<String>,
    Vec<(String, usize)>,
);

fn story(engine: Engine, shaken: bool) -> Outcome {
    let mut world = World::with_spares(engine, 5);
    let calm = |world: &mut World| {
        for _ in 0..6 {
            world.round();
            if shaken {
                world.restart();
            }
        }
        world.settle();
    };
    let mut operations = vec![
        world
            .create("train", Selection::Count(2))
            .expect("accepted")
            .id,
    ];
    calm(&mut world);
    operations.push(
        world
            .scale_up("train", Selection::Count(2))
            .expect("accepted")
            .id,
    );
    calm(&mut world);
    let spec = JobSpec {
        requeue_limit: 3,
        ..job_spec(3)
    };
    let long = world.submit("train", spec).expect("queued").id;
    calm(&mut world);
    let busy = world.ranks(&long)[0].node.to_string();
    let evict = DrainMode::Evict { grace_seconds: 1 };
    let drain = world.scale_down("train", Selection::Named(vec![busy]), evict);
    operations.push(drain.expect("accepted").id);
    calm(&mut world);
    let second = world.submit("train", job_spec(2)).expect("queued").id;
    calm(&mut world);
    world.finish(&long);
    calm(&mut world);
    world.exit(&second, 1, 7, &["no"]);
    calm(&mut world);
    operations.push(
        world
            .scale_down("train", Selection::Count(1), DrainMode::Refuse)
            .expect("idle")
            .id,
    );
    calm(&mut world);
    let spare = world.spares().remove(0);
    operations.push(world.remove(&spare).expect("a spare").id);
    calm(&mut world);
    let jobs = [&long, &second].map(|job| world.job(job));
    let mut told: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for event in world.events() {
        *told.entry(event.kind).or_default() += 1;
    }
    (
        world.members("train"),
        world.spares(),
        jobs.into_iter()
            .map(|job| (job.state.word().to_owned(), job.attempts))
            .collect(),
        operations
            .iter()
            .map(|operation| world.operation(operation).state.word().to_owned())
            .collect(),
        told.into_iter().collect(),
    )
}

fn every_node_gets_a_full_grace_after_a_restart(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running("train", job_spec(1));
    world.agent("n1").connected = false;
    world.wait(9);
    world.pass();
    world.restart();
    world.pass();
    world.wait(9);
    world.pass();
    assert_eq!(
        world.node("n1").condition.word(),
        "ready",
        "18 s of silence, but 9 of this server"
    );
    world.agent("n1").connected = true;
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    assert_eq!(world.agent("n1").started.len(), 1);
}

fn a_node_that_never_comes_back_is_lost_after_a_restart(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running(
        "train",
        JobSpec {
            requeue_limit: 1,
            ..job_spec(1)
        },
    );
    let node = world.ranks(&job)[0].node.clone();
    let agent = world
        .agents
        .values_mut()
        .find(|agent| agent.id == node)
        .expect("it is there");
    agent.connected = false;
    agent.fence();
    world.restart();
    world.wait(11);
    world.settle();
    let after = world.job(&job);
    assert_eq!((after.state.word(), after.requeues), ("running", 1));
    assert_eq!(world.leased(), 1, "no lease leaks");
}

fn an_acknowledged_job_survives_everything(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.submit("train", job_spec(2)).expect("acknowledged").id;
    world.restart();
    let drain = world.cordon("n2", "fan").expect("acknowledged").policy;
    world.restart();
    assert_eq!(world.node("n2").policy, drain);
    assert_eq!(world.job(&job).state.word(), "queued");
    world
        .change("node_uncordon", |tx, intent| {
            supernode_control::node::uncordon(tx, intent, "n2").map(drop)
        })
        .expect("acknowledged");
    world.restart();
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    let down = world
        .scale_down("train", Selection::Count(1), DrainMode::Wait)
        .expect("acknowledged")
        .id;
    world.restart();
    world.finish(&job);
    world.settle();
    assert_eq!(world.operation(&down).state, OperationState::Succeeded);
    assert_eq!(
        world
            .agents
            .values()
            .map(|agent| agent.started.len())
            .sum::<usize>(),
        2,
        "each rank once"
    );
}
