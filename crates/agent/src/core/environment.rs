//! When to apply, verify and clean the environment.
//!
//! ```text
//!                 wish: have --> Apply --ran to its end--> applied = its generation --30 s--> Verify --as wanted--> (30 s) Verify
//!                                  ^-- 5 s -- could not work --/                                 \--drift, reported--> Apply
//!                 wish: clean -> Clean --ran to its end--> applied = 0 (items that stay are retried every 30 s)
//! ```
//! One task at a time, and none before the wish is in the stored ledger. An agent that was started anew verifies at once, or cleans
//! once more: a kill in the middle of either leaves nothing behind. Drift is repaired when the server has heard of it, so that it can be
//! seen how often it comes; a node without a connection repairs it all the same.

use std::time::Duration;

use supernode_types::Generation;
use supernode_types::agent::EnvironmentWish;
use supernode_types::environment::{ItemCondition, ItemState};

use super::Effect;
use crate::ledger::LedgerEnvironment;

/// How long after one look the next one is.
pub(super) const VERIFY_PERIOD: Duration = Duration::from_secs(30);
/// When an executor that could not work at all is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(5);
/// How long a repair waits for the server to hear what was found.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);

/// What was done with the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvironmentTask {
    /// It was applied.
    Apply {
        /// Which one.
        generation: Generation,
    },
    /// It was looked at.
    Verify {
        /// Which one.
        generation: Generation,
    },
    /// It was removed.
    Clean,
}

/// The environment's part of the core; what must survive is in the ledger.
#[derive(Debug, Clone, Default)]
pub(super) struct EnvironmentCore {
    running: Option<EnvironmentTask>,
    /// The next task is due then; at once when absent.
    due: Option<Duration>,
    /// A look found, at that moment, something that an application may repair.
    repair: Option<Duration>,
    /// This process has cleaned, and applied nothing since.
    clean: bool,
    /// This process has tried to clean, so it can say how the node stands.
    tried: bool,
}

impl EnvironmentCore {
    /// Takes a wish into the ledger.
    pub(super) fn wish(&mut self, wish: EnvironmentWish, ledger: &mut LedgerEnvironment) {
        let before = (
            ledger.wanted.as_ref().map(|wanted| wanted.generation),
            ledger.missing,
        );
        match wish {
            EnvironmentWish::Clean => {
                ledger.wanted = None;
                ledger.missing = None;
            }
            EnvironmentWish::Have(desired) => {
                ledger.wanted = Some(desired);
                ledger.missing = None;
            }
            EnvironmentWish::Keep { generation } => {
                let known = ledger
                    .wanted
                    .as_ref()
                    .is_some_and(|wanted| wanted.generation == generation);
                ledger.missing = (!known).then_some(generation);
            }
        }
        if before
            != (
                ledger.wanted.as_ref().map(|wanted| wanted.generation),
                ledger.missing,
            )
        {
            self.due = None;
            self.repair = None;
        }
    }

    /// What the server is told of `ledger`. "Clean" counts only from a process that has cleaned and applied nothing since: an application
    /// that was under way when the wish changed, or that another process began, may have left anything.
    pub(super) fn applied(&self, ledger: &LedgerEnvironment) -> Generation {
        match (&ledger.wanted, ledger.missing) {
            (_, Some(_)) => 0,
            (None, None) if !self.clean => ledger.applied.max(1),
            (None | Some(_), None) => ledger.applied,
        }
    }

    /// Whether a clean node cannot be told from another yet. It will be in a moment, and says nothing until then, so that a spare whose
    /// agent was started anew does not seem to be dirty first.
    pub(super) fn unsure(&self, ledger: &LedgerEnvironment) -> bool {
        ledger.wanted.is_none() && ledger.missing.is_none() && !self.tried
    }

    /// The next task, if one is due; it counts as running then. `heard` says whether the server knows how the items stand.
    pub(super) fn next(
        &mut self,
        ledger: &LedgerEnvironment,
        inventory_known: bool,
        heard: bool,
        now: Duration,
    ) -> Option<Effect> {
        let (task, effect) = self.due_task(ledger, inventory_known, heard, now)?;
        self.running = Some(task);
        self.repair = None;
        self.clean &= task == EnvironmentTask::Clean;
        Some(effect)
    }

    fn due_task(
        &self,
        ledger: &LedgerEnvironment,
        inventory_known: bool,
        heard: bool,
        now: Duration,
    ) -> Option<(EnvironmentTask, Effect)> {
        let waits = self.due.is_some_and(|due| now < due);
        // What is wanted is not known until the server has sent it in full.
        if self.running.is_some() || ledger.missing.is_some() {
            return None;
        }
        let Some(desired) = &ledger.wanted else {
            return (!self.clean && !waits)
                .then_some((EnvironmentTask::Clean, Effect::CleanEnvironment));
        };
        // Required versions are compared with the inventory.
        if !inventory_known || waits {
            return None;
        }
        if self
            .repair
            .is_some_and(|found| !heard && now < found + REPORT_PATIENCE)
        {
            return None;
        }
        let generation = desired.generation;
        let desired = desired.clone();
        Some(if ledger.applied != generation || self.repair.is_some() {
            (
                EnvironmentTask::Apply { generation },
                Effect::ApplyEnvironment { desired },
            )
        } else {
            (
                EnvironmentTask::Verify { generation },
                Effect::VerifyEnvironment { desired },
            )
        })
    }

    /// When the next task is due, if time alone brings it.
    pub(super) fn wake(&self) -> Option<Duration> {
        if self.running.is_some() || self.clean {
            return None;
        }
        self.due.or_else(|| Some(self.repair? + REPORT_PATIENCE))
    }

    /// Takes the result of a task into the ledger.
    pub(super) fn done(
        &mut self,
        task: EnvironmentTask,
        result: Result<Vec<ItemState>, String>,
        ledger: &mut LedgerEnvironment,
        now: Duration,
    ) {
        if self.running == Some(task) {
            self.running = None;
        }
        self.tried |= task == EnvironmentTask::Clean;
        let wanted = ledger.wanted.as_ref().map(|wanted| wanted.generation);
        let items = match result {
            Ok(items) => items,
            Err(why) => {
                ledger.items = vec![ItemState {
                    item: "environment".into(),
                    state: ItemCondition::Failed { why },
                }];
                self.due = Some(now + RETRY_PERIOD);
                return;
            }
        };
        let current = match task {
            EnvironmentTask::Apply { generation } => {
                ledger.applied = generation;
                wanted == Some(generation)
            }
            EnvironmentTask::Verify { generation } => {
                let current = wanted == Some(generation);
                self.repair =
                    (current && items.iter().any(|item| item.problem().is_some())).then_some(now);
                current
            }
            EnvironmentTask::Clean => {
                ledger.applied = 0;
                self.clean = items.iter().all(|item| item.problem().is_none());
                wanted.is_none()
            }
        };
        ledger.items = match task {
            EnvironmentTask::Verify { .. } => keep_failures(&ledger.items, items),
            EnvironmentTask::Apply { .. } => items,
            EnvironmentTask::Clean => items
                .into_iter()
                .filter(|item| item.problem().is_some())
                .collect(),
        };
        // Something else is wanted by now, or was found to be wrong: at once.
        self.due = (current && self.repair.is_none()).then_some(now + VERIFY_PERIOD);
    }
}

/// An item that could not be made right still is not: its reason says more than "differs".
fn keep_failures(before: &[ItemState], mut found: Vec<ItemState>) -> Vec<ItemState> {
    for item in &mut found {
        if let ItemCondition::Drifted { .. } = item.state
            && let Some(known) = before.iter().find(|known| known.item == item.item)
            && let ItemCondition::Failed { .. } = known.state
        {
            item.state = known.state.clone();
        }
    }
    found
}
