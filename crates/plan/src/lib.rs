//! Pure planners: a [`Snapshot`] and a time in, [`Action`]s out. No clock, no randomness, no I/O: a plan can be printed, tested and
//! replayed.
//!
//! The loop in `control` loads a snapshot, calls [`reconcile`], applies the actions and repeats until a plan is empty, all in one
//! write transaction; so each planner may look at one subject alone and leave what follows from its actions to the next round.
//! Requests use the same pieces: `--plan` and the real thing choose nodes with the same functions ([`choose`]).

pub mod action;
pub mod choose;
pub mod condition;
pub mod job;
pub mod operation;
pub mod schedule;
pub mod snapshot;

pub use action::Action;
pub use snapshot::{Contact, Limits, Snapshot, SpecLimit};

/// Everything that should change now. Empty when observed state follows intent as far as it can.
pub fn reconcile(snapshot: &Snapshot, limits: &Limits) -> Vec<Action> {
    let mut actions = condition::plan(snapshot, limits);
    actions.extend(job::plan(snapshot, limits));
    actions.extend(operation::plan(snapshot, limits));
    actions.extend(schedule::plan(snapshot, limits));
    actions
}
