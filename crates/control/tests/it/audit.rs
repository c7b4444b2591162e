//! Audit records, idempotency keys and events: what was asked, answered and told.

use std::time::Duration;

use supernode_control::query;
use supernode_control::scale_up::Selection;
use supernode_control::service::housekeep;
use supernode_control::{ChangeRequest, Refusal, node, token};
use supernode_types::event::Severity;

use crate::world::{Engine, World, job_spec, keyed, name, on_every_engine, request};

on_every_engine!(
    every_change_has_a_record_of_its_own,
    a_refused_change_leaves_no_record,
    a_key_has_one_effect_and_one_answer,
    keys_belong_to_their_actor_and_grow_old,
    a_refused_request_may_be_repeated_with_its_key,
    events_are_read_on_from_where_one_was,
    old_events_are_forgotten,
    tokens_are_found_by_hash_until_they_end,
);

fn every_change_has_a_record_of_its_own(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    let before = world.read(|tx| query::audit(tx, None, None, 1000)).len();
    world.cordon("n2", "fan").expect("a spare");
    world.submit("train", job_spec(1)).expect("queued");
    let records = world.read(|tx| query::audit(tx, None, None, 1000));
    assert_eq!(records.len(), before + 2);
    let newest: Vec<_> = records
        .iter()
        .take(2)
        .map(|record| record.action.as_str())
        .collect();
    assert_eq!(newest, ["job_submit", "node_cordon"]);
    let record = &records[0];
    assert_eq!(
        (
            record.actor.as_str(),
            record.subject.as_str(),
            record.request_id.as_str()
        ),
        ("ada", "subject", "request-1")
    );
    assert_eq!(record.request["asked"], "job_submit");
    assert_eq!(record.at, world.now());
    let sequence = record.sequence;
    let older = world.read(move |tx| query::audit(tx, Some(sequence), None, 1));
    assert_eq!(older[0].action, "node_cordon");
    assert_eq!(world.read(|tx| query::audit(tx, None, Some("eve"), 10)), []);
}

fn a_refused_change_leaves_no_record(engine: Engine) {
    let world = World::with_spares(engine, 1);
    let before = (
        world.read(|tx| query::audit(tx, None, None, 1000)).len(),
        world.events().len(),
        world.node("n1"),
    );
    assert!(world.cordon("n1", "").is_err());
    let half = world.change("half", |tx, intent| {
        node::cordon(tx, intent, "n1", "fan")?;
        Err::<(), _>(Refusal::Conflict("after all".into()))
    });
    assert_eq!(half, Err(Refusal::Conflict("after all".into())));
    let after = (
        world.read(|tx| query::audit(tx, None, None, 1000)).len(),
        world.events().len(),
        world.node("n1"),
    );
    assert_eq!(after, before, "all of it was undone");
}

fn a_key_has_one_effect_and_one_answer(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let submit = |world: &World, digest: &str| {
        world.submit_as(keyed("job_submit", "k", digest), "train", job_spec(1))
    };
    let first = submit(&world, "a").expect("queued");
    world.settle();
    assert_eq!(
        submit(&world, "a").expect("the same answer"),
        first,
        "as it was, not as it is"
    );
    world.restart();
    assert_eq!(submit(&world, "a").expect("also after a restart"), first);
    assert_eq!(submit(&world, "b"), Err(Refusal::IdempotencyKeyReused));
    let jobs = world.read(|tx| query::jobs(tx, None, None, None, 10));
    assert_eq!(jobs.len(), 1);
    let records = world.read(|tx| query::audit(tx, None, None, 1000));
    assert_eq!(
        records
            .iter()
            .filter(|record| record.action == "job_submit")
            .count(),
        1
    );
    // The key of one kind of answer, asked for another kind: refused, whatever the digest.
    let other = world.change_as(keyed("node_cordon", "k", "a"), |tx, intent| {
        node::cordon(tx, intent, "n1", "fan")
    });
    assert!(
        matches!(
            other,
            Err(Refusal::Conflict(_) | Refusal::IdempotencyKeyReused)
        ),
        "{other:?}"
    );
}

fn keys_belong_to_their_actor_and_grow_old(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let as_actor = |actor: &str| ChangeRequest {
        actor: actor.into(),
        ..keyed("job_submit", "k", "a")
    };
    let first = world
        .submit_as(as_actor("ada"), "train", job_spec(1))
        .expect("queued");
    let other = world
        .submit_as(as_actor("bob"), "train", job_spec(1))
        .expect("queued");
    assert_ne!(first.id, other.id);
    world.wait(24 * 3600 - 1);
    world.block_on(housekeep(&world.control)).expect("stored");
    assert_eq!(
        world
            .submit_as(as_actor("ada"), "train", job_spec(1))
            .expect("remembered")
            .id,
        first.id
    );
    world.wait(2);
    world.block_on(housekeep(&world.control)).expect("stored");
    assert_ne!(
        world
            .submit_as(as_actor("ada"), "train", job_spec(1))
            .expect("forgotten")
            .id,
        first.id
    );
}

fn a_refused_request_may_be_repeated_with_its_key(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let ask = |world: &World| {
        world.change_as(keyed("super_node_create", "k", "a"), |tx, intent| {
            use supernode_control::super_node::{Create, create};
            let wish = Create {
                name: name("train"),
                spec: None,
                selection: Selection::Count(2),
                labels: std::collections::BTreeMap::new(),
                deadline: crate::world::DEADLINE,
            };
            create(tx, intent, &wish)
        })
    };
    assert!(matches!(ask(&world), Err(Refusal::NotEnoughNodes { .. })));
    world.enrol("n2");
    world.settle();
    let first = ask(&world).expect("there are enough now");
    assert_eq!(ask(&world).expect("the same answer"), first);
}

fn events_are_read_on_from_where_one_was(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 1);
    let all = world.events();
    assert!(
        all.windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence)
    );
    let last = all.last().expect("there are some").sequence;
    assert_eq!(world.read(query::last_event), last);
    assert_eq!(
        world.read(move |tx| query::events(tx, Some(last), None, Severity::Info, 10)),
        []
    );
    world.lose("n2");
    let later = world.read(move |tx| query::events(tx, Some(last), None, Severity::Info, 10));
    assert_eq!(
        later
            .iter()
            .map(|event| event.kind.as_str())
            .collect::<Vec<_>>(),
        ["node.lost"]
    );
    let node = world.node("n2").id;
    let id = node.to_string();
    let of_node = world.read(move |tx| query::events(tx, None, Some(&id), Severity::Info, 10));
    assert_eq!(of_node[0].kind, "node.lost", "newest first");
    assert!(
        of_node
            .iter()
            .all(|event| event.subjects.node.as_ref() == Some(&node))
    );
    let warnings = world.read(|tx| query::events(tx, Some(0), None, Severity::Warning, 10));
    assert_eq!(warnings.len(), 1);
    let quiet = world.events().len();
    for _ in 0..5 {
        world.wait(1);
        world.settle();
    }
    assert_eq!(
        world.events().len(),
        quiet,
        "where nothing happens nothing is told"
    );
}

fn old_events_are_forgotten(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    let last = world.read(query::last_event);
    world.wait(31 * 24 * 3600);
    world.block_on(housekeep(&world.control)).expect("stored");
    assert_eq!(world.events(), []);
    assert_eq!(
        world.read(query::last_event),
        last,
        "numbers are never used again"
    );
    world.cordon("n1", "fan").expect("a spare");
}

fn tokens_are_found_by_hash_until_they_end(engine: Engine) {
    let mut world = World::empty(engine, crate::world::settings());
    let create = |world: &World, hash: &'static str, lifetime: Option<Duration>| {
        world.change("token_create", move |tx, intent| {
            token::create(tx, intent, &name("ci"), "operator", lifetime, hash)
                .map(|token| token.id.to_string())
        })
    };
    let id = create(&world, "one", None).expect("created");
    create(&world, "two", Some(Duration::from_mins(1))).expect("created");
    assert!(matches!(
        create(&world, "three", Some(Duration::ZERO)),
        Err(Refusal::Invalid(_))
    ));
    let works = |world: &World, hash: &'static str| {
        let now = world.now();
        world.read(move |tx| Ok(token::authenticate(tx, hash, now)?.map(|token| token.role)))
    };
    assert_eq!(works(&world, "one").as_deref(), Some("operator"));
    assert_eq!(works(&world, "two").as_deref(), Some("operator"));
    assert_eq!(works(&world, "three"), None);
    world.wait(60);
    assert_eq!(works(&world, "two"), None, "over");
    let gone = id.clone();
    world
        .change("token_revoke", move |tx, intent| {
            token::revoke(tx, intent, &gone).map(drop)
        })
        .expect("revoked");
    assert_eq!(works(&world, "one"), None);
    let unknown = world.change_as(request("token_revoke"), |tx, intent| {
        token::revoke(tx, intent, "token-x").map(drop)
    });
    assert!(matches!(unknown, Err(Refusal::NotFound { .. })));
    assert_eq!(world.read(query::tokens).len(), 2);
}
