//! What is known of a node.

use std::time::Duration;

use supernode_plan::{Action, Contact, condition};
use supernode_types::node::{Node, NodeCondition, SpecMatch};
use supernode_types::{NodeId, OperationId};

use crate::build::limits;
use crate::model::Model;

/// The new condition of a node, if it changes.
fn change(model: &Model, node: &NodeId) -> Option<NodeCondition> {
    condition::plan(&model.snapshot, &model.limits)
        .into_iter()
        .find_map(|action| match action {
            Action::SetCondition {
                node: found,
                condition,
            } if found == *node => Some(condition),
            _ => None,
        })
}

fn member() -> (Model, NodeId) {
    let mut model = Model::new(limits());
    let (_, nodes) = model.train(1, 1);
    (model, nodes[0].clone())
}

fn joining(model: &mut Model, node: &NodeId) {
    let super_node = model
        .snapshot
        .super_nodes
        .keys()
        .next()
        .expect("one")
        .clone();
    let operation = OperationId::new(model.snapshot.now, &model.entropy);
    model.node(node).membership = supernode_types::node::Membership::Joining {
        super_node,
        operation,
    };
}

fn line(condition: Option<NodeCondition>) -> String {
    condition.map_or_else(
        || "no change".into(),
        |condition| {
            format!(
                "{}: {}",
                condition.word(),
                condition.detail().unwrap_or_default()
            )
        },
    )
}

#[test]
fn a_silent_node_is_lost_once_and_an_unheard_one_stays_unknown() {
    let (mut model, node) = member();
    let lost = NodeCondition::Lost {
        since: model.snapshot.now,
    };
    model.silent(&node, Duration::from_millis(9_999));
    assert_eq!(change(&model, &node), None);
    model.silent(&node, Duration::from_secs(10));
    assert_eq!(change(&model, &node), Some(lost.clone()));
    model.node(&node).condition = lost;
    model.advance(Duration::from_secs(5));
    assert_eq!(change(&model, &node), None, "the time of the loss stays");
    model.node(&node).condition = NodeCondition::Unknown;
    assert_eq!(change(&model, &node), None);
    model.snapshot.contacts.clear();
    model.node(&node).condition = NodeCondition::Ready;
    assert_eq!(
        change(&model, &node),
        None,
        "without a word from the caller nothing is known anew"
    );
}

#[test]
fn a_returning_node_is_ready_when_it_has_all_it_needs() {
    let (mut model, node) = member();
    model.node(&node).condition = NodeCondition::Lost {
        since: model.snapshot.now,
    };
    assert_eq!(change(&model, &node), Some(NodeCondition::Ready));
    model.node(&node).environment_applied = 0;
    assert_eq!(
        line(change(&model, &node)),
        "joining: environment revision 1 and the list of members are being applied"
    );
}

#[test]
fn a_ready_member_that_only_lags_stays_ready_and_a_joining_node_does_not() {
    let (mut model, node) = member();
    model
        .snapshot
        .super_nodes
        .values_mut()
        .for_each(|super_node| super_node.environment_generation = 7);
    assert_eq!(change(&model, &node), None);
    joining(&mut model, &node);
    assert_eq!(
        line(change(&model, &node)),
        "joining: environment revision 1 and the list of members are being applied"
    );
}

#[test]
fn problems_degrade_a_member_and_hold_a_joining_node() {
    let (mut model, node) = member();
    model.node(&node).environment_problems = vec![
        "file /etc/x failed: read-only".into(),
        "sysctl a drifted: 1".into(),
    ];
    assert_eq!(
        line(change(&model, &node)),
        "degraded: environment revision 1: file /etc/x failed: read-only (+1 more)"
    );
    joining(&mut model, &node);
    assert_eq!(
        line(change(&model, &node)),
        "joining: environment revision 1: file /etc/x failed: read-only (+1 more)"
    );
    model.apply_environment(&node);
    model.node(&node).condition = NodeCondition::Degraded { why: "x".into() };
    assert_eq!(change(&model, &node), Some(NodeCondition::Ready));
}

#[test]
fn other_hardware_degrades_a_member_and_names_the_fact() {
    let (mut model, node) = member();
    model.node(&node).spec = SpecMatch::Differs {
        differences: vec!["the memory must be 2 TiB, but is 1 TiB".into()],
    };
    assert_eq!(
        line(change(&model, &node)),
        "degraded: its hardware is not as declared: the memory must be 2 TiB, but is 1 TiB"
    );
    let spec = model.spec("other");
    model.node(&node).spec = SpecMatch::Matches { spec };
    assert_eq!(
        line(change(&model, &node)),
        "degraded: its hardware matches spec other, but train asks std"
    );
    model.node(&node).spec = SpecMatch::Unknown;
    assert_eq!(
        change(&model, &node),
        None,
        "a verdict that is missing is no verdict"
    );
}

#[test]
fn a_spare_is_ready_when_it_is_clean_and_known() {
    let mut model = Model::new(limits());
    let node = model.spare("n1", 1);
    model.node(&node).environment_applied = 3;
    assert_eq!(
        line(change(&model, &node)),
        "joining: the environment of its former super node is being removed"
    );
    model.node(&node).environment_applied = 0;
    model.node(&node).spec = SpecMatch::Unknown;
    assert_eq!(
        line(change(&model, &node)),
        "joining: waits for an inventory and for a declared spec to compare it with"
    );
    model.node(&node).agent_version = String::new();
    assert_eq!(
        line(change(&model, &node)),
        "joining: waits for the first report of its agent"
    );
}

#[test]
fn people_are_told_of_what_matters_and_not_of_steps() {
    let (mut model, node) = member();
    let kind =
        |node: &Node, after: &NodeCondition| condition::event(node, after).map(|event| event.kind);
    let lost = NodeCondition::Lost {
        since: model.snapshot.now,
    };
    let step = NodeCondition::Joining { step: "x".into() };
    assert_eq!(kind(model.node(&node), &lost), Some("node.lost"));
    assert_eq!(
        kind(
            model.node(&node),
            &NodeCondition::Degraded { why: "x".into() }
        ),
        Some("node.degraded")
    );
    assert_eq!(kind(model.node(&node), &step), None);
    model.node(&node).condition = lost;
    assert_eq!(kind(model.node(&node), &step), Some("node.returned"));
    assert_eq!(
        kind(model.node(&node), &NodeCondition::Ready),
        Some("node.returned")
    );
    model.node(&node).condition = step;
    assert_eq!(
        kind(model.node(&node), &NodeCondition::Ready),
        Some("node.ready")
    );
}

#[test]
fn nothing_is_placed_on_what_was_true_a_moment_ago() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(1, 1);
    let job = model.submit(&super_node, crate::build::job_spec(1));
    model
        .snapshot
        .contacts
        .insert(nodes[0].clone(), Contact::Silent(Duration::from_mins(1)));
    model.reconcile();
    assert_eq!(model.reason(&job), "waits for 1 node: 1 lost (n1)");
}
