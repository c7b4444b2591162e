//! Who is told what, once, whatever is killed: the outbox with a courier that the test holds in its hands.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use supernode_control::channel::{self, ChannelRecord};
use supernode_control::delivery::{claim, finish, release_claims};
use supernode_control::metrics::render;
use supernode_control::stress_run::{Wish, release, stress_run};
use supernode_control::{ChangeRequest, Refusal, service};
use supernode_types::channel::{ChannelTerms, Delivered, Delivery, Target};
use supernode_types::message::{Message, MessageState, NoticeStatus, Topic};
use supernode_types::stress::{
    Item, Share, StepEvidence, StressReport, StressReportState, Tier, Validity,
};

use crate::world::{Engine, World, name, on_every_engine, request};

on_every_engine!(
    only_an_admin_lets_a_channel_lead_to_private_addresses,
    a_channel_that_a_plan_names_stays,
    the_findings_of_a_run_are_one_message_and_the_same_finding_is_told_once,
    what_was_told_as_wrong_is_told_as_over,
    a_killed_server_neither_loses_nor_repeats_a_message,
    a_dead_channel_holds_up_nobody_and_is_given_up_after_a_day,
    a_trial_goes_first_and_ends_with_its_first_attempt,
    lost_nodes_are_told_to_whoever_asked,
);

fn terms(events: &[&str]) -> ChannelTerms {
    serde_json::from_value(json!({
        "severity": "warning", "events": events, "private_addresses": "refused", "digest_seconds": 300, "repeat_seconds": 86400
    }))
    .expect("terms")
}

fn make_as(
    world: &World,
    request: ChangeRequest,
    channel_name: &str,
    terms: &ChannelTerms,
) -> Result<(), Refusal> {
    let (channel_name, terms) = (name(channel_name), terms.clone());
    let target: Target =
        serde_json::from_value(json!({ "kind": "slack", "url": "https://a.example/canary" }))
            .expect("a target");
    world.change_as(request, move |tx, intent| {
        channel::create(
            tx,
            intent,
            &channel_name,
            &target,
            "https://a.example/…",
            &terms,
        )
        .map(drop)
    })
}

fn make(world: &World, channel_name: &str, events: &[&str]) {
    make_as(
        world,
        request("channel_create"),
        channel_name,
        &terms(events),
    )
    .expect("made");
}

fn messages(world: &World, channel_name: &str) -> Vec<Message> {
    let channel_name = channel_name.to_owned();
    world.read(move |tx| {
        let ChannelRecord { channel, .. } = channel::find(tx, &channel_name)?;
        let mut messages = channel::messages(tx, &channel.id, 100)?;
        messages.reverse();
        Ok(messages)
    })
}

fn kinds(message: &Message) -> Vec<&str> {
    let notices = message.notices.iter();
    notices.map(|notice| notice.kind.as_str()).collect()
}

fn claimed(world: &World) -> Vec<Delivery> {
    world
        .block_on(claim(&world.control, &BTreeSet::new()))
        .expect("claimed")
}

fn finished(world: &World, delivery: &Delivery, delivered: Delivered) {
    world
        .block_on(finish(&world.control, delivery, delivered))
        .expect("written down");
}

fn later(why: &str) -> Delivered {
    Delivered::Later {
        why: why.into(),
        after: None,
    }
}

/// Claims what is due; everything is accepted. Answers the ids.
fn deliver_all(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let deliveries = claimed(world);
        if deliveries.is_empty() {
            return ids;
        }
        for delivery in deliveries {
            ids.push(delivery.message.id());
            finished(world, &delivery, Delivered::Accepted);
        }
    }
}

fn wrong(item: Item, words: &str) -> StepEvidence {
    StepEvidence {
        item,
        step: "a step".into(),
        settings: "10 s".into(),
        fingerprint: "1".into(),
        seconds: 10.0,
        validity: Validity::Valid,
        failures: vec![words.into()],
        measurements: Vec::new(),
        remarks: Vec::new(),
    }
}

/// A run on n1 that tells `ops`, and finds these things.
fn run_that_finds(world: &mut World, evidence: Vec<StepEvidence>) {
    let wish = Wish {
        super_node: None,
        nodes: vec!["n1".into()],
        items: Vec::new(),
        tier: Tier::Quick,
        kernel_seconds: None,
        max_nodes: Share::ALL,
        window: Duration::from_mins(2),
        notify: vec![name("ops")],
    };
    world
        .change("stress_run", move |tx, intent| {
            stress_run(tx, intent, &wish)
        })
        .expect("accepted");
    world.settle();
    let desired = world.agent("n1").desired.clone();
    let key = desired
        .and_then(|desired| desired.stress)
        .expect("told")
        .key();
    let state = StressReportState::Ended { evidence };
    world.agent("n1").stress = Some(StressReport { key, state });
    world.settle();
}

fn released(world: &mut World) {
    world
        .change("node_release", |tx, intent| {
            release(tx, intent, "n1", "new DIMM", true).map(drop)
        })
        .expect("released");
    world.settle();
}

fn only_an_admin_lets_a_channel_lead_to_private_addresses(engine: Engine) {
    let world = World::empty(engine, crate::world::settings());
    let private: ChannelTerms = serde_json::from_value(json!({
        "severity": "warning", "private_addresses": "allowed", "digest_seconds": 300, "repeat_seconds": 86400
    }))
    .expect("terms");
    let operator = ChangeRequest {
        admin: false,
        ..request("channel_create")
    };
    let refused = make_as(&world, operator.clone(), "ops", &private);
    assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{refused:?}");
    assert_eq!(make_as(&world, operator, "ops", &terms(&[])), Ok(()));
    assert_eq!(
        make_as(&world, request("channel_create"), "net", &private),
        Ok(())
    );
    let taken = make_as(&world, request("channel_create"), "ops", &private);
    assert!(matches!(taken, Err(Refusal::AlreadyExists(_))), "{taken:?}");
    for bad in ["", "node lost", "NODE.*", "*.lost", "node.**"] {
        let refused = make_as(&world, request("channel_create"), "bad", &terms(&[bad]));
        assert!(
            matches!(refused, Err(Refusal::Invalid(_))),
            "{bad}: {refused:?}"
        );
    }
    let endless = ChannelTerms {
        repeat_seconds: u64::MAX,
        ..terms(&[])
    };
    let refused = make_as(&world, request("channel_create"), "bad", &endless);
    assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    let names = world.read(channel::list);
    assert_eq!(names.len(), 2);
}

fn a_channel_that_a_plan_names_stays(engine: Engine) {
    use supernode_control::stress_plan;
    let mut world = World::with_spares(engine, 1);
    world.created("train", 1);
    let plan = |notify: &[&str]| {
        let terms = serde_json::from_value(json!({
            "cron": "0 * * * *", "timezone": "UTC", "tier": "quick", "items": ["memory"], "max_nodes": "100%",
            "window_seconds": 600, "jitter_seconds": 0, "notify": notify
        }))
        .expect("terms");
        world.change("stress_plan_create", move |tx, intent| {
            stress_plan::create(tx, intent, "train", &terms)
        })
    };
    let refused = plan(&["ops"]);
    assert!(
        matches!(
            refused,
            Err(Refusal::NotFound {
                kind: "channel",
                ..
            })
        ),
        "{refused:?}"
    );
    make(&world, "ops", &[]);
    let plan = plan(&["ops", "ops"]).expect("made");
    assert_eq!(plan.terms.notify, [name("ops")]);
    let delete = || world.change("channel_delete", |tx, _| channel::delete(tx, "ops"));
    assert!(matches!(delete(), Err(Refusal::Conflict(why)) if why.contains(plan.id.as_str())));
    let id = plan.id.to_string();
    world
        .change("stress_plan_delete", move |tx, intent| {
            stress_plan::delete(tx, intent, &id)
        })
        .expect("deleted");
    assert_eq!(delete(), Ok(()));
}

fn the_findings_of_a_run_are_one_message_and_the_same_finding_is_told_once(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    make(&world, "ops", &[]);
    make(&world, "idle", &[]);
    let memory = || wrong(Item::Memory, "moving patterns: 3 wrong bytes");
    run_that_finds(
        &mut world,
        vec![memory(), wrong(Item::Compute, "core 3: digest")],
    );
    let told = messages(&world, "ops");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(told[0].topic, Topic::Run(_)));
    assert_eq!(
        kinds(&told[0]),
        ["node.quarantined", "stress.failed", "stress.failed"]
    );
    let parts: BTreeSet<_> = told[0]
        .notices
        .iter()
        .filter_map(|notice| notice.part.clone())
        .collect();
    assert_eq!(parts, ["compute".to_owned(), "memory".to_owned()].into());
    let notice = &told[0].notices[1];
    assert_eq!(notice.node, Some(name("n1")));
    assert!(notice.message.contains("plainly wrong"), "{notice:?}");
    // The run is over, so nothing more is waited for.
    assert!(told[0].due_at <= world.now());
    assert_eq!(messages(&world, "idle"), [], "no plan names it");

    // Other numbers are the same finding; another part is not.
    let again = wrong(Item::Memory, "moving patterns: 7 wrong bytes");
    run_that_finds(
        &mut world,
        vec![again, wrong(Item::Storage, "verify: 1 block")],
    );
    let told = messages(&world, "ops");
    assert_eq!(told.len(), 2, "{told:?}");
    // Its health is another one, because another run found it; that is no news either.
    assert_eq!(kinds(&told[1]), ["stress.failed"]);
    assert_eq!(told[1].notices[0].part.as_deref(), Some("storage"));
    assert_eq!(deliver_all(&world).len(), 2);

    world.wait(24 * 3600 + 1);
    world.settle();
    run_that_finds(&mut world, vec![memory()]);
    let told = messages(&world, "ops");
    assert_eq!(told.len(), 3, "a day later it is told again");
    assert!(kinds(&told[2]).contains(&"stress.failed"), "{told:?}");
}

fn what_was_told_as_wrong_is_told_as_over(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    make(&world, "ops", &[]);
    run_that_finds(&mut world, vec![wrong(Item::Memory, "3 wrong bytes")]);
    assert_eq!(deliver_all(&world).len(), 1);
    released(&mut world);
    let told = messages(&world, "ops");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(kinds(&told[1]), ["stress.failed", "node.quarantined"]);
    for notice in &told[1].notices {
        assert!(
            matches!(notice.status, NoticeStatus::Resolved { .. }),
            "{notice:?}"
        );
    }
    // After that the same finding is news.
    run_that_finds(&mut world, vec![wrong(Item::Memory, "3 wrong bytes")]);
    assert_eq!(messages(&world, "ops").len(), 3);
}

fn a_killed_server_neither_loses_nor_repeats_a_message(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    make(&world, "ops", &[]);
    run_that_finds(&mut world, vec![wrong(Item::Memory, "3 wrong bytes")]);
    world.restart();
    world.settle();
    let first = claimed(&world);
    assert_eq!(first.len(), 1);
    // Killed on the wire: the claim holds until it runs out, or until the next server says that nothing is on the wire.
    assert_eq!(claimed(&world), []);
    world.restart();
    world.settle();
    assert_eq!(claimed(&world), []);
    world
        .block_on(release_claims(&world.control))
        .expect("released");
    let second = claimed(&world);
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].message.id(), first[0].message.id(), "a stable id");
    assert_eq!(second[0].message.notices, first[0].message.notices);
    assert_eq!(second[0].message.attempts, 2);
    finished(&world, &second[0], Delivered::Accepted);
    world.restart();
    world
        .block_on(release_claims(&world.control))
        .expect("released");
    world.settle();
    assert_eq!(claimed(&world), []);
    let told = messages(&world, "ops");
    assert_eq!(told.len(), 1, "exactly one row");
    assert_eq!(told[0].state.word(), "delivered");
    // An answer that comes late, of the attempt of the killed server, changes nothing.
    finished(&world, &first[0], later("broken pipe"));
    assert_eq!(messages(&world, "ops"), told);
}

fn a_dead_channel_holds_up_nobody_and_is_given_up_after_a_day(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    make(&world, "ops", &["node.lost"]);
    make(&world, "dead", &["node.lost"]);
    world.lose("n1");
    world.settle();
    world.wait(10);
    let mut attempts = 0;
    let mut arrived = false;
    let metrics = |world: &World| {
        world
            .block_on(render(&world.control, &world.metrics))
            .expect("readable")
    };
    // Two days, as fast as it goes.
    for round in 0..400 {
        if round == 10 {
            let text = metrics(&world);
            assert!(text.contains("supernode_messages{channel=\"dead\",state=\"pending\"} 1\n"));
            assert!(text.contains("supernode_message_age_seconds{channel=\"dead\"} 43"));
            assert!(!text.contains("supernode_message_age_seconds{channel=\"ops\"}"));
        }
        for delivery in claimed(&world) {
            if delivery.channel.name == name("dead") {
                attempts += 1;
                finished(&world, &delivery, later("connection refused"));
            } else {
                assert!(!arrived, "told once");
                arrived = true;
                assert_eq!(attempts, 0, "in the first round");
                finished(&world, &delivery, Delivered::Accepted);
            }
        }
        world.wait(432);
    }
    assert!(arrived);
    assert!((90..=150).contains(&attempts), "{attempts}");
    let told = messages(&world, "dead");
    assert_eq!(told.len(), 1, "{told:?}");
    let MessageState::Failed { reason, .. } = &told[0].state else {
        panic!("{told:?}");
    };
    assert!(reason.contains("connection refused"), "{reason}");
    let text = metrics(&world);
    for count in ["dead\",state=\"failed", "ops\",state=\"delivered"] {
        assert!(text.contains(&format!("supernode_messages{{channel=\"{count}\"}} 1\n")));
    }
    let events = world.events();
    let failed: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "channel.failed")
        .collect();
    assert_eq!(failed.len(), 1, "people can see it");
    assert!(failed[0].message.contains("dead"), "{failed:?}");
    // Old messages are forgotten with the events; the told with them.
    world.wait(31 * 24 * 3600);
    world
        .block_on(service::housekeep(&world.control))
        .expect("kept");
    assert_eq!(messages(&world, "dead"), []);
}

fn a_trial_goes_first_and_ends_with_its_first_attempt(engine: Engine) {
    let mut world = World::with_spares(engine, 1);
    make(&world, "ops", &[]);
    run_that_finds(&mut world, vec![wrong(Item::Memory, "3 wrong bytes")]);
    let first = claimed(&world).remove(0);
    finished(&world, &first, later("no route"));
    assert_eq!(claimed(&world), [], "it is left alone for a while");
    let trial = world
        .change("channel_test", |tx, intent| {
            channel::test(tx, intent, "ops")
        })
        .expect("sent");
    let second = claimed(&world).remove(0);
    assert_eq!(second.message.id(), trial.id());
    finished(&world, &second, later("no route"));
    let told = messages(&world, "ops");
    assert_eq!(told[1].state.word(), "failed");
    assert_eq!(told[0].state.word(), "pending");
    let refused = world.change("channel_test", |tx, intent| {
        channel::test(tx, intent, "none")
    });
    assert!(matches!(refused, Err(Refusal::NotFound { .. })));
    world.wait(60);
    assert_eq!(deliver_all(&world), [first.message.id()]);
}

fn lost_nodes_are_told_to_whoever_asked(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    make(&world, "ops", &["node.*"]);
    make(&world, "jobs", &["job.*"]);
    for node in ["n1", "n2"] {
        world.agent(node).connected = false;
    }
    world.wait(11);
    world.settle();
    let told = messages(&world, "ops");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(kinds(&told[0]), ["node.lost", "node.lost"]);
    assert!(told[0].due_at > world.now(), "others may come");
    assert_eq!(claimed(&world), []);
    world.wait(5);
    assert_eq!(deliver_all(&world), [told[0].id()]);
    world.agent("n1").connected = true;
    world.settle();
    let told = messages(&world, "ops");
    assert_eq!(kinds(&told[1]), ["node.lost"]);
    assert!(matches!(
        told[1].notices[0].status,
        NoticeStatus::Resolved { .. }
    ));
    assert_eq!(messages(&world, "jobs"), []);
}
