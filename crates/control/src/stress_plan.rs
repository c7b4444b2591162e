//! Schedules of stress tests: made, changed, paused, deleted. When a run begins is the planner's business; here is written down what is
//! wanted. A plan begins with the slot after its making; a changed or resumed one with the slot after that.

use supernode_plan::stress_plan::{look, schedule};
use supernode_store::Tx;
use supernode_store::stress_plan::{
    stress_plan_delete, stress_plan_get, stress_plan_insert, stress_plan_list, stress_plan_update,
};
use supernode_types::stress::{StressPlan, StressTerms};
use supernode_types::{StressPlanId, SuperNodeId, Timestamp};

use crate::stress_run::{LONGEST_WINDOW, whole_or};
use crate::super_node::find_for_change;
use crate::{Intent, Refusal, channel};

/// Plans of one super node; more are a mistake.
const MOST_PLANS: usize = 32;
/// How many of the next slots are shown.
const SHOWN_SLOTS: usize = 3;

/// Makes a plan.
pub fn create(
    tx: &mut Tx<'_>,
    intent: &Intent,
    super_node: &str,
    terms: &StressTerms,
) -> Result<StressPlan, Refusal> {
    let super_node = find_for_change(tx, intent, super_node)?;
    if list(tx, Some(&super_node.id))?.len() >= MOST_PLANS {
        return Err(Refusal::Conflict(format!(
            "super node {} has {MOST_PLANS} stress plans already; delete one first",
            super_node.name
        )));
    }
    let mut plan = StressPlan {
        id: StressPlanId::new(intent.now, &*intent.entropy),
        super_node: super_node.id,
        terms: checked(tx, terms)?,
        paused: false,
        settled: intent.now,
        next_due: None,
        last_run: None,
        missed: 0,
        actor: intent.actor.clone(),
        generation: 1,
        created_at: intent.now,
    };
    from_now_on(&mut plan, intent.now)?;
    stress_plan_insert(tx, &plan)?;
    Ok(plan)
}

/// Changes what a plan does, or pauses or resumes it.
pub fn update(
    tx: &mut Tx<'_>,
    intent: &Intent,
    id: &str,
    terms: Option<&StressTerms>,
    paused: Option<bool>,
) -> Result<StressPlan, Refusal> {
    let mut plan = find_for(tx, intent, id)?;
    if let Some(terms) = terms {
        plan.terms = checked(tx, terms)?;
    }
    if let Some(paused) = paused {
        plan.paused = paused;
    }
    from_now_on(&mut plan, intent.now)?;
    stress_plan_update(tx, &mut plan)?;
    Ok(plan)
}

/// Deletes a plan. Its runs stay; one that is under way goes on.
pub fn delete(tx: &mut Tx<'_>, intent: &Intent, id: &str) -> Result<(), Refusal> {
    let plan = find_for(tx, intent, id)?;
    Ok(stress_plan_delete(tx, &plan.id)?)
}

/// The plan with this id.
pub fn find(tx: &mut Tx<'_>, id: &str) -> Result<StressPlan, Refusal> {
    let missing = || Refusal::not_found("stress plan", "stress plan", id);
    let id: StressPlanId = id.parse().map_err(|_| missing())?;
    stress_plan_get(tx, &id)?.ok_or_else(missing)
}

fn find_for(tx: &mut Tx<'_>, intent: &Intent, id: &str) -> Result<StressPlan, Refusal> {
    let plan = find(tx, id)?;
    intent.check_generation("stress plan", id, plan.generation)?;
    Ok(plan)
}

/// All plans, or those of a super node, oldest first.
pub fn list(tx: &mut Tx<'_>, super_node: Option<&SuperNodeId>) -> Result<Vec<StressPlan>, Refusal> {
    let mut plans = stress_plan_list(tx)?;
    plans.retain(|plan| super_node.is_none_or(|id| plan.super_node == *id));
    Ok(plans)
}

/// The next slots of a plan; none while it is paused. A run may be put off by the jitter.
pub fn upcoming(plan: &StressPlan, now: Timestamp) -> Vec<Timestamp> {
    let Ok(schedule) = schedule(&plan.terms) else {
        return Vec::new();
    };
    let slots = schedule.upcoming(now.max(plan.settled));
    slots
        .take(if plan.paused { 0 } else { SHOWN_SLOTS })
        .collect()
}

/// Ten years.
const LONGEST_AGE_SECONDS: u64 = 10 * 366 * 24 * 3600;

fn checked(tx: &mut Tx<'_>, terms: &StressTerms) -> Result<StressTerms, Refusal> {
    schedule(terms).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let longest = LONGEST_WINDOW.as_secs();
    for (name, seconds, least, longest) in [
        ("window_seconds", terms.window_seconds, 60, longest),
        ("jitter_seconds", terms.jitter_seconds, 0, longest),
        (
            "max_age_seconds",
            terms.max_age_seconds,
            0,
            LONGEST_AGE_SECONDS,
        ),
    ] {
        if !(least..=longest).contains(&seconds) {
            return Err(Refusal::Invalid(format!(
                "{name} is {seconds}; it must be between {least} and {longest}"
            )));
        }
    }
    Ok(StressTerms {
        items: whole_or(&terms.items),
        notify: channel::checked_names(tx, &terms.notify)?,
        ..terms.clone()
    })
}

/// Everything before now is settled: a change makes no run of a slot that has passed.
fn from_now_on(plan: &mut StressPlan, now: Timestamp) -> Result<(), Refusal> {
    plan.settled = now;
    let due = look(plan, now).map_err(|error| Refusal::Invalid(error.to_string()))?;
    plan.next_due = due.next.filter(|_| !plan.paused);
    Ok(())
}
