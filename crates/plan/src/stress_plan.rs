//! Which plans of stress tests begin a run now.
//!
//! A slot of a plan is run once or recorded as missed once, whenever the server was away: what is settled is stored with the run, in one
//! transaction. A slot that comes while the run before is not over is missed, too: a super node is never tested by one plan twice at a
//! time. A plan of a super node that is being deleted, or has no members, waits.

use std::time::Duration;

use supernode_types::operation::OperationKind;
use supernode_types::stress::{StressPlan, StressTerms};
use supernode_types::{OperationId, StressPlanId, Timestamp};

use crate::cron::{Due, Schedule, ScheduleError, Terms, due};
use crate::{Action, Snapshot};

/// Runs that begin and slots that were missed.
pub(crate) fn plan(snapshot: &Snapshot) -> Vec<Action> {
    let now = snapshot.now;
    let is_due = |plan: &&StressPlan| plan.next_due.is_some_and(|next| next <= now);
    snapshot
        .stress_plans
        .values()
        .filter(is_due)
        .filter_map(|plan| advance(snapshot, plan))
        .collect()
}

fn advance(snapshot: &Snapshot, plan: &StressPlan) -> Option<Action> {
    let super_node = snapshot.super_nodes.get(&plan.super_node)?;
    if super_node.deleting.is_some() || snapshot.members(&super_node.id).next().is_none() {
        return None;
    }
    // A zone that the machine does not know any more makes a plan that is never due, not a loop that fails.
    let Due {
        run,
        missed,
        settled,
        next,
    } = look(plan, snapshot.now).ok()?;
    let mut lost = missed.map_or(0, |missed| u64::from(missed.count));
    let under_way = under_way(snapshot, &plan.id);
    let begins = run.filter(|_| under_way.is_none());
    lost += u64::from(run.is_some() && begins.is_none());
    let why = match (lost, under_way) {
        (0, _) => String::new(),
        (_, Some(run)) if missed.is_none() => format!("run {run} is not over"),
        _ => "the server was not there in time".to_owned(),
    };
    Some(Action::SettleStressPlan {
        plan: plan.id.clone(),
        settled,
        next_due: next,
        begins,
        missed: lost,
        why,
    })
}

/// The run of a plan that is not over.
fn under_way<'a>(snapshot: &'a Snapshot, plan: &StressPlanId) -> Option<&'a OperationId> {
    let of_plan = |kind: &OperationKind| matches!(kind, OperationKind::StressRun(run) if run.plan.as_ref() == Some(plan));
    let mut operations = snapshot.operations.values();
    let found = operations.find(|operation| of_plan(&operation.kind))?;
    Some(&found.id)
}

/// What is due of a plan.
pub fn look(plan: &StressPlan, now: Timestamp) -> Result<Due, ScheduleError> {
    let schedule = schedule(&plan.terms)?;
    let terms = Terms {
        window: Duration::from_secs(plan.terms.window_seconds),
        jitter: Duration::from_secs(plan.terms.jitter_seconds),
        seed: seed(&plan.id),
    };
    Ok(due(&schedule, &terms, plan.settled, now))
}

/// The schedule of a plan.
pub fn schedule(terms: &StressTerms) -> Result<Schedule, ScheduleError> {
    Schedule::new(&terms.cron, &terms.timezone)
}

/// The plan's own number (FNV-1a of its id), so that plans with one schedule are put off by different times.
fn seed(id: &StressPlanId) -> u64 {
    id.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
