//! Jobs: submitted, queued, gangs, cancelled, ended.

use std::collections::BTreeMap;

use supernode_control::{ChangeRequest, Refusal, job};
use supernode_types::agent::RankWish;
use supernode_types::inventory::{Accelerator, AcceleratorVendor};
use supernode_types::job::{JobOutcome, JobSpec, JobState};

use crate::world::{Engine, World, job_spec, on_every_engine, request};

on_every_engine!(
    all_ranks_or_none,
    priority_then_age,
    a_small_job_passes_without_delaying_the_first_in_line,
    a_job_runs_to_its_end,
    a_failed_rank_ends_the_job_and_is_named,
    a_job_is_cancelled_in_every_state,
    only_the_owner_or_an_operator_cancels,
    a_time_limit_stops_a_job,
    a_job_that_ends_by_itself_while_it_is_stopped_keeps_its_success,
    nonsense_is_refused,
    devices_are_shared_between_jobs,
    every_rank_knows_its_place,
    ascend_ranks_get_a_rank_table,
    a_long_queue_hides_nobody_elses_jobs,
);

fn outcome(world: &World, job: &supernode_types::JobId) -> JobOutcome {
    match world.job(job).state {
        JobState::Ended { outcome, .. } => outcome,
        other => panic!("{job} is {}", other.word()),
    }
}

fn all_ranks_or_none(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let first = world.running("train", job_spec(2));
    let second = world.submit("train", job_spec(2)).expect("queued").id;
    world.settle();
    assert_eq!(
        world.leased(),
        2,
        "not one lease for a gang that does not fit"
    );
    assert_eq!(world.ranks(&second), []);
    let reason = world.queue_reason(&second);
    assert!(
        reason.contains("waits for 1 of 2 nodes") && reason.contains(first.as_str()),
        "{reason}"
    );
    world.finish(&first);
    world.settle();
    assert_eq!(world.job(&second).state.word(), "running");
    assert_eq!(world.leased(), 2);
}

fn priority_then_age(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let running = world.running("train", job_spec(1));
    let submit = |world: &mut World, priority: i32| {
        world.wait(1);
        world
            .submit(
                "train",
                JobSpec {
                    priority,
                    ..job_spec(1)
                },
            )
            .expect("queued")
            .id
    };
    let old = submit(&mut world, 0);
    let young = submit(&mut world, 0);
    let urgent = submit(&mut world, 5);
    let mut order = Vec::new();
    let mut present = running;
    for _ in 0..3 {
        world.finish(&present);
        world.settle();
        let jobs = [&old, &young, &urgent];
        present = (*jobs
            .iter()
            .find(|job| world.job(job).state.word() == "running")
            .expect("one runs"))
        .clone();
        order.push(present.clone());
    }
    assert_eq!(order, [urgent, old, young]);
}

fn a_small_job_passes_without_delaying_the_first_in_line(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    let limited = |nodes, seconds| JobSpec {
        time_limit_seconds: Some(seconds),
        grace_seconds: 0,
        ..job_spec(nodes)
    };
    let running = world.running("train", limited(2, 3600));
    let first = world.submit("train", limited(3, 60)).expect("queued").id;
    let long = world
        .submit("train", limited(1, 36_000))
        .expect("queued")
        .id;
    let short = world.submit("train", limited(1, 600)).expect("queued").id;
    world.settle();
    assert_eq!(
        world.job(&short).state.word(),
        "running",
        "it is over before the first in line can begin"
    );
    assert_eq!(world.queue_reason(&long), format!("in line behind {first}"));
    world.finish(&running);
    world.finish(&short);
    world.settle();
    assert_eq!(world.job(&first).state.word(), "running");
}

fn a_job_runs_to_its_end(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.submit("train", job_spec(2)).expect("queued").id;
    world.pass();
    assert_eq!(world.job(&job).state.word(), "starting");
    assert_eq!(world.leased(), 2, "leases before ranks");
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    world.exit(&job, 0, 0, &[]);
    world.settle();
    assert_eq!(
        world.job(&job).state.word(),
        "running",
        "the other still runs"
    );
    world.exit(&job, 1, 0, &[]);
    world.settle();
    assert_eq!(outcome(&world, &job), JobOutcome::Succeeded);
    assert_eq!(world.leased(), 0);
    assert!(
        world.ranks(&job).iter().all(|rank| rank.state.ended()),
        "kept for the record"
    );
    assert_eq!(
        (
            world.event_count("job.started"),
            world.event_count("job.succeeded")
        ),
        (1, 1)
    );
}

fn a_failed_rank_ends_the_job_and_is_named(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running(
        "train",
        JobSpec {
            requeue_limit: 5,
            ..job_spec(2)
        },
    );
    world.exit(&job, 1, 3, &["Traceback", "ValueError: no"]);
    world.settle();
    let JobOutcome::Failed(failure) = outcome(&world, &job) else {
        panic!("it failed");
    };
    assert_eq!(
        (failure.rank, failure.node.as_str(), failure.end.exit_code()),
        (1, "n2", 3)
    );
    assert_eq!(failure.last_lines, ["Traceback", "ValueError: no"]);
    assert_eq!(
        world.job(&job).attempts,
        1,
        "its own fault is no reason for another try"
    );
    assert!(
        world
            .agents
            .values()
            .all(|agent| agent.running().is_empty()),
        "the gang ends"
    );
    assert_eq!(world.leased(), 0);
}

fn a_job_is_cancelled_in_every_state(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    // Starting: the agent has not begun.
    world.agent("n1").frozen = true;
    let starting = world.submit("train", job_spec(1)).expect("queued").id;
    let queued = world.submit("train", job_spec(1)).expect("queued").id;
    world.settle();
    assert_eq!(world.job(&starting).state.word(), "starting");
    let ended = world.cancel_job(&queued).expect("queued");
    assert_eq!(ended.state.word(), "cancelled", "at once");
    world.cancel_job(&starting).expect("starting");
    world.settle();
    assert_eq!(world.job(&starting).state.word(), "stopping");
    world.cancel_job(&starting).expect("again");
    world.agent("n1").frozen = false;
    world.agent("n1").act();
    world.settle();
    assert_eq!(
        outcome(&world, &starting),
        JobOutcome::Cancelled { by: "ada".into() }
    );
    assert_eq!(world.agent("n1").started.len(), 0, "it never began");
    // Running.
    let running = world.running("train", job_spec(1));
    world.cancel_job(&running).expect("running");
    world.settle();
    assert_eq!(
        outcome(&world, &running),
        JobOutcome::Cancelled { by: "ada".into() }
    );
    // Ended.
    assert!(matches!(
        world.cancel_job(&running),
        Err(Refusal::Conflict(_))
    ));
    assert_eq!(world.leased(), 0);
}

fn only_the_owner_or_an_operator_cancels(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let user = |actor: &str| ChangeRequest {
        actor: actor.into(),
        operator: false,
        admin: false,
        ..request("job")
    };
    let job = world
        .submit_as(user("bob"), "train", job_spec(1))
        .expect("queued")
        .id;
    assert_eq!(world.job(&job).owner, "bob");
    let cancel = |actor: &str| {
        let id = job.to_string();
        world.change_as(user(actor), move |tx, intent| {
            job::cancel(tx, intent, &id).map(drop)
        })
    };
    assert!(matches!(cancel("eve"), Err(Refusal::Forbidden(_))));
    cancel("bob").expect("his own");
    let root = JobSpec {
        run_as_root: true,
        ..job_spec(1)
    };
    assert!(matches!(
        world.submit_as(user("bob"), "train", root.clone()),
        Err(Refusal::Forbidden(_))
    ));
    world.submit("train", root).expect("an admin may");
}

fn a_time_limit_stops_a_job(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running(
        "train",
        JobSpec {
            time_limit_seconds: Some(60),
            ..job_spec(1)
        },
    );
    world.wait(59);
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    world.agent("n1").frozen = true;
    world.wait(1);
    world.settle();
    assert_eq!(world.job(&job).state.word(), "stopping");
    let desired = world.agent("n1").desired.clone().expect("it was told");
    assert!(
        matches!(&desired.ranks[0].wish, RankWish::Stop { grace_milliseconds: 10_000, why } if why.contains("time limit"))
    );
    world.agent("n1").frozen = false;
    world.agent("n1").act();
    world.settle();
    assert_eq!(outcome(&world, &job), JobOutcome::TimedOut);
}

fn a_job_that_ends_by_itself_while_it_is_stopped_keeps_its_success(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let job = world.running(
        "train",
        JobSpec {
            time_limit_seconds: Some(60),
            ..job_spec(1)
        },
    );
    world.agent("n1").frozen = true;
    world.wait(60);
    world.settle();
    world.finish(&job);
    world.settle();
    assert_eq!(outcome(&world, &job), JobOutcome::Succeeded);
}

fn nonsense_is_refused(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let invalid = |spec: JobSpec| {
        let outcome = world.submit("train", spec.clone());
        assert!(
            matches!(outcome, Err(Refusal::Invalid(_))),
            "{spec:?}: {outcome:?}"
        );
    };
    invalid(job_spec(0));
    invalid(JobSpec {
        devices: Some(0),
        ..job_spec(1)
    });
    invalid(JobSpec {
        arguments: Vec::new(),
        ..job_spec(1)
    });
    invalid(JobSpec {
        arguments: vec![String::new()],
        ..job_spec(1)
    });
    invalid(JobSpec {
        arguments: vec!["a\0b".into()],
        ..job_spec(1)
    });
    invalid(JobSpec {
        arguments: vec!["x".repeat(200_000)],
        ..job_spec(1)
    });
    invalid(JobSpec {
        workdir: Some("relative".into()),
        ..job_spec(1)
    });
    invalid(JobSpec {
        time_limit_seconds: Some(0),
        ..job_spec(1)
    });
    invalid(JobSpec {
        time_limit_seconds: Some(u64::MAX),
        ..job_spec(1)
    });
    invalid(JobSpec {
        grace_seconds: u32::MAX,
        ..job_spec(1)
    });
    invalid(JobSpec {
        requeue_limit: u32::MAX,
        ..job_spec(1)
    });
    invalid(JobSpec {
        priority: i32::MIN,
        ..job_spec(1)
    });
    for (key, value) in [("1A", "x"), ("A=B", "x"), ("RANK", "7"), ("A", "x\0")] {
        let environment: BTreeMap<_, _> = [(key.to_owned(), value.to_owned())].into();
        invalid(JobSpec {
            environment,
            ..job_spec(1)
        });
    }
    assert!(matches!(
        world.submit("train", job_spec(49)),
        Err(Refusal::OverMaximum(_))
    ));
    assert!(matches!(
        world.submit("nothing", job_spec(1)),
        Err(Refusal::NotFound { .. })
    ));
    let waits = world
        .submit("train", job_spec(2))
        .expect("more nodes may come")
        .id;
    world.settle();
    assert!(
        world.queue_reason(&waits).contains("scale train up"),
        "{}",
        world.queue_reason(&waits)
    );
}

/// A super node of nodes with several devices.
fn with_devices(engine: Engine, nodes: usize, devices: u32) -> World {
    let mut world = World::empty(engine, crate::world::settings());
    for number in 1..=nodes {
        let node = format!("n{number}");
        world.enrol(&node);
        let accelerator = |index| Accelerator::new(index, AcceleratorVendor::Ascend);
        world.agent(&node).inventory.accelerators = (0..devices).map(accelerator).collect();
    }
    world.settle();
    world.declare("npu", "n1");
    world.settle();
    world.created("train", u32::try_from(nodes).expect("few"));
    world
}

fn devices_are_shared_between_jobs(engine: Engine) {
    let mut world = with_devices(engine, 1, 4);
    let half = world.running(
        "train",
        JobSpec {
            devices: Some(2),
            ..job_spec(1)
        },
    );
    let other = world.running(
        "train",
        JobSpec {
            devices: Some(2),
            ..job_spec(1)
        },
    );
    let third = world
        .submit(
            "train",
            JobSpec {
                devices: Some(1),
                ..job_spec(1)
            },
        )
        .expect("queued")
        .id;
    world.settle();
    assert!(world.queue_reason(&third).contains("busy"));
    let devices = |job| {
        world
            .ranks(job)
            .iter()
            .map(|rank| rank.device)
            .collect::<Vec<_>>()
    };
    assert_eq!((devices(&half), devices(&other)), (vec![0, 1], vec![2, 3]));
    let over = world.submit(
        "train",
        JobSpec {
            devices: Some(5),
            ..job_spec(1)
        },
    );
    assert!(matches!(over, Err(Refusal::Invalid(_))), "{over:?}");
}

fn every_rank_knows_its_place(engine: Engine) {
    let mut world = with_devices(engine, 2, 2);
    let job = world.running("train", job_spec(2));
    let ranks = world.ranks(&job);
    let places: Vec<_> = ranks
        .iter()
        .map(|rank| (rank.rank, rank.node_rank, rank.local_rank, rank.device))
        .collect();
    assert_eq!(
        places,
        [(0, 0, 0, 0), (1, 0, 1, 1), (2, 1, 0, 0), (3, 1, 1, 1)]
    );
    // One rank of a node ends; what the other is told of the node's devices stays.
    world.exit(&job, 2, 0, &[]);
    world.settle();
    let id = world.node("n2").id;
    let desired = world.read(move |tx| Ok(supernode_control::desired(tx, [id.clone()])?));
    let desired = desired.values().next().expect("it is in service");
    assert_eq!(desired.ranks.len(), 1);
    let RankWish::Run(launch) = &desired.ranks[0].wish else {
        panic!("it runs");
    };
    assert_eq!(launch.place.devices, [0, 1]);
    assert_eq!(
        (
            launch.place.local_rank,
            launch.place.local_world_size,
            launch.place.node_rank
        ),
        (1, 2, 1)
    );
    assert_eq!(
        (
            launch.place.world_size,
            launch.place.nodes,
            launch.place.restart_count
        ),
        (4, 2, 0)
    );
    assert!((20_000..30_000).contains(&launch.place.master_port));
}

fn ascend_ranks_get_a_rank_table(engine: Engine) {
    let mut world = with_devices(engine, 2, 2);
    for (number, node) in ["n1", "n2"].into_iter().enumerate() {
        for accelerator in &mut world.agent(node).inventory.accelerators {
            let host = u8::try_from(10 * number).expect("small")
                + u8::try_from(accelerator.index).expect("small");
            accelerator.device_ip = Some(std::net::IpAddr::from([192, 168, 1, host]));
        }
    }
    world.settle();
    let job = world.running("train", job_spec(2));
    let desired = world.agent("n2").desired.clone().expect("it was told");
    let RankWish::Run(launch) = &desired.ranks[0].wish else {
        panic!("it runs");
    };
    let table = launch
        .rank_table
        .as_ref()
        .expect("an Ascend gang has one")
        .to_string();
    assert!(
        table.contains("192.168.1.11") && table.contains("192.168.1.0"),
        "{table}"
    );
    world.finish(&job);
    world.settle();
    assert_eq!(outcome(&world, &job), JobOutcome::Succeeded);
}

fn a_long_queue_hides_nobody_elses_jobs(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("a", 1);
    world.created("b", 1);
    let first = world.running("a", job_spec(1));
    // More than the loop looks at, and all more urgent.
    world.write(|tx| {
        use supernode_store::job::{job_insert, job_list_placed};
        let mut job = job_list_placed(tx)?.remove(0);
        job.state = JobState::Queued {
            reason: String::new(),
        };
        job.spec.priority = 9;
        let entropy = supernode_types::entropy::SeededEntropy::new(99);
        for _ in 0..1001 {
            job.id = supernode_types::JobId::new(job.submitted_at, &entropy);
            job_insert(tx, &job)?;
        }
        Ok(())
    });
    let other = world.submit("b", job_spec(1)).expect("queued").id;
    world.settle();
    assert_eq!(world.job(&other).state.word(), "running");
    assert_eq!(world.job(&first).state.word(), "running");
}
