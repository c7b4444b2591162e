//! Taking nodes out, and taking super nodes apart.

use supernode_types::job::JobOutcome;
use supernode_types::node::{Cordon, Membership, NodePolicy};
use supernode_types::operation::OperationState;
use supernode_types::super_node::DrainMode;
use supernode_types::{NodeId, OperationId};

use crate::build::{DEADLINE, UNTESTED, exited, job_spec, limits, stopped};
use crate::model::Model;

fn word(model: &Model, operation: &OperationId) -> &'static str {
    model
        .ended_operations
        .get(operation)
        .map_or("running", OperationState::word)
}

fn is_spare(model: &Model, node: &NodeId) -> bool {
    model.snapshot.nodes[node].membership == Membership::Spare
}

#[test]
fn an_idle_node_leaves_is_cleaned_and_is_a_spare_as_it_was_before() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let cordon = NodePolicy::Cordoned(Cordon {
        by: "ada".into(),
        reason: "fan".into(),
    });
    model.node(&nodes[0]).policy = cordon.clone();
    let operation = model.scale_down(&super_node, &nodes[..1], DrainMode::Refuse);
    model.reconcile();
    assert_eq!(
        model.waits_for(&operation),
        "node n1: its environment is being removed"
    );
    model.settle();
    assert_eq!(word(&model, &operation), "succeeded");
    assert!(is_spare(&model, &nodes[0]));
    assert_eq!(model.snapshot.nodes[&nodes[0]].policy, cordon);
}

#[test]
fn waiting_names_the_job_and_ends_when_it_does() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let job = model.running(&super_node, job_spec(1));
    let operation = model.scale_down(&super_node, &nodes, DrainMode::Wait);
    model
        .snapshot
        .operations
        .get_mut(&operation)
        .expect("open")
        .targets
        .pop();
    model.node(&nodes[1]).policy = NodePolicy::InService;
    model.reconcile();
    assert_eq!(model.waits_for(&operation), format!("node n1: {job} on it"));
    model.set_ranks(&job, &exited(0));
    model.reconcile();
    model.settle();
    assert_eq!(
        (word(&model, &operation), &model.ended_jobs[&job]),
        ("succeeded", &JobOutcome::Succeeded)
    );
}

#[test]
fn at_the_deadline_what_has_left_has_left_and_the_rest_is_back_in_service() {
    for cancel in [false, true] {
        let mut model = Model::new(limits());
        let (super_node, nodes) = model.train(3, 1);
        let job = model.running(&super_node, job_spec(1));
        let operation = model.scale_down(&super_node, &nodes[..2], DrainMode::Wait);
        model.reconcile();
        if cancel {
            model.cancel(&operation);
        } else {
            model.advance(DEADLINE);
        }
        model.reconcile();
        assert_eq!(
            model.snapshot.nodes[&nodes[0]].policy,
            NodePolicy::InService
        );
        assert_eq!(
            word(&model, &operation),
            "running",
            "n2 is still being cleaned"
        );
        model.settle();
        let (end, cause) = if cancel {
            ("cancelled", "the operation was cancelled")
        } else {
            ("failed", "the deadline passed")
        };
        assert_eq!(word(&model, &operation), end);
        let text = format!("{:?}", model.ended_operations[&operation]);
        assert!(
            text.contains(&format!(
                "1 of 2 nodes left; node n1: back as it was before ({cause}); {job} on it"
            )),
            "{text}"
        );
        assert!(is_spare(&model, &nodes[1]) && !is_spare(&model, &nodes[0]));
    }
}

#[test]
fn eviction_moves_the_job_and_then_the_node_leaves() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let job = model.running(&super_node, job_spec(1));
    let operation = model.scale_down(
        &super_node,
        &nodes[..1],
        DrainMode::Evict { grace_seconds: 1 },
    );
    model.reconcile();
    model.set_ranks(&job, &stopped());
    model.reconcile();
    assert_eq!(model.placed(&job), ["n2"]);
    model.settle();
    assert_eq!(word(&model, &operation), "succeeded");
}

#[test]
fn a_lost_node_leaves_without_being_cleaned_and_is_cleaned_when_it_returns() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let operation = model.scale_down(&super_node, &nodes[..1], DrainMode::Refuse);
    model.silent(&nodes[0], model.limits.lost_after);
    model.reconcile();
    assert_eq!(word(&model, &operation), "succeeded");
    model
        .snapshot
        .contacts
        .insert(nodes[0].clone(), supernode_plan::Contact::Connected);
    model.reconcile();
    assert_eq!(model.snapshot.nodes[&nodes[0]].condition.word(), "joining");
    model.settle();
    assert_eq!(model.snapshot.nodes[&nodes[0]].condition.word(), "ready");
}

#[test]
fn the_last_member_stays_also_when_two_operations_take_one_each() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let operations = [&nodes[..1], &nodes[1..]]
        .map(|nodes| model.scale_down(&super_node, nodes, DrainMode::Refuse));
    model.reconcile();
    model.settle();
    assert_eq!(
        (
            word(&model, &operations[0]),
            model.snapshot.members(&super_node).count()
        ),
        ("succeeded", 1)
    );
    assert_eq!(
        model.waits_for(&operations[1]),
        "node n2: it is the last member, and a super node keeps at least one"
    );
    model.advance(DEADLINE);
    model.reconcile();
    assert_eq!(word(&model, &operations[1]), "failed");
}

#[test]
fn a_joining_node_is_no_reason_to_let_the_last_member_go() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(1, 1);
    model.spare("s1", 1);
    model
        .scale_up(UNTESTED, &super_node, 1, 0)
        .expect("one spare");
    model.reconcile();
    let operation = model.scale_down(&super_node, &nodes, DrainMode::Refuse);
    model.reconcile();
    assert_eq!(word(&model, &operation), "running");
    assert_eq!(model.snapshot.members(&super_node).count(), 1);
    model.settle();
    assert_eq!(
        (word(&model, &operation), is_spare(&model, &nodes[0])),
        ("succeeded", true)
    );
}

#[test]
fn a_super_node_is_deleted_with_its_queue_when_all_its_nodes_are_clean() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let operation = model.delete(&super_node);
    let job = model.submit(&super_node, job_spec(1));
    model.reconcile();
    assert_eq!(
        model.waits_for(&operation),
        "node n1: its environment is being removed (+1 more)"
    );
    model.settle();
    assert_eq!(word(&model, &operation), "succeeded");
    assert!(
        model.snapshot.super_nodes.is_empty()
            && is_spare(&model, &nodes[0])
            && is_spare(&model, &nodes[1])
    );
    assert!(matches!(
        &model.ended_jobs[&job],
        JobOutcome::Cancelled { .. }
    ));
    assert!(
        model
            .snapshot
            .nodes
            .values()
            .all(|node| node.policy == NodePolicy::InService)
    );
}

#[test]
fn a_deletion_can_be_cancelled_until_the_first_node_leaves() {
    let mut model = Model::new(limits());
    let (super_node, nodes) = model.train(2, 1);
    let job = model.running(&super_node, job_spec(1));
    let operation = model.delete(&super_node);
    model.reconcile();
    assert_eq!(model.waits_for(&operation), format!("{job} on its nodes"));
    model.cancel(&operation);
    model.reconcile();
    assert_eq!(word(&model, &operation), "cancelled");
    assert!(model.snapshot.super_nodes[&super_node].deleting.is_none());
    assert!(
        nodes
            .iter()
            .all(|node| model.snapshot.nodes[node].policy == NodePolicy::InService)
    );

    model.set_ranks(&job, &exited(0));
    let operation = model.delete(&super_node);
    model.reconcile();
    model.cancel(&operation);
    model.reconcile();
    assert!(
        model
            .waits_for(&operation)
            .ends_with("(too late to cancel: nodes have left)")
    );
    model.settle();
    assert_eq!(word(&model, &operation), "succeeded");
}

#[test]
fn a_deletion_takes_an_open_scale_up_with_it() {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 1);
    model.spare("s1", 1);
    let growth = model
        .scale_up(UNTESTED, &super_node, 1, 0)
        .expect("one spare");
    model.reconcile();
    let deletion = model.delete(&super_node);
    model.reconcile();
    model.settle();
    assert_eq!(
        (word(&model, &growth), word(&model, &deletion)),
        ("failed", "succeeded")
    );
}
