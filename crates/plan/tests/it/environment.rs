//! Rolling out an environment revision.

use supernode_types::operation::OperationState;
use supernode_types::{NodeId, OperationId};

use crate::build::{DEADLINE, limits};
use crate::model::Model;

fn changing() -> (Model, Vec<NodeId>, OperationId) {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let operation = model.change_environment(&super_node);
    model.reconcile();
    (model, nodes, operation)
}

#[test]
fn it_is_done_when_every_member_that_is_not_lost_has_it() {
    let (mut model, nodes, operation) = changing();
    assert_eq!(
        model.waits_for(&operation),
        "node n1: environment revision 2 is being applied (+1 more)"
    );
    model.apply_environment(&nodes[0]);
    model.reconcile();
    assert_eq!(
        model.waits_for(&operation),
        "node n2: environment revision 2 is being applied"
    );
    model.silent(&nodes[1], model.limits.lost_after);
    model.reconcile();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
}

#[test]
fn a_failed_item_is_named_and_fails_it_at_the_deadline() {
    let (mut model, nodes, operation) = changing();
    model.apply_environment(&nodes[0]);
    let node = model.node(&nodes[1]);
    (node.environment_applied, node.environment_problems) =
        (2, vec!["sysctl a.b failed: no such key".into()]);
    model.reconcile();
    assert_eq!(
        model.waits_for(&operation),
        "node n2: environment revision 2: sysctl a.b failed: no such key"
    );
    model.advance(DEADLINE);
    model.reconcile();
    let expected =
        "the deadline passed; node n2: environment revision 2: sysctl a.b failed: no such key";
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Failed {
            reason: expected.into()
        }
    );
}

#[test]
fn a_newer_change_takes_over() {
    let (mut model, _, operation) = changing();
    let super_node = model
        .snapshot
        .super_nodes
        .keys()
        .next()
        .expect("one")
        .clone();
    let newer = model.change_environment(&super_node);
    model.reconcile();
    let expected = OperationState::Failed {
        reason: format!("superseded by {newer} (revision 3)"),
    };
    assert_eq!(model.ended_operations[&operation], expected);
    model.settle();
    assert_eq!(model.ended_operations[&newer], OperationState::Succeeded);
}

#[test]
fn a_cancelled_change_stays_in_force_and_says_how_to_go_back() {
    let (mut model, _, operation) = changing();
    model.cancel(&operation);
    model.reconcile();
    let OperationState::Cancelled { detail } = &model.ended_operations[&operation] else {
        panic!("cancelled")
    };
    assert!(
        detail.contains("revision 2 stays in force")
            && detail.contains("set the former one to go back")
    );
}
