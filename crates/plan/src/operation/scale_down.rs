//! Taking members out.
//!
//! ```text
//!  draining member --no leases (loop)--> leaving --cleaned | lost (loop)--> spare = Done
//!  draining member --cancel | deadline (loop)--> in service or cordoned as before = Failed
//! ```
//! Completion is judged on what was observed: a node leaves when no lease is left on it and is released when its agent says that it
//! is clean. What has begun to leave leaves. The last full member stays, whatever was accepted when.

use supernode_types::node::Membership;
use supernode_types::operation::{Operation, OperationState, Target, TargetState};

use super::{GivenUp, Planner, active, drained_by, failed, leaves_by};
use crate::words;

pub(super) fn plan<'a>(planner: &mut Planner<'a, '_>, operation: &'a Operation) {
    let given_up = planner.given_up(operation);
    let mut states = Vec::with_capacity(operation.targets.len());
    for target in &operation.targets {
        states.push(match &target.state {
            TargetState::Active { .. } => advance(planner, operation, target, given_up),
            ended => ended.clone(),
        });
    }
    planner.record(operation, &states);
    if let Some(waits_for) = planner.waits_for(operation, &states) {
        planner.wait(operation, waits_for);
        return;
    }
    let failures = planner.failures(operation, &states);
    let tally = Planner::tally(&states, "left");
    planner.set(
        operation,
        match given_up {
            _ if failures.is_empty() => OperationState::Succeeded,
            Some(GivenUp::Cancelled) => OperationState::Cancelled {
                detail: format!("{tally}; {failures}"),
            },
            Some(cause) => OperationState::Failed {
                reason: format!("{}; {tally}; {failures}", cause.words()),
            },
            None => OperationState::Failed {
                reason: format!("{tally}; {failures}"),
            },
        },
    );
}

/// Where a member that leaves stands now.
pub(super) fn advance<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &'a Operation,
    target: &'a Target,
    given_up: Option<GivenUp>,
) -> TargetState {
    let Some(node) = planner.node(target) else {
        // It was removed, so it has left.
        return TargetState::Done;
    };
    match &node.membership {
        Membership::Leaving { .. } if leaves_by(node, operation) => {
            if planner.release(operation, node) {
                TargetState::Done
            } else {
                active("its environment is being removed")
            }
        }
        Membership::Leaving { .. } => failed("another operation takes it out"),
        Membership::Spare => {
            planner.put_back(operation, node);
            TargetState::Done
        }
        Membership::Joining { .. } => failed("it left and joins again"),
        Membership::Member { .. } if !drained_by(node, operation) => {
            failed("it is not being drained any more")
        }
        Membership::Member { super_node } => {
            let jobs = planner.index.jobs_on(&node.id);
            if let Some(cause) = given_up {
                planner.put_back(operation, node);
                let back = format!("back as it was before ({})", cause.words());
                return failed(if jobs.is_empty() {
                    back
                } else {
                    format!("{back}; {} on it", words::list(jobs.iter(), 3))
                });
            }
            if !jobs.is_empty() {
                return active(format!("{} on it", words::list(jobs.iter(), 3)));
            }
            if planner.leave_if_not_last(operation, node, super_node) {
                active("its environment is being removed")
            } else {
                active("it is the last member, and a super node keeps at least one")
            }
        }
    }
}
