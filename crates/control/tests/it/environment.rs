//! Revisions of an environment: rolled out, drifted from, superseded.

use supernode_control::{Refusal, environment};
use supernode_types::environment::{
    EnvironmentDocument, EnvironmentFile, ItemCondition, ItemState,
};
use supernode_types::operation::{Operation, OperationState};

use crate::world::{DEADLINE, Engine, World, job_spec, on_every_engine};

on_every_engine!(
    a_revision_reaches_all_members,
    drift_degrades_and_its_repair_heals,
    a_failed_item_is_the_reason_that_the_operation_waits,
    a_newer_revision_takes_over,
    a_lost_member_does_not_hold_it_up,
    bad_documents_are_refused,
    a_job_gets_the_variables,
    generations_are_never_shared,
);

fn document(value: &str) -> EnvironmentDocument {
    EnvironmentDocument {
        variables: [("MODE".to_owned(), value.to_owned())].into(),
        files: vec![EnvironmentFile {
            path: "/etc/app".into(),
            mode: "0644".into(),
            content: value.into(),
        }],
        ..EnvironmentDocument::default()
    }
}

fn set(world: &World, document: EnvironmentDocument) -> Result<Operation, Refusal> {
    world.change("environment_set", move |tx, intent| {
        environment::set(tx, intent, "train", &document, DEADLINE)
    })
}

fn mode(world: &mut World, node: &str) -> Option<String> {
    world
        .agent(node)
        .environment
        .as_ref()
        .and_then(|found| found.variables.get("MODE"))
        .cloned()
}

fn a_revision_reaches_all_members(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let operation = set(&world, document("fast")).expect("accepted");
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    for node in ["n1", "n2"] {
        assert_eq!(mode(&mut world, node).as_deref(), Some("fast"));
    }
    let history = world.read(|tx| environment::history(tx, "train"));
    let revisions: Vec<_> = history
        .iter()
        .map(|record| (record.revision, record.actor.as_str()))
        .collect();
    assert_eq!(revisions, [(2, "ada"), (1, "ada")]);
    let (_, first) = world.read(|tx| environment::show(tx, "train", Some(1)));
    assert_eq!(first.document, EnvironmentDocument::default());
    let missing = world
        .control
        .store()
        .read_inline("test", |tx| environment::show(tx, "train", Some(7)));
    assert!(
        matches!(missing, Err(Refusal::NotFound { .. })),
        "{missing:?}"
    );
}

fn drift_degrades_and_its_repair_heals(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let state = ItemCondition::Drifted {
        why: "content differs".into(),
    };
    world.agent("n2").items = vec![ItemState {
        item: "file /etc/app".into(),
        state,
    }];
    world.settle();
    let node = world.node("n2");
    assert_eq!(node.condition.word(), "degraded");
    assert_eq!(
        node.environment_problems,
        ["file /etc/app drifted: content differs"]
    );
    let job = world.submit("train", job_spec(2)).expect("queued");
    world.settle();
    assert!(
        world.queue_reason(&job.id).contains("content differs"),
        "{}",
        world.queue_reason(&job.id)
    );
    world.agent("n2").items.clear();
    world.settle();
    assert_eq!(world.job(&job.id).state.word(), "running");
}

fn a_failed_item_is_the_reason_that_the_operation_waits(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world
        .agent("n2")
        .fail_item("sysctl net.x", "permission denied");
    let operation = set(&world, document("fast")).expect("accepted");
    world.settle();
    let OperationState::Running { waits_for } = world.operation(&operation.id).state else {
        panic!("it waits");
    };
    assert!(
        waits_for.contains("n2") && waits_for.contains("permission denied"),
        "{waits_for}"
    );
    world.wait(DEADLINE.as_secs());
    world.settle();
    let OperationState::Failed { reason } = world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(reason.contains("permission denied"), "{reason}");
}

fn a_newer_revision_takes_over(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    world.agent("n1").stuck = true;
    let first = set(&world, document("one")).expect("accepted");
    world.settle();
    let second = set(&world, document("two")).expect("accepted");
    world.settle();
    let OperationState::Failed { reason } = world.operation(&first.id).state else {
        panic!("superseded");
    };
    assert!(reason.contains(second.id.as_str()), "{reason}");
    world.agent("n1").stuck = false;
    world.agent("n1").act();
    world.settle();
    assert_eq!(world.operation(&second.id).state, OperationState::Succeeded);
    assert_eq!(mode(&mut world, "n1").as_deref(), Some("two"));
}

fn a_lost_member_does_not_hold_it_up(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world.lose("n2");
    let operation = set(&world, document("fast")).expect("accepted");
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    world.agent("n2").connected = true;
    world.settle();
    assert_eq!(
        mode(&mut world, "n2").as_deref(),
        Some("fast"),
        "before it is ready again"
    );
    assert_eq!(world.node("n2").condition.word(), "ready");
}

fn bad_documents_are_refused(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let mut bad = document("x");
    bad.files[0].path = "/etc/../passwd".into();
    assert!(matches!(set(&world, bad), Err(Refusal::Invalid(_))));
    let mut large = document("x");
    large.files[0].content = "x".repeat(1024 * 1024);
    assert!(matches!(set(&world, large), Err(Refusal::Invalid(_))));
    assert_eq!(world.super_node("train").environment_revision, 1);
    // Zero bytes are content as any other.
    let mut zero = document("x");
    zero.files[0].content = "a\0b".into();
    set(&world, zero).expect("accepted");
    world.settle();
    let files = world
        .agent("n1")
        .environment
        .clone()
        .expect("it has one")
        .files;
    assert_eq!(files[0].content, "a\0b");
}

fn a_job_gets_the_variables(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    set(&world, document("fast")).expect("accepted");
    world.settle();
    let mut spec = job_spec(1);
    spec.environment = [("OWN".to_owned(), "1".to_owned())].into();
    let job = world.running("train", spec);
    let desired = world.agent("n1").desired.clone().expect("it was told");
    let supernode_types::agent::RankWish::Run(launch) = &desired.ranks[0].wish else {
        panic!("it runs");
    };
    assert_eq!(launch.environment["MODE"], "fast");
    assert_eq!(launch.environment["OWN"], "1");
    assert_eq!(launch.environment["SUPERNODE_JOB_ID"], job.as_str());
    assert_eq!(launch.arguments, ["/bin/train"]);
    assert_eq!(
        (
            launch.place.world_size,
            launch.place.nodes,
            launch.place.device
        ),
        (1, 1, 0)
    );
    assert_eq!(launch.place.master_address, "n1.test");
}

/// What a node applied for one super node is never taken for what another one asks.
fn generations_are_never_shared(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("a", 1);
    world.created("b", 1);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..3 {
        for super_node in ["a", "b"] {
            let document = document(&format!("{super_node}{round}"));
            let super_node = super_node.to_owned();
            let of = super_node.clone();
            world
                .change("environment_set", move |tx, intent| {
                    environment::set(tx, intent, &of, &document, DEADLINE)
                })
                .expect("accepted");
            world.settle();
            assert!(seen.insert(world.super_node(&super_node).environment_generation));
        }
    }
    assert_eq!(
        world.node("n1").environment_applied,
        world.super_node("a").environment_generation
    );
}
