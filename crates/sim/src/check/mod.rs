//! What must hold after every step, and what must be true in the end.
//!
//! The checks look at the store, at what the agents have on their disks, and at the programs that really run, and never at what the
//! code under test says about itself.

mod end;
mod promise;
mod safety;
mod transition;
pub(crate) mod view;

use supernode_control::query;
use supernode_types::event::Severity;

use crate::world::World;
use promise::Promises;
use view::{Accepted, Reading, View};

/// Everything is read anew after so many looks at what is new; in between, what has ended is not looked at.
const WHOLE_EVERY: u64 = 64;

/// More events than any step tells.
const ALL: u32 = 1_000_000;

/// What is remembered from step to step.
#[derive(Debug, Default)]
pub(crate) struct Check {
    /// The store as it was seen last.
    pub(crate) view: View,
    /// Somebody wrote to the store since.
    pub(crate) store_changed: bool,
    /// A program was started since.
    pub(crate) processes_changed: bool,
    /// Jobs and operations that the server has accepted.
    pub(crate) accepted: Accepted,
    /// What else it has promised.
    pub(crate) promises: Promises,
    looks: u64,
    /// The last event that was written down.
    told: i64,
}

impl World {
    /// Lets the next check read everything.
    pub(crate) fn check_whole(&mut self) {
        self.check.store_changed = true;
        self.check.looks = WHOLE_EVERY - 1;
    }

    /// Writes down what the server told since the last time.
    fn note_events(&mut self) {
        let told = self.check.told;
        let news = self.store.read_inline("events", move |tx| {
            query::events(tx, Some(told), None, Severity::Info, ALL)
        });
        for event in news.expect("the store is in memory") {
            self.check.told = event.sequence;
            self.note(|_| format!("{}: {}", event.kind, event.message));
        }
    }

    /// Checks everything that can have changed in this step.
    pub(crate) fn check_step(&mut self) {
        if self.check.store_changed && self.traces() {
            self.note_events();
        }
        if std::mem::take(&mut self.check.store_changed) {
            self.check.looks += 1;
            let reading = if self.check.looks.is_multiple_of(WHOLE_EVERY) {
                Reading::Whole
            } else {
                Reading::News
            };
            match View::load(&self.store, &self.check.view, &self.check.accepted, reading) {
                Err(error) => return self.violated(format!("the store cannot be read: {error}")),
                Ok(view) => {
                    let before = std::mem::replace(&mut self.check.view, view);
                    let found = safety::store(&self.check)
                        .or_else(|| self.check.promises.broken(&self.check.view))
                        .or_else(|| transition::check(&before, &self.check.view, &self.machines));
                    if let Some(violation) = found {
                        return self.violated(violation);
                    }
                }
            }
        } else if !std::mem::take(&mut self.check.processes_changed) {
            return;
        }
        self.check.processes_changed = false;
        if let Some(violation) = safety::processes(&self.check.view, &self.machines) {
            self.violated(violation);
        }
    }
}
