//! Creating, renaming, labelling and deleting super nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_control::scale_up::Selection;
use supernode_control::super_node::{self, Create};
use supernode_control::{Refusal, node};
use supernode_types::node::Position;
use supernode_types::operation::OperationState;

use crate::world::{DEADLINE, Engine, World, job_spec, name, on_every_engine, request};

on_every_engine!(
    a_super_node_is_made_of_spares,
    named_nodes_make_a_super_node,
    creating_is_refused_for_good_reasons,
    a_plan_changes_nothing_and_refuses_the_same,
    nodes_of_two_hyperplanes_never_meet,
    a_creation_that_comes_to_nothing_leaves_nothing,
    members_learn_of_a_new_name,
    labels_are_replaced_and_checked,
    deleting_frees_all_nodes,
    deleting_is_refused_while_jobs_or_operations_are_there,
    a_cancelled_deletion_leaves_a_super_node_that_works,
);

fn a_super_node_is_made_of_spares(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    let operation = world
        .create("train", Selection::Count(2))
        .expect("accepted");
    assert_eq!(operation.targets.len(), 2);
    assert!(
        operation
            .targets
            .iter()
            .all(|target| target.chosen_because.contains("spare of spec std"))
    );
    assert_eq!(
        world.super_node("train").name,
        name("train"),
        "its record exists at once"
    );
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(world.members("train"), ["n1", "n2"]);
    assert_eq!(world.spares(), ["n3"]);
    let environment = world.agent("n1").environment.clone().expect("it has one");
    assert_eq!(environment.super_node_name, "train");
    let members: Vec<_> = environment
        .members
        .iter()
        .map(|member| (member.name.as_str(), member.address.as_str()))
        .collect();
    assert_eq!(members, [("n1", "n1.test"), ("n2", "n2.test")]);
    assert_eq!(
        world.agent("n2").environment.as_ref(),
        Some(&environment),
        "all have the same"
    );
    assert!(world.agent("n3").environment.is_none());
    assert!(world.operation(&operation.id).ended_at.is_some());
}

fn named_nodes_make_a_super_node(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    let id = world.node("n3").id.to_string();
    world
        .create("train", Selection::Named(vec!["n2".into(), id]))
        .expect("accepted");
    world.settle();
    assert_eq!(world.members("train"), ["n2", "n3"]);
}

fn creating_is_refused_for_good_reasons(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 1);
    let named =
        |names: &[&str]| Selection::Named(names.iter().map(|name| (*name).to_owned()).collect());
    assert!(matches!(
        world.create("train", Selection::Count(1)),
        Err(Refusal::AlreadyExists(_))
    ));
    let id = world.super_node("train").id;
    assert!(matches!(
        world.create(id.as_str(), Selection::Count(1)),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        world.create("other", Selection::Count(0)),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        world.create("other", named(&[])),
        Err(Refusal::Invalid(_))
    ));
    assert!(matches!(
        world.create("other", named(&["n9"])),
        Err(Refusal::NotFound { .. })
    ));
    assert!(matches!(
        world.create("other", Selection::Count(49)),
        Err(Refusal::OverMaximum(_))
    ));
    let taken = world.create("other", named(&["n1"]));
    assert!(
        matches!(&taken, Err(Refusal::SpecMismatch(message)) if message.contains("n1 belongs to super node train")),
        "{taken:?}"
    );
    let twice = world.create("other", named(&["n2", "n2"]));
    assert!(
        matches!(&twice, Err(Refusal::SpecMismatch(message)) if message.contains("twice")),
        "{twice:?}"
    );
    world.cordon("n2", "fan").expect("a spare");
    let few = world.create("other", Selection::Count(2));
    let Err(Refusal::NotEnoughNodes { message, excluded }) = few else {
        panic!("{few:?}");
    };
    assert!(message.contains("2 spares wanted, 1 usable"), "{message}");
    assert_eq!(excluded, ["n2 is cordoned by ada (fan); uncordon it first"]);
    let wrong_spec = Create {
        name: name("other"),
        spec: Some("nothing".into()),
        selection: Selection::Count(1),
        labels: BTreeMap::new(),
        deadline: DEADLINE,
    };
    let outcome = world.change("super_node_create", move |tx, intent| {
        super_node::create(tx, intent, &wrong_spec)
    });
    assert!(
        matches!(outcome, Err(Refusal::NotFound { .. })),
        "{outcome:?}"
    );
    assert_eq!(world.spares(), ["n2", "n3"], "nothing of all that was done");
}

fn a_plan_changes_nothing_and_refuses_the_same(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let plan = |world: &World, super_node: &str, selection: Selection| {
        let wish = Create {
            name: name(super_node),
            spec: None,
            selection,
            labels: BTreeMap::new(),
            deadline: DEADLINE,
        };
        world
            .control
            .change_inline(request("plan"), move |tx, intent| {
                let plan = super_node::create_plan(tx, intent, &wish)?;
                let all = plan
                    .nodes
                    .iter()
                    .map(|choice| Ok(node::find(tx, choice.node.as_str())?.name));
                all.collect::<Result<Vec<_>, Refusal>>()
            })
    };
    let events = world.events().len();
    assert_eq!(
        plan(&world, "train", Selection::Count(1)),
        Ok(vec![name("n1")])
    );
    assert!(matches!(
        plan(&world, "train", Selection::Count(3)),
        Err(Refusal::NotEnoughNodes { .. })
    ));
    assert_eq!(world.spares(), ["n1", "n2"]);
    assert_eq!(world.events().len(), events);
    world.created("train", 1);
    assert!(matches!(
        plan(&world, "train", Selection::Count(1)),
        Err(Refusal::AlreadyExists(_))
    ));
}

fn place(world: &World, node: &str, hyperplane: &str) {
    let node = node.to_owned();
    let position = Position {
        hyperplane: Some(hyperplane.into()),
        ..Position::default()
    };
    world
        .change("node_update", move |tx, intent| {
            node::update(tx, intent, &node, None, Some(&position)).map(drop)
        })
        .expect("a spare");
}

fn nodes_of_two_hyperplanes_never_meet(engine: Engine) {
    let mut world = World::with_spares(engine, 4);
    for (node, hyperplane) in [("n1", "a"), ("n2", "b"), ("n3", "b"), ("n4", "a")] {
        place(&world, node, hyperplane);
    }
    let refused = world.create("train", Selection::Count(3));
    assert!(
        matches!(refused, Err(Refusal::NotEnoughNodes { .. })),
        "{refused:?}"
    );
    let refused = world.create("train", Selection::Named(vec!["n1".into(), "n2".into()]));
    assert!(
        matches!(&refused, Err(Refusal::SpecMismatch(message)) if message.contains("n2 is in hyperplane b, not a")),
        "{refused:?}"
    );
    world
        .create("train", Selection::Named(vec!["n2".into()]))
        .expect("accepted");
    world.settle();
    assert_eq!(world.super_node("train").hyperplane.as_deref(), Some("b"));
    world
        .scale_up("train", Selection::Count(1))
        .expect("n3 is there, too");
    world.settle();
    assert_eq!(world.members("train"), ["n2", "n3"]);
    let refused = world.scale_up("train", Selection::Count(1));
    let Err(Refusal::NotEnoughNodes { excluded, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        excluded,
        [
            "n1 is in hyperplane a, not b",
            "n4 is in hyperplane a, not b"
        ]
    );
}

fn a_creation_that_comes_to_nothing_leaves_nothing(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.agent("n1").stuck = true;
    let operation = world
        .create("train", Selection::Count(1))
        .expect("accepted");
    world.settle();
    let OperationState::Running { waits_for } = world.operation(&operation.id).state else {
        panic!("it waits");
    };
    assert!(
        waits_for.contains("n1") && waits_for.contains("being applied"),
        "{waits_for}"
    );
    let job = world
        .submit("train", job_spec(1))
        .expect("queued until there is a node");
    world.wait(DEADLINE.as_secs());
    world.settle();
    world.agent("n1").stuck = false;
    world.agent("n1").act();
    world.settle();
    let OperationState::Failed { reason } = world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(
        reason.contains("deadline") && reason.contains("being applied"),
        "{reason}"
    );
    assert_eq!(world.spares(), ["n1"]);
    assert_eq!(world.node("n1").condition.word(), "ready");
    assert!(world.read(supernode_control::query::super_nodes).is_empty());
    assert_eq!(world.job(&job.id).state.word(), "cancelled");
    assert_eq!(world.event_count("operation.failed"), 1);
}

fn members_learn_of_a_new_name(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    world.created("other", 1);
    let rename = |world: &World, to: &str| {
        let wish = super_node::Update {
            name: Some(name(to)),
            ..super_node::Update::default()
        };
        world.change("super_node_update", move |tx, intent| {
            super_node::update(tx, intent, "train", &wish).map(|found| found.name)
        })
    };
    assert!(matches!(
        rename(&world, "other"),
        Err(Refusal::AlreadyExists(_))
    ));
    let id = world.super_node("other").id;
    assert!(matches!(
        rename(&world, id.as_str()),
        Err(Refusal::Invalid(_))
    ));
    assert_eq!(rename(&world, "big"), Ok(name("big")));
    world.settle();
    assert_eq!(
        world
            .agent("n1")
            .environment
            .as_ref()
            .map(|found| found.super_node_name.as_str()),
        Some("big")
    );
    assert_eq!(
        world.node("n1").condition.word(),
        "ready",
        "it took jobs all the time"
    );
    assert!(matches!(
        world.scale_up("train", Selection::Count(1)),
        Err(Refusal::NotFound { .. })
    ));
}

fn labels_are_replaced_and_checked(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let label = |key: &str, if_match: Option<i64>| {
        let wish = super_node::Update {
            labels: Some([(key.to_owned(), "1".to_owned())].into()),
            ..super_node::Update::default()
        };
        let mut request = request("super_node_update");
        request.if_match = if_match;
        world.change_as(request, move |tx, intent| {
            super_node::update(tx, intent, "train", &wish).map(|found| found.generation)
        })
    };
    let before = world.super_node("train").generation;
    assert!(matches!(label("a\"b", None), Err(Refusal::Invalid(_))));
    assert_eq!(label("a", Some(before)), Ok(before + 1));
    let stale = label("b", Some(before));
    assert!(
        matches!(stale, Err(Refusal::PreconditionFailed { .. })),
        "{stale:?}"
    );
    assert_eq!(
        world.super_node("train").labels.keys().collect::<Vec<_>>(),
        ["a"]
    );
}

fn deleting_frees_all_nodes(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 3);
    world.cordon("n2", "fan").expect("a member");
    let operation = world.delete("train").expect("accepted");
    assert!(
        matches!(
            world.submit("train", job_spec(1)),
            Err(Refusal::Conflict(_))
        ),
        "no new jobs"
    );
    assert!(
        matches!(world.delete("train"), Err(Refusal::Conflict(_))),
        "once is enough"
    );
    assert!(matches!(
        world.scale_up("train", Selection::Count(1)),
        Err(Refusal::Conflict(_))
    ));
    world.settle();
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(world.spares(), ["n1", "n2", "n3"]);
    assert_eq!(world.node("n2").policy.word(), "cordoned", "as before");
    for node in ["n1", "n2", "n3"] {
        assert!(world.agent(node).environment.is_none(), "{node} is clean");
    }
    world.created("train", 2);
}

fn deleting_is_refused_while_jobs_or_operations_are_there(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    let job = world.running("train", job_spec(1));
    let Err(Refusal::JobsRunning { jobs, .. }) = world.delete("train") else {
        panic!("a job runs");
    };
    assert_eq!(jobs, std::slice::from_ref(&job));
    world.finish(&job);
    world.settle();
    world.agent("n2").stuck = true;
    let growing = world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    let refused = world.delete("train");
    assert!(
        matches!(&refused, Err(Refusal::Conflict(message)) if message.contains(growing.id.as_str())),
        "{refused:?}"
    );
    world.cancel(&growing.id).expect("it runs");
    world.settle();
    world.delete("train").expect("nothing stands in the way");
    world.settle();
    assert!(world.read(supernode_control::query::super_nodes).is_empty());
}

fn a_cancelled_deletion_leaves_a_super_node_that_works(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let operation = world.delete("train").expect("accepted");
    // Before the loop has looked: nothing has left yet.
    world.cancel(&operation.id).expect("it runs");
    world.settle();
    assert_eq!(world.operation(&operation.id).state.word(), "cancelled");
    assert_eq!(world.members("train"), ["n1", "n2"]);
    assert_eq!(world.super_node("train").deleting, None);
    assert!(world.nodes().iter().all(|node| node.policy.schedulable()));
    let job = world.running("train", job_spec(2));
    world.finish(&job);
    world.settle();
    let mut late = request("super_node_delete");
    late.if_match = Some(world.super_node("train").generation);
    let deleted = world.change_as(late, |tx, intent| {
        super_node::delete(tx, intent, "train", Duration::from_mins(1))
    });
    deleted.expect("accepted");
    world.settle();
    assert_eq!(world.spares(), ["n1", "n2"]);
}
