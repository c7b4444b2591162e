//! Taking a spare out for good.

use supernode_types::operation::{OperationKind, OperationState, Provision, ProvisionState};
use supernode_types::{NodeId, OperationId, ProvisionId};

use crate::build::{DEADLINE, limits};
use crate::model::Model;

/// A spare that a provisioner made is being removed.
fn removing() -> (Model, NodeId, OperationId) {
    let mut model = Model::new(limits());
    let super_node = model.train(1, 1).0;
    let node = model.spare("made", 1);
    let id = ProvisionId::new(model.snapshot.now, &model.entropy);
    model.node(&node).provision = Some(id.clone());
    let provision = Provision {
        id: id.clone(),
        operation: OperationId::new(model.snapshot.now, &model.entropy),
        super_node,
        node_name: "made".into(),
        node: Some(node.clone()),
        state: ProvisionState::Created,
        calls: 1,
        next_call_at: model.snapshot.now,
    };
    model.snapshot.provisions.insert(id, provision);
    let operation = model.operation(OperationKind::NodeRemove, None, std::slice::from_ref(&node));
    model.reconcile();
    (model, node, operation)
}

fn deletion(model: &mut Model, state: ProvisionState) {
    let provision = model.snapshot.provisions.values_mut().next().expect("one");
    assert!(
        matches!(provision.state, ProvisionState::Deleting { .. }),
        "the provisioner was asked"
    );
    provision.state = state;
    model.reconcile();
}

#[test]
fn an_enrolled_spare_goes_at_once() {
    let mut model = Model::new(limits());
    let node = model.spare("n1", 1);
    let operation = model.operation(OperationKind::NodeRemove, None, std::slice::from_ref(&node));
    model.reconcile();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
    assert!(model.snapshot.nodes.is_empty());
}

#[test]
fn a_member_is_not_removed() {
    let mut model = Model::new(limits());
    let (_, nodes) = model.train(1, 1);
    let operation = model.operation(OperationKind::NodeRemove, None, &nodes);
    model.reconcile();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Failed {
            reason: "node n1: it is not a spare any more".into()
        }
    );
}

#[test]
fn a_provisioned_spare_goes_when_its_machine_is_gone() {
    let (mut model, node, operation) = removing();
    deletion(
        &mut model,
        ProvisionState::Deleting {
            message: "powering off".into(),
        },
    );
    assert_eq!(
        model.waits_for(&operation),
        "node made: its provisioner deletes it: powering off"
    );
    deletion(&mut model, ProvisionState::Deleted);
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
    assert!(!model.snapshot.nodes.contains_key(&node));
}

#[test]
fn a_provisioner_that_cannot_or_does_not_delete_fails_it() {
    let (mut model, node, operation) = removing();
    deletion(
        &mut model,
        ProvisionState::Failed {
            reason: "locked".into(),
        },
    );
    let expected = OperationState::Failed {
        reason: "node made: its provisioner cannot delete it: locked".into(),
    };
    assert_eq!(model.ended_operations[&operation], expected);
    assert!(model.snapshot.nodes.contains_key(&node));

    let (mut model, _, operation) = removing();
    model.advance(DEADLINE);
    model.reconcile();
    assert_eq!(model.ended_operations[&operation].word(), "failed");
}
