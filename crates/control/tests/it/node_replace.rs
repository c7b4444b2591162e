//! A spare in the place of a member: asked for, and by itself.

use supernode_control::node_replace::{Wish, plan, replace};
use supernode_control::scale_up::Test;
use supernode_control::stress_run::explain;
use supernode_control::{Refusal, query, super_node};
use supernode_types::operation::{Operation, OperationState};
use supernode_types::super_node::{DrainMode, Replacement};

use crate::stress_run::quarantine;
use crate::world::{DEADLINE, Engine, World, job_spec, on_every_engine, request};

on_every_engine!(
    a_spare_takes_the_place_also_of_the_only_member,
    what_cannot_be_replaced_is_refused_and_nothing_is_changed,
    a_quarantined_member_is_replaced_by_itself_and_over_a_restart,
    without_a_spare_people_are_told_and_the_next_one_is_taken,
);

fn wish(node: &str, with: Option<&str>, mode: DrainMode) -> Wish {
    Wish {
        node: node.to_owned(),
        with: with.map(str::to_owned),
        mode,
        test: Test::AsSet,
        deadline: DEADLINE,
    }
}

fn start(world: &World, wish: &Wish) -> Result<Operation, Refusal> {
    let wish = wish.clone();
    world.change("super_node_replace", move |tx, intent| {
        replace(tx, intent, "train", &wish)
    })
}

fn replace_automatically(world: &World) {
    let wish = super_node::Update {
        replacement: Some(Replacement::Automatic),
        ..super_node::Update::default()
    };
    let changed = world.change("super_node_update", move |tx, intent| {
        super_node::update(tx, intent, "train", &wish)
    });
    assert_eq!(
        changed.expect("accepted").replacement,
        Replacement::Automatic
    );
}

fn a_spare_takes_the_place_also_of_the_only_member(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 1);
    let asked = wish("n1", Some("n3"), DrainMode::Refuse);
    let wanted = asked.clone();
    let planned = world
        .control
        .change_inline(request("plan"), move |tx, intent| {
            let plan = plan(tx, intent, "train", &wanted)?;
            Ok::<_, Refusal>((plan.joins.node, plan.members))
        });
    assert_eq!(planned, Ok((world.node("n3").id, 1)));
    let operation = start(&world, &asked).expect("accepted");
    assert_eq!(
        world.node("n3").membership.word(),
        "joining",
        "claimed at once"
    );
    world.settle();
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Succeeded);
    assert_eq!(world.members("train"), ["n3"]);
    assert_eq!(world.spares(), ["n1", "n2"]);
    assert!(world.agent("n1").environment.is_none(), "it is clean");
}

fn what_cannot_be_replaced_is_refused_and_nothing_is_changed(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 2);
    let job = world.running("train", job_spec(2));
    let refused = |node, with, mode| start(&world, &wish(node, with, mode)).expect_err("refused");
    let busy = refused("n1", None, DrainMode::Refuse);
    assert!(
        matches!(&busy, Refusal::JobsRunning { jobs, .. } if *jobs == [job.clone()]),
        "{busy}"
    );
    let stranger = refused("n3", None, DrainMode::Wait);
    assert!(
        stranger.to_string().contains("n3 is not a member"),
        "{stranger}"
    );
    let taken = refused("n1", Some("n2"), DrainMode::Wait);
    assert!(taken.to_string().contains("n2 belongs to"), "{taken}");
    let nobody = refused("n9", None, DrainMode::Wait);
    assert!(matches!(nobody, Refusal::NotFound { .. }), "{nobody}");
    let open = world.read(|tx| query::operations(tx, None, Some("running"), None, 10));
    assert_eq!(open.len(), 0);

    start(&world, &wish("n1", None, DrainMode::Wait)).expect("it waits for the job");
    let twice = start(&world, &wish("n1", None, DrainMode::Wait)).expect_err("it leaves already");
    assert!(
        twice.to_string().contains("is being replaced by op-"),
        "{twice}"
    );
    let short = start(&world, &wish("n2", None, DrainMode::Wait)).expect_err("no spare is left");
    assert!(matches!(short, Refusal::NotEnoughNodes { .. }), "{short}");
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n2", "n3"]);
    let again = start(&world, &wish("n1", None, DrainMode::Wait)).expect_err("it leaves already");
    assert!(again.to_string().contains("is being drained"), "{again}");
    assert_eq!(world.job(&job).state.word(), "running");
    world.finish(&job);
    world.settle();
    assert_eq!(world.members("train"), ["n2", "n3"]);
}

fn a_quarantined_member_is_replaced_by_itself_and_over_a_restart(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 2);
    replace_automatically(&world);
    quarantine(&mut world, "n1");
    world.restart();
    world.settle();
    assert_eq!(world.members("train"), ["n2", "n3"]);
    let node = world.node("n1");
    assert_eq!(
        (node.membership.word(), node.health.word()),
        ("spare", "quarantined")
    );
    let all = world.read(|tx| query::operations(tx, None, None, None, 10));
    let replaced = all
        .iter()
        .filter(|record| record.operation.kind.word() == "node_replace");
    assert_eq!(replaced.count(), 1, "once");
    assert_eq!(world.event_count("super_node.replacement_changed"), 1);
}

fn without_a_spare_people_are_told_and_the_next_one_is_taken(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    replace_automatically(&world);
    quarantine(&mut world, "n1");
    world.wait(60);
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n2"]);
    assert_eq!(world.event_count("super_node.no_spare"), 1);
    let lines = explain(&world.node("n1"), &[], world.now());
    assert!(
        lines.contains(&"no spare can take its place".to_owned()),
        "{lines:?}"
    );
    world.enrol("n3");
    world.settle();
    assert_eq!(world.members("train"), ["n2", "n3"]);
    assert_eq!(world.event_count("super_node.no_spare"), 1);
}
