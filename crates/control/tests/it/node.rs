//! Cordon, label, place, remove.

use std::collections::BTreeMap;

use supernode_control::{Refusal, StoreError, node};
use supernode_types::node::{Node, NodePolicy, Position};
use supernode_types::operation::OperationState;

use crate::world::{Engine, World, job_spec, on_every_engine, request};

on_every_engine!(
    a_cordoned_node_gets_no_new_jobs_and_keeps_its_own,
    cordons_are_checked,
    labels_and_positions_are_checked,
    a_member_stays_in_its_hyperplane,
    a_spare_is_removed_and_its_certificates_are_revoked,
    a_member_is_not_removed,
    a_removal_can_be_cancelled_before_the_loop_looks,
    a_stale_precondition_changes_nothing,
    hardware_says_where_a_node_is,
    odd_lookups_are_not_found,
);

fn uncordon(world: &World, node: &str) -> Result<Node, Refusal> {
    let node = node.to_owned();
    world.change("node_uncordon", move |tx, intent| {
        node::uncordon(tx, intent, &node)
    })
}

fn update(
    world: &World,
    node: &str,
    labels: Option<(&str, &str)>,
    hyperplane: Option<&str>,
) -> Result<Node, Refusal> {
    let node = node.to_owned();
    let labels: Option<BTreeMap<String, String>> =
        labels.map(|(key, value)| [(key.to_owned(), value.to_owned())].into());
    let position = hyperplane.map(|hyperplane| Position {
        hyperplane: Some(hyperplane.to_owned()),
        ..Position::default()
    });
    world.change("node_update", move |tx, intent| {
        node::update(tx, intent, &node, labels.as_ref(), position.as_ref())
    })
}

fn a_cordoned_node_gets_no_new_jobs_and_keeps_its_own(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let job = world.running("train", job_spec(2));
    world.cordon("n2", "fan").expect("a member");
    world.settle();
    assert_eq!(world.job(&job).state.word(), "running");
    world.finish(&job);
    let next = world.submit("train", job_spec(2)).expect("queued").id;
    world.settle();
    assert!(
        world
            .queue_reason(&next)
            .contains("1 cordoned (n2 by ada: fan)"),
        "{}",
        world.queue_reason(&next)
    );
    assert_eq!(
        uncordon(&world, "n2").expect("cordoned").policy,
        NodePolicy::InService
    );
    world.settle();
    assert_eq!(world.job(&next).state.word(), "running");
}

fn cordons_are_checked(engine: Engine) {
    let world = World::with_spares(engine, 1);
    for bad in ["", "  ", "a\nb", &"x".repeat(501)] {
        assert!(
            matches!(world.cordon("n1", bad), Err(Refusal::Invalid(_))),
            "{bad:?}"
        );
    }
    assert!(matches!(
        world.cordon("n9", "fan"),
        Err(Refusal::NotFound { .. })
    ));
    let generation = world.cordon("n1", "fan").expect("a spare").generation;
    assert_eq!(
        world.cordon("n1", "fan").expect("again").generation,
        generation,
        "nothing changed"
    );
    let other = world.cordon("n1", "disk").expect("another reason");
    assert!(
        matches!(&other.policy, NodePolicy::Cordoned(cordon) if cordon.reason == "disk" && cordon.by == "ada")
    );
    uncordon(&world, "n1").expect("cordoned");
    assert_eq!(
        uncordon(&world, "n1").expect("again").policy,
        NodePolicy::InService
    );
}

fn labels_and_positions_are_checked(engine: Engine) {
    let world = World::with_spares(engine, 1);
    assert!(matches!(
        update(&world, "n1", Some(("", "x")), None),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        update(&world, "n1", Some(("a", "x y")), None),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        update(&world, "n1", None, Some("")),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        update(&world, "n1", None, Some("a\tb")),
        Err(Refusal::Invalid(_))
    ));
    let node = update(&world, "n1", Some(("zone", "a")), Some("h1")).expect("a spare");
    assert_eq!(
        node.labels,
        [("zone".to_owned(), "a".to_owned())].into(),
        "all labels are replaced"
    );
    assert_eq!(node.position.hyperplane.as_deref(), Some("h1"));
}

fn a_member_stays_in_its_hyperplane(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    update(&world, "n1", None, Some("h1")).expect("a spare");
    world.created("train", 1);
    assert!(matches!(
        update(&world, "n1", None, Some("h2")),
        Err(Refusal::Conflict(_))
    ));
    update(&world, "n1", Some(("zone", "b")), Some("h1")).expect("nothing moves");
}

fn a_spare_is_removed_and_its_certificates_are_revoked(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let operation = world.remove("n2").expect("a spare");
    assert!(
        matches!(world.remove("n2"), Err(Refusal::Conflict(_))),
        "once is enough"
    );
    let events = world.event_count("node.ready");
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(world.nodes().len(), 1);
    assert!(!world.agent("n2").connected);
    assert_eq!(world.event_count("node.removed"), 1);
    assert_eq!(
        world.event_count("node.ready"),
        events,
        "nothing more is heard of it"
    );
    assert!(matches!(
        world.cordon(
            operation.targets[0].node.as_ref().expect("a node").as_str(),
            "x"
        ),
        Err(Refusal::Conflict(_))
    ));
}

fn a_member_is_not_removed(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let refused = world.remove("n1");
    assert!(
        matches!(&refused, Err(Refusal::Conflict(message)) if message.contains("scale-down")),
        "{refused:?}"
    );
}

fn a_removal_can_be_cancelled_before_the_loop_looks(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let operation = world.remove("n1").expect("a spare");
    world.cancel(&operation.id).expect("it runs");
    world.settle();
    // Whichever way it went, nothing hangs.
    assert!(world.operation(&operation.id).state.ended());
    match world.nodes().as_slice() {
        [] => assert_eq!(
            world.operation(&operation.id).state,
            OperationState::Succeeded
        ),
        [node] => assert_eq!(node.policy, NodePolicy::InService),
        more => panic!("{more:?}"),
    }
}

fn a_stale_precondition_changes_nothing(engine: Engine) {
    let world = World::with_spares(engine, 1);
    let found = world.node("n1").generation;
    let mut stale = request("node_cordon");
    stale.if_match = Some(found - 1);
    let refused = world.change_as(stale, |tx, intent| {
        node::cordon(tx, intent, "n1", "fan").map(drop)
    });
    let Err(Refusal::PreconditionFailed {
        wanted,
        found: said,
        ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((wanted, said), (found - 1, found));
    let mut fresh = request("node_cordon");
    fresh.if_match = Some(found);
    world
        .change_as(fresh, |tx, intent| {
            node::cordon(tx, intent, "n1", "fan").map(drop)
        })
        .expect("it is that one");
    assert_eq!(world.node("n1").generation, found + 1);
}

fn hardware_says_where_a_node_is(engine: Engine) {
    use supernode_types::inventory::{Accelerator, AcceleratorVendor};
    let mut world = World::with_spares(engine, 1);
    update(&world, "n1", None, Some("typed")).expect("a spare");
    let mut device = Accelerator::new(0, AcceleratorVendor::Ascend);
    device.super_pod_id = Some("7".into());
    world.agent("n1").inventory.accelerators =
        vec![device.clone(), Accelerator { index: 1, ..device }];
    world.settle();
    let node = world.node("n1");
    assert_eq!(node.position.hyperplane.as_deref(), Some("super-pod-7"));
    assert_eq!(node.device_count, 2);
}

fn odd_lookups_are_not_found(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    // No database can hold it; the edge answers with 400.
    let zero = world.cordon("a\0b", "fan");
    assert!(
        matches!(zero, Err(Refusal::Store(StoreError::Statement { .. }))),
        "{zero:?}"
    );
    for odd in ["", "' OR 1=1 --", "\u{1F600}", &"x".repeat(10_000)] {
        assert!(
            matches!(world.cordon(odd, "fan"), Err(Refusal::NotFound { .. })),
            "{odd:?}"
        );
        assert!(
            matches!(world.delete(odd), Err(Refusal::NotFound { .. })),
            "{odd:?}"
        );
        let text = odd.to_owned();
        let spec = world
            .control
            .store()
            .read_inline("test", move |tx| supernode_control::spec::find(tx, &text));
        assert!(matches!(spec, Err(Refusal::NotFound { .. })), "{odd:?}");
    }
}
