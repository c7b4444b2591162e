//! Declared and learnt specs, and what nodes match.

use supernode_control::spec::{self, Source};
use supernode_control::{Refusal, scale_up::Selection};
use supernode_types::node::SpecMatch;
use supernode_types::spec::SpecDefinition;

use crate::world::{Engine, World, name, on_every_engine, request, settings};

on_every_engine!(
    a_spec_is_learnt_from_a_node_and_matches_its_like,
    a_mismatch_says_which_fact_differs,
    declaring_is_refused_for_good_reasons,
    a_spec_in_use_is_not_deleted,
    deleting_a_spec_matches_the_nodes_anew,
    a_member_keeps_its_spec_whatever_else_is_declared,
    a_node_that_changes_is_degraded_and_says_why,
);

fn memory(gib: u64) -> SpecDefinition {
    let mut definition = SpecDefinition::default();
    definition.memory.size_bytes = Some(gib << 30);
    definition
}

fn declare(world: &World, spec_name: &str, definition: SpecDefinition) -> Result<(), Refusal> {
    let (spec_name, source) = (name(spec_name), Source::Definition(Box::new(definition)));
    world.change("spec_create", move |tx, intent| {
        spec::declare(tx, intent, &spec_name, &source, spec::Maximums::nodes(4)).map(drop)
    })
}

fn delete(world: &World, spec_name: &str) -> Result<(), Refusal> {
    let spec_name = spec_name.to_owned();
    world.change("spec_delete", move |tx, intent| {
        spec::delete(tx, intent, &spec_name).map(drop)
    })
}

fn a_spec_is_learnt_from_a_node_and_matches_its_like(engine: Engine) {
    let mut world = World::empty(engine, settings());
    world.enrol("n1");
    world.settle();
    assert_eq!(world.node("n1").spec, SpecMatch::Unknown);
    assert!(
        world
            .node("n1")
            .condition
            .detail()
            .expect("it waits")
            .contains("declared spec")
    );
    world.declare("std", "n1");
    world.enrol("n2");
    world.settle();
    let spec = world.read(|tx| spec::find(tx, "std"));
    for node in ["n1", "n2"] {
        assert_eq!(world.node(node).spec.spec(), Some(&spec.id));
        assert_eq!(world.node(node).condition.word(), "ready");
    }
}

fn a_mismatch_says_which_fact_differs(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.enrol("n2");
    world.agent("n2").inventory.memory_bytes = 16 << 30;
    world.settle();
    let SpecMatch::Differs { differences } = world.node("n2").spec else {
        panic!("it differs");
    };
    assert_eq!(differences.len(), 1);
    assert!(
        differences[0].starts_with("spec std: the memory must be 64.0 GiB"),
        "{differences:?}"
    );
    let refused = world
        .create("train", Selection::Count(2))
        .expect_err("one is of another kind");
    let Refusal::NotEnoughNodes { message, excluded } = refused else {
        panic!("{refused:?}");
    };
    assert!(
        excluded.len() == 1 && excluded[0].starts_with("n2 ") && excluded[0].contains("memory"),
        "{excluded:?}"
    );
    assert!(message.contains("join-token create"), "{message}");
    let refused = world.create("train", Selection::Named(vec!["n1".into(), "n2".into()]));
    assert!(
        matches!(&refused, Err(Refusal::SpecMismatch(message)) if message.contains("memory")),
        "{refused:?}"
    );
    world.agent("n2").inventory.memory_bytes = 64 << 30;
    world.settle();
    assert_eq!(world.node("n2").spec, world.node("n1").spec);
}

fn declaring_is_refused_for_good_reasons(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    assert!(matches!(
        declare(&world, "std", memory(64)),
        Err(Refusal::AlreadyExists(_))
    ));
    assert!(matches!(
        declare(&world, "empty", SpecDefinition::default()),
        Err(Refusal::Invalid(_))
    ));
    let id = world
        .node("n1")
        .spec
        .spec()
        .expect("it matches")
        .to_string();
    assert!(matches!(
        declare(&world, &id, memory(64)),
        Err(Refusal::Invalid(_))
    ));
    let from = |node: &str| {
        let (spec_name, source) = (name("other"), Source::Node(node.into()));
        world.change("spec_create", move |tx, intent| {
            spec::declare(tx, intent, &spec_name, &source, spec::Maximums::nodes(4)).map(drop)
        })
    };
    assert!(matches!(from("n9"), Err(Refusal::NotFound { .. })));
    for bad in [0, 100_001] {
        let source = Source::Definition(Box::new(memory(64)));
        let outcome = world.change("spec_create", move |tx, intent| {
            spec::declare(
                tx,
                intent,
                &name("other"),
                &source,
                spec::Maximums::nodes(bad),
            )
            .map(drop)
        });
        assert!(matches!(outcome, Err(Refusal::Invalid(_))), "{outcome:?}");
    }
    world.enrol("n2");
    let (spec_name, source) = (name("other"), Source::Node("n2".into()));
    let early = world.change("spec_create", move |tx, intent| {
        spec::declare(tx, intent, &spec_name, &source, spec::Maximums::nodes(4)).map(drop)
    });
    assert!(
        matches!(early, Err(Refusal::Conflict(_))),
        "it has reported nothing yet: {early:?}"
    );
}

fn a_spec_in_use_is_not_deleted(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let refused = delete(&world, "std");
    assert!(
        matches!(&refused, Err(Refusal::Conflict(message)) if message.contains("train")),
        "{refused:?}"
    );
    assert!(matches!(
        delete(&world, "nothing"),
        Err(Refusal::NotFound { .. })
    ));
    let mut stale = request("spec_delete");
    stale.if_match = Some(99);
    let outcome = world.change_as(stale, |tx, intent| {
        spec::delete(tx, intent, "std").map(drop)
    });
    assert!(
        matches!(
            outcome,
            Err(Refusal::PreconditionFailed {
                wanted: 99,
                found: 1,
                ..
            })
        ),
        "{outcome:?}"
    );
}

fn deleting_a_spec_matches_the_nodes_anew(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    declare(&world, "roomy", memory(64)).expect("declared");
    let std = world.read(|tx| spec::find(tx, "std")).id;
    assert_eq!(
        world.node("n1").spec.spec(),
        Some(&std),
        "the one that asks for more"
    );
    delete(&world, "std").expect("nobody uses it");
    let roomy = world.read(|tx| spec::find(tx, "roomy")).id;
    assert_eq!(world.node("n1").spec.spec(), Some(&roomy));
    delete(&world, "roomy").expect("nobody uses it");
    world.settle();
    assert_eq!(world.node("n1").spec, SpecMatch::Unknown);
    assert_eq!(world.node("n1").condition.word(), "joining");
}

fn a_member_keeps_its_spec_whatever_else_is_declared(engine: Engine) {
    let mut world = World::empty(engine, settings());
    for node in ["n1", "n2", "n3"] {
        world.enrol(node);
    }
    world.settle();
    declare(&world, "loose", memory(64)).expect("declared");
    world.settle();
    world.created("train", 2);
    // As exact as the first, and more exact: neither takes the members away from their super node.
    declare(&world, "same", memory(64)).expect("declared");
    world.declare("exact", "n1");
    world.settle();
    let (loose, exact) =
        world.read(|tx| Ok((spec::find(tx, "loose")?.id, spec::find(tx, "exact")?.id)));
    assert_eq!(world.node("n1").spec.spec(), Some(&loose));
    assert_eq!(world.node("n1").condition.word(), "ready");
    assert_eq!(
        world.node("n3").spec.spec(),
        Some(&exact),
        "a spare is what fits it best"
    );
    world
        .scale_down(
            "train",
            Selection::Named(vec!["n2".into()]),
            supernode_types::super_node::DrainMode::Refuse,
        )
        .expect("idle");
    world.settle();
    assert_eq!(
        world.node("n2").spec.spec(),
        Some(&exact),
        "and so is one that became a spare"
    );
}

fn a_node_that_changes_is_degraded_and_says_why(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    world.agent("n2").inventory.memory_bytes = 32 << 30;
    world.settle();
    let node = world.node("n2");
    assert_eq!(node.condition.word(), "degraded");
    assert!(
        node.condition
            .detail()
            .expect("a reason")
            .contains("the memory must be 64.0 GiB"),
        "{:?}",
        node.condition
    );
    let degraded = world.event_count("node.degraded");
    world.settle();
    assert_eq!(world.event_count("node.degraded"), degraded, "told once");
    world.agent("n2").inventory.memory_bytes = 64 << 30;
    world.settle();
    assert_eq!(world.node("n2").condition.word(), "ready");
}
