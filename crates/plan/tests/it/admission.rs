//! What nodes have to pass before they join a super node that grows.

use supernode_plan::operation::FOLLOW_UP;
use supernode_types::operation::{Admission, OperationKind, OperationState};
use supernode_types::stress::{StressOutcome, StressProgress, Tier};
use supernode_types::{NodeId, OperationId, SuperNodeId};

use crate::build::{DEADLINE, limits};
use crate::model::Model;

const QUICK: OperationKind = OperationKind::ScaleUp {
    admission: Admission::Quick {
        kernel_seconds: None,
    },
};

struct Case {
    model: Model,
    super_node: SuperNodeId,
    node: NodeId,
    operation: OperationId,
}

/// `train` with one member, and a spare that has the environment and is being tested.
fn tested() -> Case {
    let mut model = Model::new(limits());
    let (super_node, _) = model.train(1, 2);
    let node = model.spare("s1", 2);
    let operation = model
        .scale_up(QUICK, &super_node, 1, 0)
        .expect("there is a spare");
    model.reconcile();
    model.apply_environment(&node);
    model.reconcile();
    let case = Case {
        model,
        super_node,
        node,
        operation,
    };
    assert_eq!((case.leases(), case.membership()), (2, "joining"));
    case
}

impl Case {
    fn leases(&self) -> usize {
        let leases = self.model.snapshot.leases.iter();
        let of_test = leases.filter(|lease| lease.operation() == Some(&self.operation));
        of_test.count()
    }

    fn membership(&self) -> &'static str {
        self.model.snapshot.nodes[&self.node].membership.word()
    }

    fn health(&self) -> &'static str {
        self.model.snapshot.nodes[&self.node].health.word()
    }

    fn judged(&mut self, outcome: StressOutcome) {
        let work = self.model.node(&self.node).stress.work.as_mut();
        work.expect("it is tested").progress = StressProgress::Judged { outcome };
        self.model.reconcile();
    }

    fn end(&self) -> &OperationState {
        &self.model.ended_operations[&self.operation]
    }

    /// Why the operation ended without the node, which is a spare again.
    fn refused(mut self) -> String {
        self.model.settle();
        assert_eq!((self.leases(), self.membership()), (0, "spare"));
        match self.end() {
            OperationState::Failed { reason } => reason.clone(),
            other => panic!("not failed but {other:?}"),
        }
    }
}

#[test]
fn a_node_joins_when_it_passed() {
    let mut case = tested();
    let work = case.model.node(&case.node).stress.work.clone();
    assert_eq!(work.expect("it is tested").tier, Tier::Quick);
    case.judged(StressOutcome::Passed);
    assert_eq!(
        (case.membership(), case.leases(), case.health()),
        ("member", 0, "proven")
    );
    case.model.settle();
    assert_eq!(*case.end(), OperationState::Succeeded);
}

#[test]
fn a_node_that_failed_is_quarantined_and_does_not_join() {
    let mut case = tested();
    case.judged(StressOutcome::Failed {
        finding: "a bad memory".into(),
    });
    // It is half of the super node, which no brake protects: it never was a member.
    assert_eq!(case.health(), "quarantined");
    let reason = case.refused();
    assert!(
        reason.contains("did not pass the test before joining (failed): a bad memory"),
        "{reason}"
    );
}

#[test]
fn a_node_that_cannot_be_judged_does_not_join_either() {
    let mut case = tested();
    case.judged(StressOutcome::Undecided {
        why: "others use it".into(),
    });
    assert_eq!(case.health(), "unproven");
    let reason = case.refused();
    assert!(reason.contains("(undecided): others use it"), "{reason}");
}

#[test]
fn a_test_that_was_cut_short_is_no_pass() {
    let mut case = tested();
    case.judged(StressOutcome::Incomplete {
        why: "its agent was restarted".into(),
    });
    let reason = case.refused();
    assert!(
        reason.contains("(incomplete): its agent was restarted"),
        "{reason}"
    );
}

#[test]
fn a_cancelled_growth_stops_the_test_first() {
    let mut case = tested();
    case.model.cancel(&case.operation);
    case.model.reconcile();
    let work = case.model.node(&case.node).stress.work.clone();
    let stop = work.expect("its agent has not answered").stop;
    assert_eq!(stop.as_deref(), Some("the operation was cancelled"));
    assert_eq!((case.leases(), case.membership()), (2, "joining"));
    case.judged(StressOutcome::Incomplete {
        why: "stopped".into(),
    });
    case.model.settle();
    assert_eq!((case.leases(), case.membership()), (0, "spare"));
    assert!(matches!(case.end(), OperationState::Cancelled { .. }));
}

#[test]
fn an_agent_that_says_nothing_holds_nothing_for_ever() {
    let mut case = tested();
    case.model.advance(DEADLINE);
    case.model.reconcile();
    case.model.advance(FOLLOW_UP);
    case.model.settle();
    assert_eq!(case.leases(), 0);
    assert!(matches!(case.end(), OperationState::Failed { .. }));
    let super_node = case.super_node;
    assert_eq!(case.model.snapshot.members(&super_node).count(), 1);
}
