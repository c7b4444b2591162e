//! Adding nodes and creating super nodes.

use supernode_plan::operation::FOLLOW_UP;
use supernode_types::node::{Cordon, Membership, NodeHealth, NodePolicy, SpecMatch};
use supernode_types::operation::{OperationKind, OperationState, ProvisionState};
use supernode_types::{NodeId, OperationId, SuperNodeId};

use crate::build::{DEADLINE, UNTESTED, job_spec, limits};
use crate::model::Model;

/// `train` with one member, two spares `s1` and `s2`, and a scale-up by two.
fn growing() -> (Model, SuperNodeId, [NodeId; 2], OperationId) {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    let spares = ["s1", "s2"].map(|name| model.spare(name, 1));
    let operation = model
        .scale_up(UNTESTED, &super_node, 2, 0)
        .expect("two spares");
    model.reconcile();
    (model, super_node, spares, operation)
}

fn membership(model: &Model, node: &NodeId) -> &'static str {
    model.snapshot.nodes[node].membership.word()
}

fn failure(model: &Model, operation: &OperationId) -> String {
    match &model.ended_operations[operation] {
        OperationState::Failed { reason } => reason.clone(),
        other => panic!("not failed but {other:?}"),
    }
}

#[test]
fn spares_join_when_they_have_the_environment_and_all_know_of_them() {
    let (mut model, super_node, spares, operation) = growing();
    assert_eq!(membership(&model, &spares[0]), "joining");
    assert_eq!(
        model.waits_for(&operation),
        "node s1: environment revision 1 and the list of members are being applied (+1 more)"
    );
    for spare in &spares {
        model.apply_environment(spare);
    }
    model.reconcile();
    assert_eq!(model.snapshot.members(&super_node).count(), 3);
    assert_eq!(
        model.waits_for(&operation),
        "node n1 applies the new list of members"
    );
    model.settle();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
}

#[test]
fn a_lost_or_broken_member_does_not_hold_up_the_growth() {
    let (mut model, super_node, spares, operation) = growing();
    let old = model
        .snapshot
        .members(&super_node)
        .next()
        .expect("n1")
        .id
        .clone();
    model.silent(&old, model.limits.lost_after);
    for spare in &spares {
        model.apply_environment(spare);
    }
    model.reconcile();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
}

#[test]
fn the_item_that_fails_is_named_until_the_deadline_and_after_it() {
    let (mut model, super_node, spares, operation) = growing();
    model.apply_environment(&spares[0]);
    model.node(&spares[1]).environment_problems = vec!["file /etc/x failed: read-only".into()];
    model.reconcile();
    assert_eq!(
        model.waits_for(&operation),
        "node s2: environment revision 1: file /etc/x failed: read-only"
    );
    model.advance(DEADLINE);
    model.reconcile();
    assert_eq!(membership(&model, &spares[1]), "leaving");
    model.settle();
    let expected = "the deadline passed; 1 of 2 nodes joined; \
                    node s2: the deadline passed; it waited for this: environment revision 1: file /etc/x failed: read-only";
    assert_eq!(failure(&model, &operation), expected);
    assert_eq!(
        (
            membership(&model, &spares[1]),
            model.snapshot.members(&super_node).count()
        ),
        ("spare", 2)
    );
}

#[test]
fn a_node_that_cannot_be_cleaned_is_released_in_the_end_and_is_not_ready() {
    let (mut model, _, spares, operation) = growing();
    model.node(&spares[0]).environment_applied = 1;
    model.cancel(&operation);
    model.reconcile();
    assert_eq!(membership(&model, &spares[0]), "leaving");
    model.advance(DEADLINE + FOLLOW_UP);
    model.reconcile();
    assert_eq!(model.ended_operations[&operation].word(), "cancelled");
    let node = &model.snapshot.nodes[&spares[0]];
    assert_eq!(
        (node.membership.clone(), node.condition.word()),
        (Membership::Spare, "joining")
    );
}

#[test]
fn cancel_takes_back_what_is_not_ready_and_keeps_the_rest() {
    let (mut model, super_node, spares, operation) = growing();
    model.apply_environment(&spares[0]);
    model.reconcile();
    model.cancel(&operation);
    model.reconcile();
    model.settle();
    let OperationState::Cancelled { detail } = &model.ended_operations[&operation] else {
        panic!("cancelled")
    };
    assert!(
        detail.starts_with("1 of 2 nodes joined and stay; node s2: the operation was cancelled"),
        "{detail}"
    );
    assert_eq!(model.snapshot.members(&super_node).count(), 2);
}

#[test]
fn a_joining_node_that_is_lost_says_so_and_joins_when_it_is_back() {
    let (mut model, _, spares, operation) = growing();
    model.silent(&spares[0], model.limits.lost_after);
    model.apply_environment(&spares[1]);
    model.reconcile();
    assert_eq!(
        model.waits_for(&operation),
        "node s1: it is lost: its agent is silent"
    );
    model
        .snapshot
        .contacts
        .insert(spares[0].clone(), supernode_plan::Contact::Connected);
    model.settle();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
}

#[test]
fn what_an_operator_or_a_test_says_meanwhile_counts() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    let spares = ["s1", "s2"].map(|name| model.spare(name, 1));
    let operation = model
        .scale_up(UNTESTED, &super_node, 2, 0)
        .expect("two spares");
    model.node(&spares[0]).policy = NodePolicy::Cordoned(Cordon {
        by: "ada".into(),
        reason: "fan".into(),
    });
    model.reconcile();
    model.node(&spares[1]).health = NodeHealth::Quarantined {
        finding: "ECC".into(),
    };
    model.settle();
    assert_eq!(
        model.waits_for(&operation),
        "node s2: it is quarantined: ECC",
        "nothing joins out of quarantine"
    );
    model.node(&spares[1]).health = NodeHealth::Proven {
        run: "again".into(),
    };
    model.settle();
    let expected = "1 of 2 nodes joined; node s1: it is cordoned by ada (fan); uncordon it first";
    assert_eq!(failure(&model, &operation), expected);
}

#[test]
fn of_two_operations_that_name_one_spare_one_gets_it() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    let spare = model.spare("s1", 1);
    let operations = [(); 2]
        .map(|()| model.operation(UNTESTED, Some(&super_node), std::slice::from_ref(&spare)));
    model.settle();
    assert_eq!(
        model.ended_operations[&operations[0]],
        OperationState::Succeeded
    );
    assert_eq!(
        failure(&model, &operations[1]),
        "0 of 1 node joined; node s1: it was taken for something else"
    );
}

/// A scale-up of `train` by one node that a provisioner makes.
fn provisioning() -> (Model, OperationId) {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    let operation = model
        .scale_up(UNTESTED, &super_node, 0, 1)
        .expect("no spare is needed");
    model.reconcile();
    (model, operation)
}

fn provision(model: &mut Model, state: ProvisionState, node: Option<NodeId>) {
    let provision = model.snapshot.provisions.values_mut().next().expect("one");
    (provision.state, provision.node) = (state, node);
    model.reconcile();
}

#[test]
fn a_provisioned_node_is_made_enrols_and_joins() {
    let (mut model, operation) = provisioning();
    assert!(
        model
            .waits_for(&operation)
            .ends_with("the provisioner makes it")
    );
    provision(
        &mut model,
        ProvisionState::Creating {
            message: "quota is low".into(),
        },
        None,
    );
    assert!(
        model
            .waits_for(&operation)
            .ends_with("the provisioner makes it: quota is low")
    );
    provision(&mut model, ProvisionState::Created, None);
    assert!(
        model
            .waits_for(&operation)
            .ends_with("its agent has not enrolled yet")
    );
    let node = model.spare("made", 1);
    let spec = std::mem::replace(&mut model.node(&node).spec, SpecMatch::Unknown);
    provision(&mut model, ProvisionState::Created, Some(node.clone()));
    assert!(
        model
            .waits_for(&operation)
            .contains("waits for an inventory")
    );
    model.node(&node).spec = spec;
    model.settle();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
    assert_eq!(membership(&model, &node), "member");
}

#[test]
fn a_provisioner_that_fails_or_brings_the_wrong_node_fails_the_target() {
    let (mut model, operation) = provisioning();
    provision(
        &mut model,
        ProvisionState::Failed {
            reason: "no quota".into(),
        },
        None,
    );
    assert!(failure(&model, &operation).ends_with("the provisioner could not make it: no quota"));

    let (mut model, operation) = provisioning();
    let node = model.spare("made", 1);
    model.node(&node).position.hyperplane = Some("h7".into());
    provision(&mut model, ProvisionState::Created, Some(node.clone()));
    assert!(
        failure(&model, &operation)
            .ends_with("it was made, but it is in hyperplane h7, not h1; it stays as a spare")
    );
    assert_eq!(membership(&model, &node), "spare");
}

#[test]
fn a_provision_that_is_not_wanted_any_more_is_deleted() {
    let (mut model, operation) = provisioning();
    model.cancel(&operation);
    model.reconcile();
    assert_eq!(model.ended_operations[&operation].word(), "cancelled");
    assert!(matches!(
        model
            .snapshot
            .provisions
            .values()
            .next()
            .expect("still deleted")
            .state,
        ProvisionState::Deleting { .. }
    ));
}

#[test]
fn a_creation_without_a_member_leaves_nothing_behind() {
    let mut model = Model::new(limits());
    let spare = model.spare("s1", 1);
    let super_node = model.empty_super_node("train");
    let operation = model
        .scale_up(OperationKind::SuperNodeCreate, &super_node, 1, 0)
        .expect("one spare");
    model.reconcile();
    let job = model.submit(&super_node, job_spec(1));
    model.node(&spare).environment_applied = 1;
    model.cancel(&operation);
    model.reconcile();
    assert!(
        model.snapshot.super_nodes.contains_key(&super_node),
        "its node is not clean yet"
    );
    model.settle();
    assert_eq!(model.ended_operations[&operation].word(), "cancelled");
    assert!(model.snapshot.super_nodes.is_empty() && model.ended_jobs.contains_key(&job));
    assert_eq!(membership(&model, &spare), "spare");
}

#[test]
fn a_creation_keeps_the_members_that_it_has() {
    let mut model = Model::new(limits());
    let spares = ["s1", "s2"].map(|name| model.spare(name, 1));
    let super_node = model.empty_super_node("train");
    let operation = model
        .scale_up(OperationKind::SuperNodeCreate, &super_node, 2, 0)
        .expect("two spares");
    model.reconcile();
    model.apply_environment(&spares[1]);
    model.reconcile();
    model.advance(DEADLINE);
    model.reconcile();
    model.settle();
    assert_eq!(model.ended_operations[&operation].word(), "failed");
    assert!(model.snapshot.super_nodes.contains_key(&super_node));
}

#[test]
fn a_super_node_stays_while_another_operation_claims_a_node_for_it() {
    let mut model = Model::new(limits());
    let spare = model.spare("s1", 1);
    let super_node = model.empty_super_node("train");
    let growth = model
        .scale_up(UNTESTED, &super_node, 0, 1)
        .expect("it waits for a new node");
    let creation = model
        .scale_up(OperationKind::SuperNodeCreate, &super_node, 1, 0)
        .expect("one spare");
    model.cancel(&growth);
    model.reconcile();
    assert_eq!(membership(&model, &spare), "joining");
    assert!(model.snapshot.super_nodes.contains_key(&super_node));
    model.apply_environment(&spare);
    model.settle();
    assert_eq!(model.ended_operations[&growth].word(), "cancelled");
    assert_eq!(model.ended_operations[&creation].word(), "succeeded");
    assert_eq!(model.snapshot.members(&super_node).count(), 1);
}
