//! Adding nodes: by count, to a size, named, cancelled, late, repeated.

use supernode_control::Refusal;
use supernode_control::scale_up::{self, Selection};
use supernode_control::super_node::Create;
use supernode_types::operation::{OperationState, TargetState};

use crate::world::{DEADLINE, Engine, World, job_spec, keyed, on_every_engine};

on_every_engine!(
    by_count_to_a_size_and_named,
    refusals_say_why,
    the_maximum_counts_those_that_join,
    a_repeated_request_has_one_effect,
    a_cancel_in_the_middle_keeps_what_has_joined,
    a_deadline_takes_back_what_has_not_joined,
    a_node_that_is_lost_while_joining_holds_up_nothing_for_ever,
    two_operations_never_get_the_same_spare,
    members_take_jobs_while_the_super_node_grows,
    members_are_told_without_a_report_of_their_own,
    a_failed_item_is_named_by_the_operation,
    the_plan_says_what_would_happen,
);

fn named(names: &[&str]) -> Selection {
    Selection::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn by_count_to_a_size_and_named(engine: Engine) {
    let mut world = World::with_spares(engine, 6);
    world.created("train", 1);
    world
        .scale_up("train", Selection::Count(2))
        .expect("accepted");
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n2", "n3"]);
    world.scale_up("train", Selection::To(4)).expect("accepted");
    world.settle();
    assert_eq!(world.members("train").len(), 4);
    let operation = world.scale_up("train", named(&["n6"])).expect("accepted");
    assert_eq!(operation.targets[0].chosen_because, "named in the request");
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n2", "n3", "n4", "n6"]);
    let members = world
        .agent("n1")
        .environment
        .as_ref()
        .map(|found| found.members.len());
    assert_eq!(members, Some(5), "all members learn of the new one");
    assert_eq!(world.event_count("node.joined"), 5);
}

fn refusals_say_why(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    assert!(matches!(
        world.scale_up("train", Selection::Count(0)),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        world.scale_up("train", Selection::To(1)),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        world.scale_up("train", named(&[])),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        world.scale_up("nothing", Selection::Count(1)),
        Err(Refusal::NotFound { .. })
    ));
    assert!(matches!(
        world.scale_up("train", Selection::Count(u32::MAX)),
        Err(Refusal::OverMaximum(_))
    ));
    let member = world.scale_up("train", named(&["n1"]));
    assert!(
        matches!(&member, Err(Refusal::SpecMismatch(message)) if message.contains("n1 belongs to")),
        "{member:?}"
    );
    world.lose("n2");
    let lost = world.scale_up("train", Selection::Count(1));
    let Err(Refusal::NotEnoughNodes { excluded, .. }) = lost else {
        panic!("{lost:?}");
    };
    assert_eq!(excluded, ["n2 is lost: its agent is silent"]);
}

fn the_maximum_counts_those_that_join(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    world
        .change("spec_create", |tx, intent| {
            use supernode_control::spec::{Maximums, Source, declare};
            declare(
                tx,
                intent,
                &crate::world::name("small"),
                &Source::Node("n1".into()),
                Maximums::nodes(3),
            )
            .map(drop)
        })
        .expect("declared");
    world
        .change("spec_delete", |tx, intent| {
            supernode_control::spec::delete(tx, intent, "std").map(drop)
        })
        .expect("unused");
    world.settle();
    world.created("train", 1);
    for node in ["n2", "n3"] {
        world.agent(node).stuck = true;
    }
    world
        .scale_up("train", Selection::Count(2))
        .expect("up to the maximum");
    world.settle();
    let over = world.scale_up("train", Selection::Count(1));
    assert!(
        matches!(&over, Err(Refusal::OverMaximum(message)) if message.contains("3 + 1") && message.contains("small")),
        "{over:?}"
    );
    assert!(
        matches!(
            world.scale_up("train", Selection::To(3)),
            Err(Refusal::Invalid(_))
        ),
        "it is on its way there"
    );
}

fn a_repeated_request_has_one_effect(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    world.created("train", 1);
    let ask = |world: &World, key: &str, count: u32| {
        world.scale_up_as(
            keyed("super_node_scale_up", key, &format!("count {count}")),
            "train",
            Selection::Count(count),
        )
    };
    let first = ask(&world, "k", 1).expect("accepted");
    assert_eq!(ask(&world, "k", 1).expect("the same answer"), first);
    world.settle();
    world.restart();
    assert_eq!(
        ask(&world, "k", 1).expect("also after a restart, and when it is over"),
        first
    );
    assert_eq!(ask(&world, "k", 2), Err(Refusal::IdempotencyKeyReused));
    world.settle();
    assert_eq!(world.members("train").len(), 2, "one effect");
    let other = ask(&world, "k2", 1).expect("another key is another request");
    assert_ne!(other.id, first.id);
}

fn a_cancel_in_the_middle_keeps_what_has_joined(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 1);
    world.agent("n3").stuck = true;
    let operation = world
        .scale_up("train", Selection::Count(2))
        .expect("accepted");
    world.settle();
    let OperationState::Running { waits_for } = world.operation(&operation.id).state else {
        panic!("n3 is slow");
    };
    assert!(waits_for.contains("n3"), "{waits_for}");
    assert_eq!(world.members("train"), ["n1", "n2"]);
    world.cancel(&operation.id).expect("it runs");
    world
        .cancel(&operation.id)
        .expect("asking again changes nothing");
    world.agent("n3").stuck = false;
    world.settle();
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state.word(), "cancelled");
    assert_eq!(ended.targets[0].state, TargetState::Done);
    assert_eq!(ended.targets[1].state.word(), "failed");
    assert_eq!(world.members("train"), ["n1", "n2"]);
    assert_eq!(world.spares(), ["n3"]);
    assert!(world.agent("n3").environment.is_none(), "it was cleaned");
    assert_eq!(world.node("n3").condition.word(), "ready");
    assert!(
        matches!(world.cancel(&operation.id), Err(Refusal::Conflict(_))),
        "it has ended"
    );
    let members = world
        .agent("n1")
        .environment
        .as_ref()
        .map(|found| found.members.len());
    assert_eq!(members, Some(2), "the others forget it");
}

fn a_deadline_takes_back_what_has_not_joined(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    world.agent("n2").stuck = true;
    let operation = world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    world.settle();
    world.wait(DEADLINE.as_secs());
    world.settle();
    // Its agent never gets to it: two minutes later the operation ends all the same.
    world.wait(120);
    world.settle();
    let OperationState::Failed { reason } = world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(
        reason.contains("the deadline passed") && reason.contains("n2"),
        "{reason}"
    );
    assert_eq!(world.members("train"), ["n1"]);
    world.agent("n2").stuck = false;
    world.agent("n2").act();
    world.settle();
    assert_eq!(world.node("n2").condition.word(), "ready");
    world
        .scale_up("train", Selection::Count(1))
        .expect("a spare as any other");
    world.settle();
    assert_eq!(world.members("train"), ["n1", "n2"]);
}

fn a_node_that_is_lost_while_joining_holds_up_nothing_for_ever(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    world.agent("n2").stuck = true;
    let operation = world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    world.settle();
    world.lose("n2");
    let OperationState::Running { waits_for } = world.operation(&operation.id).state else {
        panic!("it waits");
    };
    assert!(waits_for.contains("lost"), "{waits_for}");
    world.cancel(&operation.id).expect("it runs");
    world.settle();
    assert_eq!(world.operation(&operation.id).state.word(), "cancelled");
    assert_eq!(world.spares(), ["n2"]);
    let agent = world.agent("n2");
    agent.connected = true;
    agent.stuck = false;
    world.settle();
    assert_eq!(
        world.node("n2").condition.word(),
        "ready",
        "back without a human"
    );
}

fn two_operations_never_get_the_same_spare(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    world.created("a", 1);
    world.created("b", 1);
    let first = world.scale_up("a", Selection::Count(1)).expect("accepted");
    let second = world.scale_up("b", Selection::Count(1)).expect("accepted");
    assert_ne!(first.targets[0].node, second.targets[0].node);
    assert!(matches!(
        world.scale_up("b", Selection::Count(1)),
        Err(Refusal::NotEnoughNodes { .. })
    ));
    world.settle();
    assert_eq!((world.members("a").len(), world.members("b").len()), (2, 2));
}

fn members_take_jobs_while_the_super_node_grows(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 2);
    let long = world.running("train", job_spec(1));
    world.agent("n3").stuck = true;
    world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    world.settle();
    let job = world.running("train", job_spec(1));
    assert_eq!(world.job(&long).state.word(), "running");
    let wide = world.submit("train", job_spec(3)).expect("queued");
    world.settle();
    assert!(
        world.queue_reason(&wide.id).contains("3 nodes"),
        "a joining node takes no jobs"
    );
    world.agent("n3").stuck = false;
    world.agent("n3").act();
    world.finish(&long);
    world.finish(&job);
    world.settle();
    assert_eq!(world.job(&wide.id).state.word(), "running");
}

fn members_are_told_without_a_report_of_their_own(engine: Engine) {
    use std::sync::{Arc, Mutex};
    use supernode_control::hub::{Link, LogBytes, LogRequest};
    use supernode_types::agent::Desired;

    #[derive(Debug, Default)]
    struct Wire {
        received: Mutex<Vec<Desired>>,
        full: Mutex<bool>,
    }
    impl Link for Wire {
        fn desired(&self, desired: Box<Desired>) -> bool {
            let room = !*self.full.lock().expect("not poisoned");
            if room {
                self.received.lock().expect("not poisoned").push(*desired);
            }
            room
        }
        fn read_log(
            &self,
            _: LogRequest,
        ) -> tokio::sync::oneshot::Receiver<Result<LogBytes, String>> {
            tokio::sync::oneshot::channel().1
        }
        fn close(&self, _: &'static str) {}
    }

    let mut world = World::with_spares(engine, 1);
    let id = world.node("n1").id;
    let wire = Arc::new(Wire::default());
    let link: Arc<dyn Link> = Arc::<Wire>::clone(&wire);
    let connection = world.control.hub().connect(&id, link);
    let count = || wire.received.lock().expect("not poisoned").len();
    world.pass();
    world.pass();
    assert_eq!(count(), 1, "what it has is not known yet; told once");
    *wire.full.lock().expect("not poisoned") = true;
    world
        .create("train", Selection::Count(1))
        .expect("accepted");
    world.pass();
    assert_eq!(count(), 1, "the queue was full");
    *wire.full.lock().expect("not poisoned") = false;
    world.pass();
    world.pass();
    assert_eq!(
        count(),
        2,
        "told again until it is in the queue, and not more often"
    );
    let last = wire
        .received
        .lock()
        .expect("not poisoned")
        .last()
        .map(|desired| desired.generation);
    assert_eq!(last, Some(world.node("n1").desired_generation));
    assert!(world.control.hub().is_current(&id, connection));
    world.control.hub().disconnect(&id, connection);
    assert!(!world.control.hub().is_current(&id, connection));
    assert_eq!(world.control.hub().link_count(), 0);
}

fn a_failed_item_is_named_by_the_operation(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    world.agent("n2").fail_item("file /etc/x", "read-only");
    let operation = world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    world.settle();
    let OperationState::Running { waits_for } = world.operation(&operation.id).state else {
        panic!("it waits");
    };
    assert!(
        waits_for.contains("n2") && waits_for.contains("file /etc/x failed: read-only"),
        "{waits_for}"
    );
    world.agent("n2").items.clear();
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
}

fn the_plan_says_what_would_happen(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 1);
    let plan = world
        .control
        .change_inline(crate::world::request("plan"), |tx, intent| {
            let plan = scale_up::plan(tx, intent, "train", &Selection::Count(2))?;
            Ok::<_, Refusal>((
                plan.members_before,
                plan.members_after(),
                plan.provisioned,
                plan.nodes.len(),
            ))
        });
    assert_eq!(plan, Ok((1, 3, 0, 2)));
    assert_eq!(world.spares(), ["n2", "n3"]);
    // The types of a wish are plain values.
    let wish = Create {
        name: crate::world::name("other"),
        spec: Some("std".into()),
        selection: Selection::To(2),
        labels: std::collections::BTreeMap::new(),
        deadline: DEADLINE,
    };
    let created = world.change("super_node_create", move |tx, intent| {
        supernode_control::super_node::create(tx, intent, &wish)
    });
    assert_eq!(created.expect("accepted").targets.len(), 2);
}
