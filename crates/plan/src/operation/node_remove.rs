//! Taking a spare out for good. If a provisioner made it, the provisioner unmakes it first, so that no machine is left that nobody
//! knows of.

use supernode_types::node::Membership;
use supernode_types::operation::{Operation, OperationState, ProvisionState, Target, TargetState};

use super::{GivenUp, Planner, active, failed};
use crate::Action;

pub(super) fn plan<'a>(planner: &mut Planner<'a, '_>, operation: &'a Operation) {
    let given_up = planner.given_up(operation);
    let mut states = Vec::with_capacity(operation.targets.len());
    for target in &operation.targets {
        states.push(match &target.state {
            TargetState::Active { .. } => advance(planner, target, given_up),
            ended => ended.clone(),
        });
    }
    planner.record(operation, &states);
    if let Some(waits_for) = planner.waits_for(operation, &states) {
        planner.wait(operation, waits_for);
        return;
    }
    let failures = planner.failures(operation, &states);
    planner.set(
        operation,
        match given_up {
            _ if failures.is_empty() => OperationState::Succeeded,
            Some(GivenUp::Cancelled) => OperationState::Cancelled { detail: failures },
            _ => OperationState::Failed { reason: failures },
        },
    );
}

fn advance<'a>(
    planner: &mut Planner<'a, '_>,
    target: &'a Target,
    given_up: Option<GivenUp>,
) -> TargetState {
    let Some(node) = planner.node(target) else {
        return TargetState::Done;
    };
    if node.membership != Membership::Spare {
        return failed("it is not a spare any more");
    }
    // A lease on a node that is gone would be held for ever.
    if planner.tested.contains(&node.id) {
        return active("a test of it begins");
    }
    if let Some(work) = &node.stress.work {
        return match given_up {
            Some(cause) => failed(format!("{}; it stays", cause.words())),
            None => active(format!(
                "the test {} of it is being stopped",
                work.operation
            )),
        };
    }
    let provisions = &planner.index.snapshot.provisions;
    let provision = node.provision.as_ref().and_then(|id| provisions.get(id));
    match provision.map(|provision| (&provision.id, &provision.state)) {
        None | Some((_, ProvisionState::Deleted)) => {
            if planner.removed.insert(&node.id) {
                planner.actions.push(Action::Remove {
                    node: node.id.clone(),
                });
            }
            TargetState::Done
        }
        Some((_, ProvisionState::Failed { reason })) => {
            failed(format!("its provisioner cannot delete it: {reason}"))
        }
        Some((_, ProvisionState::Deleting { message })) => match given_up {
            Some(cause) => failed(format!(
                "{}; it stays known, and its provisioner goes on deleting it",
                cause.words()
            )),
            None if message.is_empty() => active("its provisioner deletes it"),
            None => active(format!("its provisioner deletes it: {message}")),
        },
        Some((id, ProvisionState::Creating { .. } | ProvisionState::Created)) => {
            if let Some(cause) = given_up {
                return failed(format!("{}; it stays", cause.words()));
            }
            let state = ProvisionState::Deleting {
                message: String::new(),
            };
            planner.actions.push(Action::SetProvision {
                provision: id.clone(),
                state,
            });
            active("its provisioner deletes it")
        }
    }
}
