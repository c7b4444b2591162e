//! What a node has to pass before it joins: a quick test of everything but the network, which takes a partner, with leases of the
//! operation that adds it.
//!
//! ```text
//!  has the environment --free (loop)--> its agent tests --passed (control)--> joins
//!                                       \--anything else--> is taken back
//! ```
//! Only a pass lets a node in: one that cannot be judged, or whose test was cut short, is not proven. It is no member yet, so quarantining it costs the super node
//! nothing, and no brake holds.

use supernode_types::node::Node;
use supernode_types::operation::{Admission, Operation};
use supernode_types::stress::{Item, StressOutcome, StressWork, Tier};

use super::{GivenUp, Planner, stress_run};
use crate::health::{Brake, Coverage};

/// Whether a node may join.
pub(super) enum Verdict {
    Admitted,
    /// What it waits for.
    NotYet(String),
    /// Why not.
    Refused(String),
}

/// Tests a node that has the environment.
pub(super) fn plan<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    node: &'a Node,
    admission: Admission,
) -> Verdict {
    let Admission::Quick { kernel_seconds } = admission else {
        return Verdict::Admitted;
    };
    let Some(work) = stress_run::work_of(node, operation) else {
        if let Some(waits_for) = stress_run::waits_for(planner, node) {
            return Verdict::NotYet(waits_for);
        }
        stress_run::take(
            planner,
            operation,
            node,
            Tier::Quick,
            &Item::OF_ONE_NODE,
            kernel_seconds,
        );
        return Verdict::NotYet("waits for its agent to test it".into());
    };
    let outcome = match stress_run::over(planner, operation, None, node, work) {
        Ok(outcome) => outcome,
        Err(step) => return Verdict::NotYet(step),
    };
    end(planner, operation, node, work, &outcome);
    let detail = outcome.detail().unwrap_or_default();
    match outcome {
        StressOutcome::Passed => Verdict::Admitted,
        _ => Verdict::Refused(format!(
            "it did not pass the test before joining ({}): {detail}",
            outcome.word()
        )),
    }
}

/// Ends the test of a node that is taken back; answers what that waits for.
pub(super) fn take_back<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    node: &'a Node,
    cause: GivenUp,
) -> Option<String> {
    let work = stress_run::work_of(node, operation)?;
    match stress_run::over(planner, operation, Some(cause), node, work) {
        Ok(outcome) => {
            end(planner, operation, node, work, &outcome);
            None
        }
        Err(step) => Some(step),
    }
}

fn end<'a>(
    planner: &mut Planner<'a, '_>,
    operation: &Operation,
    node: &'a Node,
    work: &StressWork,
    outcome: &StressOutcome,
) {
    let coverage = Coverage::of(node, &Item::OF_ONE_NODE, work.kernel_seconds, None);
    stress_run::judge(planner, operation, coverage, node, outcome, Brake::Off);
    stress_run::end(planner, operation, node, outcome);
}
