//! Plans of stress tests: what is refused, each slot once across restarts, overlap, pause, and the end with the super node.

use supernode_control::stress_plan::{create, delete, list, upcoming, update};
use supernode_control::{Refusal, stress_run};
use supernode_types::Timestamp;
use supernode_types::operation::{Operation, OperationKind};
use supernode_types::stress::{
    Item, Share, StressPlan, StressReport, StressReportState, StressTerms, Tier,
};

use crate::world::{Engine, World, on_every_engine};

on_every_engine!(
    what_can_never_be_due_is_refused,
    each_slot_is_run_once_although_the_server_restarts,
    a_slot_during_a_run_and_one_without_a_server_are_missed_and_told,
    a_changed_and_a_resumed_plan_begin_with_the_next_slot,
    a_plan_goes_with_its_super_node,
);

/// At every full hour, ten minutes long.
fn terms() -> StressTerms {
    StressTerms {
        cron: "0 * * * *".into(),
        timezone: "Asia/Shanghai".into(),
        tier: Tier::Quick,
        items: vec![Item::Memory],
        max_nodes: Share::ALL,
        window_seconds: 600,
        jitter_seconds: 0,
        max_age_seconds: 3600,
        notify: Vec::new(),
    }
}

fn make(world: &World, terms: &StressTerms) -> Result<StressPlan, Refusal> {
    let terms = terms.clone();
    world.change("stress_plan_create", move |tx, intent| {
        create(tx, intent, "train", &terms)
    })
}

fn plans(world: &World) -> Vec<StressPlan> {
    world.read(|tx| list(tx, None))
}

fn runs(world: &World) -> Vec<Operation> {
    let records = world.read(|tx| stress_run::list(tx, None, None, 100));
    records.into_iter().map(|record| record.operation).collect()
}

fn begun(engine: Engine) -> (World, StressPlan) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let plan = make(&world, &terms()).expect("a good plan");
    (world, plan)
}

fn wait_until(world: &mut World, slot: Timestamp) {
    let left = slot.since(world.now());
    world.wait(left.as_secs() + 1);
    world.settle();
}

fn to_next(world: &mut World) {
    let next = plans(world).remove(0).next_due.expect("it is active");
    wait_until(world, next);
}

/// The agent has ended its test, of which nothing could run.
fn finish(world: &mut World) {
    let desired = world.agent("n1").desired.clone();
    let key = desired
        .and_then(|desired| desired.stress)
        .expect("told")
        .key();
    let evidence = Vec::new();
    let state = StressReportState::Ended { evidence };
    world.agent("n1").stress = Some(StressReport { key, state });
    world.settle();
}

fn what_can_never_be_due_is_refused(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let bad = |change: fn(&mut StressTerms)| {
        let mut terms = terms();
        change(&mut terms);
        let refusal = make(&world, &terms).expect_err("refused");
        assert!(matches!(refusal, Refusal::Invalid(_)), "{refusal}");
    };
    bad(|terms| terms.cron = "0 0 31 2 *".into());
    bad(|terms| terms.cron = "often".into());
    bad(|terms| terms.timezone = "Mars/Olympus".into());
    bad(|terms| terms.window_seconds = 1);
    bad(|terms| terms.jitter_seconds = 1 << 40);
    assert!(plans(&world).is_empty());
}

fn each_slot_is_run_once_although_the_server_restarts(engine: Engine) {
    let (mut world, plan) = begun(engine);
    assert_eq!(upcoming(&plan, world.now()).first().copied(), plan.next_due);
    for count in 1..=2 {
        to_next(&mut world);
        world.restart();
        world.settle();
        assert_eq!(runs(&world).len(), count, "not doubled");
        finish(&mut world);
    }
    let now = plans(&world).remove(0);
    assert_eq!(
        (now.last_run, now.missed),
        (Some(runs(&world)[0].id.clone()), 0)
    );
    let OperationKind::StressRun(run) = &runs(&world)[0].kind else {
        panic!("it is a run");
    };
    assert_eq!(
        (run.plan.as_ref(), &run.items),
        (Some(&plan.id), &terms().items)
    );
}

fn a_slot_during_a_run_and_one_without_a_server_are_missed_and_told(engine: Engine) {
    let (mut world, _) = begun(engine);
    to_next(&mut world);
    to_next(&mut world);
    assert_eq!((runs(&world).len(), plans(&world)[0].missed), (1, 1));
    // The run before is given up by now; its agent never said a word.
    // Nobody looks for two slots and twenty minutes.
    world.wait(3600 * 2 + 1200);
    world.settle();
    assert_eq!((runs(&world).len(), plans(&world)[0].missed), (1, 3));
    assert_eq!(world.event_count("stress_plan.missed"), 2);
}

fn a_changed_and_a_resumed_plan_begin_with_the_next_slot(engine: Engine) {
    let (mut world, plan) = begun(engine);
    let id = plan.id.to_string();
    let change = |world: &World, terms: Option<StressTerms>, paused: Option<bool>| {
        let id = id.clone();
        let changed = world.change("stress_plan_update", move |tx, intent| {
            update(tx, intent, &id, terms.as_ref(), paused)
        });
        changed.expect("changed")
    };
    let paused = change(&world, None, Some(true));
    assert_eq!(
        (paused.next_due, upcoming(&paused, world.now())),
        (None, vec![])
    );
    world.wait(3600 * 5);
    world.settle();
    let resumed = change(&world, None, Some(false));
    assert!(resumed.next_due > Some(world.now()));
    world.settle();
    assert_eq!((runs(&world).len(), plans(&world)[0].missed), (0, 0));
    let other = StressTerms {
        cron: "30 * * * *".into(),
        ..terms()
    };
    let changed = change(&world, Some(other), None);
    assert_ne!(changed.next_due, resumed.next_due);
    to_next(&mut world);
    assert_eq!(runs(&world).len(), 1);
    let id = id.clone();
    world
        .change("stress_plan_delete", move |tx, intent| {
            delete(tx, intent, &id)
        })
        .expect("deleted");
    assert!(plans(&world).is_empty());
    finish(&mut world);
    assert_eq!(runs(&world).len(), 1, "its runs stay");
}

fn a_plan_goes_with_its_super_node(engine: Engine) {
    let (mut world, _) = begun(engine);
    world.delete("train").expect("accepted");
    world.settle();
    assert!(plans(&world).is_empty());
    world.wait(7200);
    world.settle();
    assert!(runs(&world).is_empty());
}
