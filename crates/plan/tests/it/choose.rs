//! Which nodes a request takes.

use supernode_plan::choose::{Choice, blocking_jobs, check_named, choose_leavers, choose_spares};
use supernode_types::node::{Cordon, Node, NodeCondition, NodeHealth, NodePolicy, SpecMatch};
use supernode_types::{NodeId, SuperNodeId};

use crate::build::{UNTESTED, job_spec, limits};
use crate::model::Model;

fn names(model: &Model, choices: &[Choice]) -> Vec<String> {
    choices
        .iter()
        .map(|choice| model.snapshot.nodes[&choice.node].name.to_string())
        .collect()
}

fn spares(
    model: &mut Model,
    hyperplane: Option<&str>,
    existing: &[NodeId],
    count: usize,
) -> Result<Vec<String>, String> {
    let spec = model.spec("std");
    let existing: Vec<&Node> = existing
        .iter()
        .map(|id| &model.snapshot.nodes[id])
        .collect();
    let found = choose_spares(&model.snapshot, &spec, hyperplane, &existing, count);
    found
        .map(|choices| names(model, &choices))
        .map_err(|shortage| shortage.to_string())
}

#[test]
fn spares_are_near_the_members_then_near_each_other() {
    let mut model = Model::new(limits());
    let places = [
        ("a1", "r1", "l1"),
        ("a2", "r1", "l2"),
        ("b1", "r2", "l3"),
        ("b2", "r2", "l3"),
        ("b3", "r2", "l4"),
        ("m", "r1", "l2"),
    ];
    let nodes: Vec<NodeId> = places
        .iter()
        .map(|(name, rack, leaf)| model.spare_at(name, rack, leaf))
        .collect();
    let member = nodes[5].clone();
    model.super_node("train", std::slice::from_ref(&member));
    let h1 = Some("h1");
    assert_eq!(
        spares(&mut model, h1, std::slice::from_ref(&member), 1),
        Ok(vec!["a2".into()])
    );
    assert_eq!(
        spares(&mut model, h1, &[member], 3),
        Ok(vec!["a1".into(), "a2".into(), "b3".into()])
    );
    assert_eq!(
        spares(&mut model, h1, &[], 2),
        Ok(vec!["b1".into(), "b2".into()])
    );
}

#[test]
fn each_unusable_spare_comes_with_its_reason() {
    let mut model = Model::new(limits());
    let nodes: Vec<NodeId> = (1..=7)
        .map(|number| model.spare(&format!("n{number}"), 1))
        .collect();
    model.node(&nodes[0]).policy = NodePolicy::Cordoned(Cordon {
        by: "ada".into(),
        reason: "fan".into(),
    });
    model.node(&nodes[1]).health = NodeHealth::Quarantined {
        finding: "ECC".into(),
    };
    model.node(&nodes[2]).spec = SpecMatch::Differs {
        differences: vec!["the memory must be 2, but is 1".into()],
    };
    model.node(&nodes[3]).position.hyperplane = Some("h2".into());
    model.node(&nodes[4]).position.hyperplane = None;
    model.node(&nodes[5]).condition = NodeCondition::Lost {
        since: model.snapshot.now,
    };
    let spec = model.spec("std");
    let shortage =
        choose_spares(&model.snapshot, &spec, Some("h1"), &[], 2).expect_err("only n7 is left");
    let lines: Vec<String> = shortage
        .excluded
        .iter()
        .map(|(name, why)| format!("{name} {why}"))
        .collect();
    assert_eq!((shortage.wanted, shortage.found), (2, 1));
    assert_eq!(
        lines,
        [
            "n1 is cordoned by ada (fan); uncordon it first",
            "n2 is quarantined: ECC",
            "n3 does not match spec std: the memory must be 2, but is 1",
            "n4 is in hyperplane h2, not h1",
            "n5 must be in hyperplane h1, but where it is is not known; label it",
            "n6 is lost: its agent is silent",
        ]
    );
    assert!(
        shortage
            .to_string()
            .starts_with("2 spares wanted, 1 usable; not usable: n1 is cordoned")
    );
    assert_eq!(
        spares(&mut model, Some("h1"), &[], 1),
        Ok(vec!["n7".into()])
    );
}

#[test]
fn a_new_super_node_takes_one_hyperplane_with_enough_spares() {
    let mut model = Model::new(limits());
    for (name, hyperplane) in [
        ("a1", Some("ha")),
        ("b1", Some("hb")),
        ("b2", Some("hb")),
        ("u1", None),
        ("u2", None),
        ("u3", None),
    ] {
        let node = model.spare(name, 1);
        model.node(&node).position.hyperplane = hyperplane.map(Into::into);
    }
    assert_eq!(
        spares(&mut model, None, &[], 1),
        Ok(vec!["a1".into()]),
        "the one with the fewest left over"
    );
    assert_eq!(
        spares(&mut model, None, &[], 2),
        Ok(vec!["b1".into(), "b2".into()])
    );
    assert_eq!(
        spares(&mut model, None, &[], 3),
        Ok(vec!["u1".into(), "u2".into(), "u3".into()])
    );
    assert!(
        spares(&mut model, None, &[], 4)
            .is_err_and(|text| text.starts_with("4 spares wanted, 3 usable"))
    );
}

#[test]
fn what_is_nowhere_joins_only_what_is_nowhere() {
    let mut model = Model::new(limits());
    let (known, unknown, member) = (
        model.spare("known", 1),
        model.spare("unknown", 1),
        model.spare("member", 1),
    );
    for node in [&unknown, &member] {
        model.node(node).position.hyperplane = None;
    }
    model.super_node("train", std::slice::from_ref(&member));
    assert_eq!(
        spares(&mut model, None, std::slice::from_ref(&member), 1),
        Ok(vec!["unknown".into()])
    );
    assert!(
        spares(&mut model, None, std::slice::from_ref(&member), 2)
            .is_err_and(|text| text.contains("known is in hyperplane h1, but where"))
    );
    assert_eq!(
        spares(&mut model, Some("h1"), &[member], 1),
        Ok(vec!["known".into()])
    );
    assert!(model.snapshot.nodes.contains_key(&known));
}

#[test]
fn suspects_come_last_whatever_their_place() {
    let mut model = Model::new(limits());
    let nodes: Vec<NodeId> = [("a1", "r1"), ("a2", "r1"), ("b1", "r2")]
        .iter()
        .map(|(name, rack)| model.spare_at(name, rack, "l"))
        .collect();
    model.node(&nodes[0]).health = NodeHealth::Suspect {
        finding: "slow".into(),
    };
    assert_eq!(
        spares(&mut model, None, &[], 2),
        Ok(vec!["a2".into(), "b1".into()])
    );
    assert_eq!(
        spares(&mut model, None, &[], 3),
        Ok(vec!["a1".into(), "a2".into(), "b1".into()])
    );
}

#[test]
fn a_spare_that_an_open_operation_wants_is_not_given_twice() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    model.spare("free", 1);
    assert!(model.scale_up(UNTESTED, &super_node, 1, 0).is_some());
    assert!(model.scale_up(UNTESTED, &super_node, 1, 0).is_none());
}

#[test]
fn named_nodes_are_all_checked() {
    let mut model = Model::new(limits());
    let (_, members) = model.train(1, 1);
    let good = model.spare("good", 1);
    let far = model.spare("far", 1);
    model.node(&far).position.hyperplane = Some("h9".into());
    let spec = model.spec("std");
    let node = |id: &NodeId| &model.snapshot.nodes[id];
    let check =
        |hyperplane, named: &[&Node]| check_named(&model.snapshot, &spec, hyperplane, &[], named);
    assert_eq!(
        check(Some("h1"), &[node(&good)]).map(|choices| choices.len()),
        Ok(1)
    );
    let refused = check(
        None,
        &[node(&good), node(&far), node(&good), node(&members[0])],
    )
    .expect_err("three cannot");
    assert_eq!(
        refused.to_string(),
        "far is in hyperplane h9, not h1, good is named twice, n1 belongs to super node train"
    );
}

fn leavers(
    model: &Model,
    super_node: &SuperNodeId,
    count: usize,
    only_idle: bool,
) -> Result<Vec<String>, String> {
    choose_leavers(&model.snapshot, super_node, count, only_idle)
        .map(|choices| names(model, &choices))
        .map_err(|shortage| shortage.to_string())
}

#[test]
fn idle_broken_and_lonely_nodes_leave_first() {
    let mut model = Model::new(limits());
    let places = [
        ("a1", "r1"),
        ("a2", "r1"),
        ("a3", "r1"),
        ("b1", "r2"),
        ("c1", "r3"),
        ("c2", "r3"),
    ];
    let nodes: Vec<NodeId> = places
        .iter()
        .map(|(name, rack)| model.spare_at(name, rack, "l"))
        .collect();
    let super_node = model.super_node("train", &nodes);
    model.node(&nodes[1]).condition = NodeCondition::Lost {
        since: model.snapshot.now,
    };
    assert_eq!(
        leavers(&model, &super_node, 4, true),
        Ok(["a2", "b1", "c2", "c1"].map(String::from).to_vec())
    );
    let because = &choose_leavers(&model.snapshot, &super_node, 1, true)
        .expect("there are idle ones")[0]
        .because;
    assert_eq!(because, "idle, lost, 3 members in rack r1");
    assert!(
        leavers(&model, &super_node, 6, true)
            .is_err_and(|text| text.contains("keeps at least one node"))
    );
}

#[test]
fn busy_nodes_leave_only_when_asked_and_their_jobs_are_listed() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(3, 1);
    let job = model.running(&super_node, job_spec(2));
    assert_eq!(leavers(&model, &super_node, 1, true), Ok(vec!["n3".into()]));
    assert_eq!(
        leavers(&model, &super_node, 2, true),
        Err(format!(
            "2 nodes should leave and 1 can; jobs run: {job} on n1, n2"
        ))
    );
    assert_eq!(
        leavers(&model, &super_node, 2, false),
        Ok(vec!["n3".into(), "n2".into()])
    );
    let blocking = blocking_jobs(&model.snapshot, &nodes[..1]);
    assert_eq!(
        (
            blocking.len(),
            blocking[0].nodes.len(),
            blocking[0].name.as_str()
        ),
        (1, 1, "job")
    );
}
