//! Join tokens, machines and certificates.

use std::time::Duration;

use supernode_control::{Refusal, check_certificate, node, renew, token};
use supernode_types::node::{Membership, NodeCondition};
use supernode_types::{CertificateSerial, NodeId};

use crate::world::{Engine, JOIN_TOKEN, World, on_every_engine, settings};

on_every_engine!(
    a_token_enrols_as_often_as_it_says,
    tokens_that_are_unknown_over_or_revoked_enrol_nobody,
    the_same_machine_enrols_again_and_its_old_certificates_end,
    a_used_up_token_lets_nobody_take_over_another_node,
    another_machine_cannot_take_a_name,
    a_removed_node_may_come_back_as_a_new_one,
    a_certificate_is_renewed_while_it_is_valid,
    bad_enrolments_are_refused,
    an_address_that_changed_at_enrolment_reaches_the_members,
);

fn certificate_is_valid(world: &World, id: &NodeId, serial: &CertificateSerial) -> bool {
    let (id, serial, now) = (id.clone(), serial.clone(), world.now());
    world.read(move |tx| Ok(check_certificate(tx, &id, &serial, now).is_ok()))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "every caller passes what it just got"
)]
fn forbidden<T: std::fmt::Debug>(outcome: Result<T, Refusal>) {
    assert!(matches!(outcome, Err(Refusal::Forbidden(_))), "{outcome:?}");
}

fn a_token_enrols_as_often_as_it_says(engine: Engine) {
    let mut world = World::empty(engine, settings());
    world.join_token("two", 2);
    world.ask_to_enrol("two", "n1", "m1").expect("the first");
    world.ask_to_enrol("two", "n2", "m2").expect("the second");
    forbidden(world.ask_to_enrol("two", "n3", "m3"));
    world.restart();
    forbidden(world.ask_to_enrol("two", "n3", "m3"));
    let node = world.node("n1");
    assert_eq!(
        node.labels["pool"], "a",
        "the token's labels are the node's"
    );
    assert_eq!(
        (node.membership, node.condition),
        (Membership::Spare, NodeCondition::Unknown)
    );
}

fn tokens_that_are_unknown_over_or_revoked_enrol_nobody(engine: Engine) {
    let mut world = World::empty(engine, settings());
    forbidden(world.ask_to_enrol("unknown", "n1", "m1"));
    let id = world.join_token("revoked", 5);
    world
        .change("join_token_revoke", move |tx, intent| {
            token::revoke_join(tx, intent, &id).map(drop)
        })
        .expect("revoked");
    forbidden(world.ask_to_enrol("revoked", "n1", "m1"));
    world.join_token("short", 5);
    world.wait(3600);
    forbidden(world.ask_to_enrol("short", "n1", "m1"));
    assert_eq!(world.nodes(), []);
}

fn the_same_machine_enrols_again_and_its_old_certificates_end(engine: Engine) {
    let world = World::empty(engine, settings());
    world.join_token("once", 1);
    let first = world.ask_to_enrol("once", "n1", "m1").expect("the first");
    assert!(certificate_is_valid(&world, &first.id, &first.serial));
    // The answer was lost, or the disk: with the token that it came with, although that is used up.
    let again = world.ask_to_enrol("once", "n1", "m1").expect("again");
    assert_eq!(again.id, first.id);
    assert!(!certificate_is_valid(&world, &first.id, &first.serial));
    assert!(certificate_is_valid(&world, &again.id, &again.serial));
    assert_eq!(world.nodes().len(), 1);
    forbidden(world.ask_to_enrol("once", "n2", "m1"));
}

fn a_used_up_token_lets_nobody_take_over_another_node(engine: Engine) {
    let world = World::empty(engine, settings());
    world.join_token("first", 1);
    world.join_token("second", 1);
    world.ask_to_enrol("first", "n1", "m1").expect("the first");
    world
        .ask_to_enrol("second", "n2", "m2")
        .expect("the second");
    forbidden(world.ask_to_enrol("second", "n1", "m1"));
    world.join_token("third", 1);
    world
        .ask_to_enrol("third", "n1", "m1")
        .expect("a token with uses left proves the right");
    world
        .ask_to_enrol("third", "n3", "m3")
        .expect("and was not used up by that");
}

fn another_machine_cannot_take_a_name(engine: Engine) {
    let world = World::empty(engine, settings());
    world.join_token("many", 10);
    let first = world.ask_to_enrol("many", "n1", "m1").expect("enrolled");
    let other = world.ask_to_enrol("many", "n1", "m2");
    assert!(
        matches!(&other, Err(Refusal::AlreadyExists(message)) if message.contains("n1")),
        "{other:?}"
    );
    assert!(
        certificate_is_valid(&world, &first.id, &first.serial),
        "nothing of it was done"
    );
}

fn a_removed_node_may_come_back_as_a_new_one(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    let before = world.node("n2").id;
    let serial = world.agent("n2").serial.clone();
    world.remove("n2").expect("a spare");
    world.settle();
    assert!(!world.agent("n2").connected, "its connection is refused");
    assert!(!certificate_is_valid(&world, &before, &serial));
    let (id, present) = (before.clone(), serial.clone());
    let renewed = world.change("certificate_renew", move |tx, intent| {
        renew(tx, intent, &id, &present)
    });
    forbidden(renewed);
    let after = world
        .ask_to_enrol(JOIN_TOKEN, "n2", "machine-n2")
        .expect("the name is free");
    assert_ne!(after.id, before);
    let gone = before.to_string();
    assert_eq!(
        world.read(move |tx| node::find(tx, &gone)).policy.word(),
        "removed"
    );
    assert_eq!(world.node("n2").id, after.id);
    world.agents.insert("n2".into(), after);
    world.settle();
    assert_eq!(world.spares(), ["n1", "n2"]);
}

fn a_certificate_is_renewed_while_it_is_valid(engine: Engine) {
    let mut world = World::empty(engine, settings());
    world.join_token("many", 1);
    let agent = world.ask_to_enrol("many", "n1", "m1").expect("enrolled");
    let renewal = |world: &World, serial: &CertificateSerial| {
        let (id, serial) = (agent.id.clone(), serial.clone());
        world.change("certificate_renew", move |tx, intent| {
            renew(tx, intent, &id, &serial)
        })
    };
    world.wait(16 * 3600);
    let (next, ends_at) = renewal(&world, &agent.serial).expect("still valid");
    assert_eq!(ends_at, world.now().plus(Duration::from_hours(24)));
    world.wait(9 * 3600);
    assert!(
        !certificate_is_valid(&world, &agent.id, &agent.serial),
        "over"
    );
    assert!(certificate_is_valid(&world, &agent.id, &next));
    forbidden(renewal(&world, &agent.serial));
    let other = NodeId::new(world.now(), &supernode_types::entropy::SystemEntropy);
    assert!(
        !certificate_is_valid(&world, &other, &next),
        "a certificate is of one node"
    );
}

fn bad_enrolments_are_refused(engine: Engine) {
    let world = World::empty(engine, settings());
    world.join_token("many", 10);
    let known = world.ask_to_enrol("many", "n1", "m1").expect("enrolled");
    let refused = |name: &str, machine: &str| {
        let outcome = world.ask_to_enrol("many", name, machine);
        assert!(matches!(outcome, Err(Refusal::Invalid(_))), "{outcome:?}");
    };
    refused("n2", "");
    refused("n2", &"m".repeat(129));
    refused("n2", "m\n");
    // A name that is another node's id would make that node impossible to find.
    refused(known.id.as_str(), "m1");
    assert_eq!(world.nodes().len(), 1);
}

fn an_address_that_changed_at_enrolment_reaches_the_members(engine: Engine) {
    let mut world = World::with_spares(engine, 2);
    world.created("train", 2);
    let mut agent = world
        .ask_to_enrol(JOIN_TOKEN, "n2", "machine-n2")
        .expect("again");
    agent.address = "elsewhere.test".into();
    world.agents.insert("n2".into(), agent);
    world.settle();
    let environment = world.agent("n1").environment.clone().expect("n1 has one");
    let addresses: Vec<&str> = environment
        .members
        .iter()
        .map(|member| member.address.as_str())
        .collect();
    assert_eq!(addresses, ["n1.test", "elsewhere.test"]);
    assert_eq!(world.members("train"), ["n1", "n2"]);
}
