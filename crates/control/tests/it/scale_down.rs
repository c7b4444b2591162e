//! Removing nodes: refused, waiting, evicting, cancelled, and at the same moment as a job.

use supernode_control::Refusal;
use supernode_control::scale_down;
use supernode_control::scale_up::Selection;
use supernode_types::agent::RankWish;
use supernode_types::job::JobSpec;
use supernode_types::operation::OperationState;
use supernode_types::super_node::DrainMode;

use crate::world::{DEADLINE, Engine, World, job_spec, on_every_engine, request};

on_every_engine!(
    an_idle_node_leaves_and_is_cleaned,
    a_busy_node_is_refused_with_its_jobs,
    a_count_takes_idle_nodes_first,
    waiting_ends_when_the_job_does,
    waiting_ends_at_the_deadline_and_puts_the_node_back,
    evicting_stops_and_queues_the_job_again,
    the_last_node_stays,
    a_cancelled_drain_returns_to_the_cordon_it_found,
    a_job_and_a_drain_at_the_same_moment_never_both_win,
    a_lost_node_leaves_at_once,
    a_draining_node_is_not_drained_twice,
    the_plan_names_the_jobs,
);

fn named(names: &[&str]) -> Selection {
    Selection::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn an_idle_node_leaves_and_is_cleaned(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let operation = world
        .scale_down("train", named(&["n2"]), DrainMode::Refuse)
        .expect("idle");
    assert_eq!(
        world.node("n2").policy.word(),
        "draining",
        "out of scheduling at once"
    );
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(world.members("train"), ["n1", "n3"]);
    assert_eq!(world.spares(), ["n2"]);
    assert_eq!(world.node("n2").policy.word(), "in_service");
    assert!(world.agent("n2").environment.is_none());
    let members = world
        .agent("n1")
        .environment
        .as_ref()
        .map(|found| found.members.len());
    assert_eq!(members, Some(2));
}

fn a_busy_node_is_refused_with_its_jobs(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", job_spec(2));
    for selection in [named(&["n2"]), Selection::Count(1)] {
        let Err(Refusal::JobsRunning { message, jobs }) =
            world.scale_down("train", selection, DrainMode::Refuse)
        else {
            panic!("a job runs");
        };
        assert_eq!(jobs, std::slice::from_ref(&job));
        assert!(message.contains("--mode wait"), "{message}");
    }
    assert_eq!(
        world.node("n2").policy.word(),
        "in_service",
        "nothing of it was done"
    );
}

fn a_count_takes_idle_nodes_first(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let job = world.running("train", job_spec(1));
    let busy = world.ranks(&job)[0].node.clone();
    let operation = world
        .scale_down("train", Selection::Count(2), DrainMode::Refuse)
        .expect("two are idle");
    assert!(
        operation
            .targets
            .iter()
            .all(|target| target.node.as_ref() != Some(&busy))
    );
    assert!(operation.targets[0].chosen_because.starts_with("idle"));
    world.settle();
    assert_eq!(world.members("train").len(), 1);
    assert_eq!(world.job(&job).state.word(), "running");
}

fn waiting_ends_when_the_job_does(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", job_spec(2));
    let operation = world
        .scale_down("train", named(&["n2"]), DrainMode::Wait)
        .expect("accepted");
    let next = world.submit("train", job_spec(1)).expect("queued");
    world.settle();
    let OperationState::Running { waits_for } = world.operation(&operation.id).state else {
        panic!("the job runs");
    };
    assert!(waits_for.contains(job.as_str()), "{waits_for}");
    world.finish(&job);
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(world.members("train"), ["n1"]);
    let rank = &world.ranks(&next.id)[0];
    assert_eq!(
        rank.node,
        world.node("n1").id,
        "nothing new was placed on the draining node"
    );
}

fn waiting_ends_at_the_deadline_and_puts_the_node_back(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", job_spec(2));
    let operation = world
        .scale_down("train", named(&["n2"]), DrainMode::Wait)
        .expect("accepted");
    world.settle();
    world.wait(DEADLINE.as_secs());
    world.settle();
    let OperationState::Failed { reason } = world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(
        reason.contains("deadline") && reason.contains(job.as_str()),
        "{reason}"
    );
    assert_eq!(world.node("n2").policy.word(), "in_service");
    assert_eq!(world.members("train"), ["n1", "n2"]);
    assert_eq!(world.job(&job).state.word(), "running");
}

fn evicting_stops_and_queues_the_job_again(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let job = world.running("train", job_spec(2));
    let node = world.ranks(&job)[1].node.clone();
    let id = node.to_string();
    for agent in world.agents.values_mut() {
        agent.frozen = true;
    }
    let operation = world
        .scale_down(
            "train",
            Selection::Named(vec![id]),
            DrainMode::Evict { grace_seconds: 3 },
        )
        .expect("accepted");
    world.settle();
    assert_eq!(world.job(&job).state.word(), "stopping");
    assert_eq!(world.leased(), 2, "until every rank is gone");
    let agent = world
        .agents
        .values()
        .find(|agent| agent.id == node)
        .expect("it is there");
    let wish = &agent.desired.as_ref().expect("it was told").ranks[0].wish;
    assert!(
        matches!(
            wish,
            RankWish::Stop {
                grace_milliseconds: 3000,
                ..
            }
        ),
        "the drain's grace, not the job's: {wish:?}"
    );
    for agent in world.agents.values_mut() {
        agent.frozen = false;
        agent.act();
    }
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    let after = world.job(&job);
    assert_eq!(
        (after.state.word(), after.attempts, after.requeues),
        ("running", 2, 0)
    );
    assert!(world.ranks(&job).iter().all(|rank| rank.node != node));
    assert_eq!(world.event_count("job.requeued"), 1);
}

fn the_last_node_stays(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    for selection in [
        named(&["n1", "n2"]),
        Selection::Count(2),
        Selection::Count(9),
    ] {
        let refused = world.scale_down("train", selection, DrainMode::Refuse);
        assert!(matches!(refused, Err(Refusal::LastNode(_))), "{refused:?}");
    }
    world
        .scale_down("train", named(&["n1"]), DrainMode::Refuse)
        .expect("one stays");
    let refused = world.scale_down("train", named(&["n2"]), DrainMode::Refuse);
    assert!(
        matches!(refused, Err(Refusal::LastNode(_))),
        "the other is on its way out: {refused:?}"
    );
    for bad in [
        Selection::To(1),
        Selection::Count(0),
        named(&[]),
        named(&["n2", "n2"]),
    ] {
        let refused = world.scale_down("train", bad, DrainMode::Refuse);
        assert!(
            matches!(refused, Err(Refusal::Invalid(_) | Refusal::LastNode(_))),
            "{refused:?}"
        );
    }
    world.settle();
    assert_eq!(world.members("train"), ["n2"]);
    let other = world.scale_down("train", named(&["n1"]), DrainMode::Refuse);
    assert!(
        matches!(other, Err(Refusal::Conflict(_))),
        "not a member any more: {other:?}"
    );
}

fn a_cancelled_drain_returns_to_the_cordon_it_found(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", job_spec(2));
    world.cordon("n2", "fan").expect("a member");
    let operation = world
        .scale_down("train", named(&["n2"]), DrainMode::Wait)
        .expect("accepted");
    world.settle();
    world.cancel(&operation.id).expect("it runs");
    world.settle();
    assert_eq!(world.operation(&operation.id).state.word(), "cancelled");
    assert_eq!(world.node("n2").policy.word(), "cordoned");
    assert_eq!(world.members("train"), ["n1", "n2"]);
    assert_eq!(world.job(&job).state.word(), "running");
}

/// Both orders: the drain is decided on what the same transaction sees.
fn a_job_and_a_drain_at_the_same_moment_never_both_win(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    // The drain first, the loop after: the job does not fit.
    let job = world.submit("train", job_spec(2)).expect("queued").id;
    let drain = world
        .scale_down("train", named(&["n2"]), DrainMode::Refuse)
        .expect("nothing is placed yet");
    world.settle();
    assert_eq!(world.operation(&drain.id).state, OperationState::Succeeded);
    assert!(
        world.queue_reason(&job).contains("cannot run"),
        "it asks for more nodes than there are"
    );
    world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    world.settle();
    // The loop first: the drain is refused and lists the job.
    assert_eq!(world.job(&job).state.word(), "running");
    let refused = world.scale_down("train", named(&["n2"]), DrainMode::Refuse);
    assert!(
        matches!(refused, Err(Refusal::JobsRunning { .. })),
        "{refused:?}"
    );
    // Really at once: many submits and drains from several threads, and the loop beside them.
    world.finish(&job);
    world.settle();
    let outcome = std::thread::scope(|scope| {
        let submits = scope.spawn(|| {
            let jobs = (0..8).map(|_| world.submit("train", job_spec(1)).expect("queued").id);
            jobs.collect::<Vec<_>>()
        });
        let drain = world.scale_down("train", named(&["n2"]), DrainMode::Refuse);
        (submits.join().expect("no panic"), drain)
    });
    let (jobs, drain) = outcome;
    for _ in 0..10 {
        world.settle();
        for job in &jobs {
            if world.job(job).state.word() == "running" {
                world.finish(job);
            }
        }
    }
    world.settle();
    assert!(
        jobs.iter()
            .all(|job| world.job(job).state.word() == "succeeded")
    );
    match drain {
        Ok(operation) => assert_eq!(
            world.operation(&operation.id).state,
            OperationState::Succeeded
        ),
        Err(refusal) => assert!(
            matches!(refusal, Refusal::JobsRunning { .. }),
            "{refusal:?}"
        ),
    }
}

fn a_lost_node_leaves_at_once(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world.lose("n2");
    let operation = world
        .scale_down("train", Selection::Count(1), DrainMode::Refuse)
        .expect("accepted");
    assert_eq!(
        operation.targets[0].node.as_ref(),
        Some(&world.node("n2").id),
        "broken nodes leave first"
    );
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(world.node("n2").condition.word(), "lost");
    world.agent("n2").connected = true;
    world.settle();
    assert!(
        world.agent("n2").environment.is_none(),
        "cleaned when it came back"
    );
    assert_eq!(world.node("n2").condition.word(), "ready");
}

fn a_draining_node_is_not_drained_twice(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let job = world.running("train", job_spec(3));
    let first = world
        .scale_down("train", named(&["n2"]), DrainMode::Wait)
        .expect("accepted");
    let second = world.scale_down("train", named(&["n2"]), DrainMode::Wait);
    assert!(
        matches!(&second, Err(Refusal::Conflict(message)) if message.contains(first.id.as_str())),
        "{second:?}"
    );
    let partly = world.scale_down("train", named(&["n3", "n2"]), DrainMode::Wait);
    assert!(partly.is_err());
    assert_eq!(
        world.node("n3").policy.word(),
        "in_service",
        "all or nothing"
    );
    let cordon = world.cordon("n2", "fan");
    assert!(
        matches!(&cordon, Err(Refusal::Conflict(message)) if message.contains(first.id.as_str())),
        "{cordon:?}"
    );
    world.finish(&job);
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n3"]);
}

fn the_plan_names_the_jobs(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let long = JobSpec {
        time_limit_seconds: Some(3600),
        ..job_spec(2)
    };
    let job = world.running("train", long);
    let planned = world.control.change_inline(request("plan"), |tx, intent| {
        let plan = scale_down::plan(tx, intent, "train", &Selection::Count(1), DrainMode::Wait)?;
        Ok::<_, Refusal>((plan.members_before, plan.nodes.len(), plan.affected_jobs))
    });
    assert_eq!(planned, Ok((2, 1, vec![job])));
    assert!(world.nodes().iter().all(|node| node.policy.schedulable()));
}
