//! Spares that take the place of members.

use std::time::Duration;

use supernode_plan::Action;
use supernode_types::node::{Membership, NodeHealth, NodePolicy};
use supernode_types::operation::{Admission, OperationState};
use supernode_types::stress::ReplacementTry;
use supernode_types::super_node::DrainMode;
use supernode_types::{NodeId, OperationId, SuperNodeId};

use crate::build::{DEADLINE, exited, job_spec, limits};
use crate::model::Model;

struct Case {
    model: Model,
    super_node: SuperNodeId,
    members: Vec<NodeId>,
    spare: NodeId,
}

/// `train` with members n1 and n2, and the spare s1.
fn case() -> Case {
    let mut model = Model::new(limits());
    let (super_node, members) = model.train(2, 1);
    let spare = model.spare("s1", 1);
    Case {
        model,
        super_node,
        members,
        spare,
    }
}

impl Case {
    fn replace(&mut self, mode: DrainMode) -> OperationId {
        let (super_node, node, spare) = (&self.super_node, &self.members[0], &self.spare);
        self.model
            .replace(super_node, node, spare, Admission::None, mode)
    }

    /// A test has quarantined n1 of a super node whose members are replaced by themselves.
    fn quarantine(&mut self) {
        self.model.replace_automatically(&self.super_node);
        self.model.node(&self.members[0]).health = NodeHealth::Quarantined {
            finding: "ECC".into(),
        };
    }

    fn memberships(&self) -> (&'static str, &'static str) {
        let word = |node| self.model.snapshot.nodes[node].membership.word();
        (word(&self.members[0]), word(&self.spare))
    }

    fn end(&self, operation: &OperationId) -> &OperationState {
        &self.model.ended_operations[operation]
    }

    fn only_operation(&self) -> OperationId {
        let mut open = self.model.snapshot.operations.keys();
        let first = open.next().expect("one is open").clone();
        assert_eq!(open.next(), None);
        first
    }
}

#[test]
fn the_member_leaves_when_the_spare_has_joined_and_not_before() {
    let mut case = case();
    let operation = case.replace(DrainMode::Refuse);
    case.model.reconcile();
    assert_eq!(case.memberships(), ("member", "joining"));
    let policy = &case.model.snapshot.nodes[&case.members[0]].policy;
    assert_eq!(*policy, NodePolicy::InService, "jobs may still run on it");
    let waits_for = case.model.waits_for(&operation);
    assert!(waits_for.starts_with("node s1: "), "{waits_for}");
    case.model.settle();
    assert_eq!(case.memberships(), ("spare", "member"));
    assert_eq!(*case.end(&operation), OperationState::Succeeded);
    let policy = &case.model.snapshot.nodes[&case.members[0]].policy;
    assert_eq!(*policy, NodePolicy::InService);
}

#[test]
fn jobs_on_the_member_finish_and_the_last_member_can_be_replaced() {
    let mut model = Model::new(limits());
    let (super_node, members) = model.train(1, 1);
    let spare = model.spare("s1", 1);
    let job = model.running(&super_node, job_spec(1));
    let mode = DrainMode::Wait;
    let operation = model.replace(&super_node, &members[0], &spare, Admission::None, mode);
    model.settle();
    assert_eq!(model.waits_for(&operation), format!("node n1: {job} on it"));
    model.set_ranks(&job, &exited(0));
    model.reconcile();
    model.settle();
    assert_eq!(
        model.ended_operations[&operation],
        OperationState::Succeeded
    );
    let left: Vec<&NodeId> = model
        .snapshot
        .members(&super_node)
        .map(|node| &node.id)
        .collect();
    assert_eq!(left, [&spare]);
}

#[test]
fn a_spare_that_does_not_join_leaves_everything_as_it_was() {
    for cancel in [false, true] {
        let mut case = case();
        let operation = case.replace(DrainMode::Refuse);
        case.model.reconcile();
        if cancel {
            case.model.cancel(&operation);
        } else {
            case.model.advance(DEADLINE);
        }
        case.model.reconcile();
        case.model.settle();
        assert_eq!(case.memberships(), ("member", "spare"));
        let end = case.end(&operation);
        assert_eq!(end.word(), if cancel { "cancelled" } else { "failed" });
        let text = format!("{end:?}");
        assert!(
            text.contains("node n1: it stays, because no spare joined"),
            "{text}"
        );
    }
}

#[test]
fn a_quarantined_member_is_replaced_by_itself_where_that_is_wanted() {
    let mut case = case();
    case.quarantine();
    let done = case.model.reconcile();
    let begins = |action: &&Action| matches!(action, Action::BeginReplacement { because, .. } if because == "it is quarantined: ECC");
    assert_eq!(done.iter().filter(begins).count(), 1, "{done:?}");
    let operation = case.only_operation();
    case.model.settle();
    assert_eq!(case.memberships(), ("spare", "member"));
    assert_eq!(*case.end(&operation), OperationState::Succeeded);
    // It is not put in again, for whomever.
    case.model.node(&case.members[1].clone()).health = NodeHealth::Quarantined {
        finding: "ECC".into(),
    };
    let told = case.model.reconcile();
    let tells = |action: &&Action| matches!(action, Action::Tell(event) if event.message.contains("n1 is quarantined"));
    assert_eq!(told.iter().filter(tells).count(), 1, "{told:?}");
}

#[test]
fn without_a_spare_people_are_told_once_and_it_begins_when_there_is_one() {
    let mut case = case();
    case.quarantine();
    case.model.node(&case.spare.clone()).health = NodeHealth::Suspect {
        finding: "slow".into(),
    };
    let told = case.model.reconcile();
    let tells =
        |action: &&Action| matches!(action, Action::Tell(event) if event.message.contains("s1"));
    assert_eq!(told.iter().filter(tells).count(), 1, "{told:?}");
    case.model.advance(Duration::from_hours(2));
    assert_eq!(case.model.reconcile(), []);
    case.model.node(&case.spare.clone()).health = NodeHealth::Unproven;
    case.model.reconcile();
    case.model.settle();
    assert_eq!(case.memberships(), ("spare", "member"));
}

#[test]
fn a_try_that_failed_is_made_again_later() {
    let mut case = case();
    case.quarantine();
    case.model.reconcile();
    let first = case.only_operation();
    case.model.cancel(&first);
    case.model.reconcile();
    case.model.settle();
    assert_eq!(case.end(&first).word(), "cancelled");
    assert_eq!(case.model.reconcile(), [], "not at once");
    case.model.advance(Duration::from_hours(1));
    case.model.reconcile();
    assert_ne!(case.only_operation(), first);
}

#[test]
fn a_member_that_could_not_leave_gets_no_second_spare() {
    let mut case = case();
    let job = case.model.running(&case.super_node.clone(), job_spec(2));
    case.model.spare("s2", 1);
    case.quarantine();
    case.model.reconcile();
    case.model.settle();
    let operation = case.only_operation();
    assert_eq!(
        case.model.waits_for(&operation),
        format!("node n1: {job} on it")
    );
    case.model.cancel(&operation);
    case.model.reconcile();
    assert_eq!(case.end(&operation).word(), "cancelled");
    assert_eq!(case.memberships(), ("member", "member"));
    let tried = &case.model.snapshot.nodes[&case.members[0]]
        .stress
        .replacement;
    assert_eq!(*tried, Some(ReplacementTry::Joined { operation }));
    case.model.advance(Duration::from_hours(48));
    let spares = case.model.snapshot.nodes.values();
    let spares = spares.filter(|node| node.membership == Membership::Spare);
    assert_eq!(spares.count(), 1);
    assert_eq!(case.model.reconcile(), []);
}
