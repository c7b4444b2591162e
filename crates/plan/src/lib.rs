//! Pure planners: a [`Snapshot`] and a time in, [`Action`]s out. No clock, no randomness, no I/O: a plan can be printed, tested and
//! replayed.
//!
//! The loop in `control` loads a snapshot, calls [`reconcile`], applies the actions and repeats until a plan is empty, all in one
//! write transaction; so each planner may look at one subject alone and leave what follows from its actions to the next round.
//! Requests use the same pieces: `--plan` and the real thing choose nodes with the same functions ([`choose`]).

pub mod action;
pub mod choose;
pub mod condition;
pub mod cron;
pub mod health;
mod index;
mod job;
pub mod notify;
pub mod operation;
pub mod rank_table;
mod replacement;
pub mod retry_policy;
mod schedule;
pub mod snapshot;
pub mod stress_plan;
mod topology;
mod words;

pub use action::Action;
pub use snapshot::{Contact, Limits, RunNetwork, Snapshot, SpecLimit};

use index::Index;
use supernode_types::node::NodePolicy;

/// Everything that should change now. Empty when observed state follows intent as far as it can.
///
/// Changed conditions come alone: nothing may be placed, joined or released on what was true of a node a moment ago. So does a replacement
/// that begins: nothing else may take its spare.
pub fn reconcile(snapshot: &Snapshot, limits: &Limits) -> Vec<Action> {
    let conditions = condition::plan(snapshot, limits);
    if !conditions.is_empty() {
        return conditions;
    }
    let replacements = replacement::plan(snapshot, limits);
    if !replacements.is_empty() {
        return replacements;
    }
    let index = Index::new(snapshot);
    let mut actions = job::plan(&index, limits);
    actions.extend(stress_plan::plan(snapshot));
    actions.extend(operation::plan(&index, limits));
    // Something has just taken nodes that a job could be placed on: that is for the next round, which sees it.
    if !actions.iter().any(takes_a_node) {
        actions.extend(schedule::plan(&index, limits));
    }
    actions
}

fn takes_a_node(action: &Action) -> bool {
    match action {
        Action::BeginStress { .. } | Action::BeginPair { .. } => true,
        Action::SetPolicy { policy, .. } => matches!(policy, NodePolicy::Draining { .. }),
        _ => false,
    }
}
