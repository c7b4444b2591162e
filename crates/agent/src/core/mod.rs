//! The brain of an agent: facts in, effects out, no input or output of its own and no time but what it is told.
//!
//! The agent and the simulator run the same code. They call the `on_…` methods with what happened, then [`AgentCore::effects`] once,
//! do what it says, and call it again no later than [`AgentCore::next_wake`]. Whatever happened between two calls of `effects` leads
//! to one report.
//!
//! ```text
//!  desired --on_desired--> ledger --StoreLedger--> (disk) --on_ledger_stored--> LaunchRank, StopRank, Apply/Verify/Clean, Send(observed)
//!  Acknowledge --on_acknowledge--> ExtendLease --> (lease file) --on_lease_written--> LaunchRank
//! ```
//! What it guarantees, whatever is lost, repeated or late, and wherever the process is killed:
//! - *Stored before done.* Nothing is started, stopped, changed or reported on behalf of a desired state that is not on the disk.
//! - *Once.* A rank is started at most once: its record says "launched" first, and stays when the rank is over.
//! - *Never from another boot, never without a lease, never on old news.* A rank that waits for its start (the agent was killed just
//!   before, or had no lease) starts only when this connection has shown that it is still wanted.
//! - *Levels.* Every decision is made anew from wishes, records and what was seen; nothing depends on a message having arrived.

mod disk;
mod effect;
mod environment;
mod link;
mod ranks;
mod retries;
mod stress;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use supernode_types::agent::{Desired, Observed};
use supernode_types::disk::{DiskReport, DiskUsage};
use supernode_types::environment::ItemState;
use supernode_types::inventory::Inventory;
use supernode_types::job::RankState;
use supernode_types::retry_policy::{RetryLibrary, RetrySighting};
use supernode_types::stress::StressReport;
use supernode_types::{Generation, OperationId};

pub use effect::Effect;
pub use environment::EnvironmentTask;

use crate::ledger::{Ledger, RankKey, RankRecord};
use disk::DiskCore;
use environment::EnvironmentCore;
use link::Link;
use ranks::Live;
use retries::RetriesCore;
use stress::{May, StressCore};

/// When a ledger that could not be stored is stored again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How often old directories are looked for when nothing else asks for it.
const PRUNE_PERIOD: Duration = Duration::from_hours(1);
/// How soon it is done again when ranks have ended: it reads every directory, and starting the next ranks comes first.
const PRUNE_PAUSE: Duration = Duration::from_secs(10);

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreOptions {
    /// The boot that this process runs in.
    pub boot_id: String,
    /// The version of the agent.
    pub agent_version: String,
    /// What it can do beside the base protocol.
    pub capabilities: Vec<String>,
    /// The address that other nodes reach the node at.
    pub address: String,
}

/// What became of a desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// It is newer than what is known, and will be stored and acted on.
    Accepted,
    /// It is known already.
    Known,
    /// It is older than what is known; nothing of it was used.
    Refused,
}

/// The store that is under way.
#[derive(Debug, Clone, Copy)]
struct Storing {
    version: u64,
    generation: Generation,
}

/// The state of an agent.
#[derive(Debug)]
pub struct AgentCore {
    options: CoreOptions,
    ledger: Ledger,
    /// Counts the changes of the ledger.
    version: u64,
    /// The last change that was one of intent: it must be on the disk before anything is done about it.
    intent_version: u64,
    stored_version: u64,
    stored_generation: Generation,
    storing: Option<Storing>,
    store_after: Option<Duration>,
    live: BTreeMap<RankKey, Live>,
    environment: EnvironmentCore,
    disk: DiskCore,
    retries: RetriesCore,
    stress: StressCore,
    inventory: Option<Inventory>,
    inventory_version: u64,
    link: Link,
    /// The newest lease, and what of it was asked to be written and is written.
    lease: Option<Duration>,
    lease_asked: Option<Duration>,
    lease_written: Option<Duration>,
    /// When old output was last removed, and whether there may be more since.
    pruned_at: Option<Duration>,
    prune_again: bool,
}

impl AgentCore {
    /// The core of an agent that was just started, with what its ledger says and what the executor found of ranks on the disk.
    pub fn new(
        options: CoreOptions,
        mut ledger: Ledger,
        found: impl IntoIterator<Item = (RankKey, RankState)>,
    ) -> Self {
        let before = ledger.clone();
        let mut live = BTreeMap::new();
        for (key, state) in found {
            // An end that the executor tells beats the guess below: it may have come before the restart.
            ranks::see(&mut ledger, &mut live, &key, state, &options.boot_id);
        }
        let generation = ledger.generation;
        for record in ledger.ranks.values_mut() {
            match record {
                RankRecord::Launched { boot_id } if *boot_id != options.boot_id => {
                    *record = RankRecord::Ended {
                        end: ranks::lost_in_restart(),
                        last_lines: Vec::new(),
                        generation,
                    };
                }
                _ => {}
            }
        }
        let changed = u64::from(ledger != before);
        Self {
            options,
            stored_generation: generation,
            ledger,
            version: changed,
            intent_version: changed,
            stored_version: 0,
            storing: None,
            store_after: None,
            live,
            environment: EnvironmentCore::default(),
            disk: DiskCore::default(),
            retries: RetriesCore::default(),
            stress: StressCore::default(),
            inventory: None,
            inventory_version: 0,
            link: Link::new(),
            lease: None,
            lease_asked: None,
            lease_written: None,
            pruned_at: None,
            prune_again: false,
        }
    }

    /// A desired state came. An older one is refused; the same one again only confirms what is known.
    pub fn on_desired(&mut self, desired: Desired) -> Reception {
        if desired.generation < self.ledger.generation {
            // A server that was restored from a backup goes on above what it hears of, so it has to hear it.
            self.link.behind = true;
            return Reception::Refused;
        }
        self.link.confirmed = true;
        self.link.behind = false;
        if desired.generation == self.ledger.generation && self.ledger.environment.missing.is_none()
        {
            return Reception::Known;
        }
        self.ledger.generation = desired.generation;
        self.ledger.wishes = desired.ranks;
        self.ledger.disk_expand = desired.disk_expand;
        self.disk.wish(self.ledger.disk_expand.as_ref());
        self.ledger.stress = desired.stress;
        self.stress.wish(&mut self.ledger);
        self.environment
            .wish(desired.environment, &mut self.ledger.environment);
        ranks::take_wishes(&mut self.ledger, &self.options.boot_id);
        let records = &self.ledger.ranks;
        self.live
            .retain(|key, _| matches!(records.get(key), Some(RankRecord::Launched { .. })));
        self.version += 1;
        self.intent_version = self.version;
        self.prune_again = true;
        Reception::Accepted
    }

    /// The executor saw how a rank stands.
    pub fn on_rank_observed(&mut self, key: &RankKey, state: RankState) {
        if ranks::see(
            &mut self.ledger,
            &mut self.live,
            key,
            state,
            &self.options.boot_id,
        ) {
            self.version += 1;
        }
    }

    /// Directories of archived ranks were removed.
    pub fn on_ranks_removed(&mut self, keys: &[RankKey]) {
        for key in keys {
            if let Some(RankRecord::Archived { removed, .. }) = self.ledger.ranks.get_mut(key) {
                *removed = true;
                self.version += 1;
            }
        }
    }

    /// A task with the environment ended; an error is one of the whole executor, not of an item.
    pub fn on_environment_done(
        &mut self,
        task: EnvironmentTask,
        result: Result<Vec<ItemState>, String>,
        now: Duration,
    ) {
        let before = self.ledger.environment.clone();
        self.environment
            .done(task, result, &mut self.ledger.environment, now);
        self.version += u64::from(before != self.ledger.environment);
    }

    /// The executor says how an expansion of the system disk stands.
    pub fn on_disk_reported(&mut self, report: DiskReport) {
        self.disk.reported(report, self.ledger.disk_expand.as_ref());
    }

    /// The executor has done what it can for an expansion, and has reported it.
    pub fn on_disk_ended(&mut self, operation: &OperationId) {
        self.disk.ended(operation);
    }

    /// The machine goes on although a restart was asked for.
    pub fn on_not_restarted(&mut self, operation: &OperationId, why: String) {
        self.disk.not_restarted(operation, why);
    }

    /// The executor says how the test of the node stands.
    pub fn on_stress_reported(&mut self, report: StressReport) {
        self.stress.reported(report, self.ledger.stress.as_ref());
    }

    /// How full the system disk is.
    pub fn on_disk_usage(&mut self, usage: DiskUsage) {
        self.disk.used(usage);
    }

    /// The output of ranks was read for what it says of repeated operators.
    pub fn on_retries(&mut self, seen: Vec<(RankKey, Vec<RetrySighting>)>) {
        for (key, sightings) in seen {
            self.retries.seen(key, sightings, &self.ledger);
        }
    }

    /// The ranks whose output is to be read for that, and for whose words.
    pub fn retry_logs(&self) -> Vec<(RankKey, RetryLibrary)> {
        retries::wanted(&self.ledger)
    }

    /// The inventory was discovered.
    pub fn on_inventory(&mut self, inventory: Inventory) {
        if self.inventory.as_ref() != Some(&inventory) {
            self.inventory = Some(inventory);
            self.inventory_version += 1;
        }
    }

    /// The ledger of this version is on the disk.
    pub fn on_ledger_stored(&mut self, version: u64) {
        if let Some(storing) = self.storing.take_if(|storing| storing.version == version) {
            self.stored_version = storing.version;
            self.stored_generation = storing.generation;
        }
    }

    /// The ledger of this version could not be stored; it is tried again later, and nothing is done until then.
    pub fn on_ledger_failed(&mut self, version: u64, now: Duration) {
        if self
            .storing
            .take_if(|storing| storing.version == version)
            .is_some()
        {
            self.store_after = Some(now + STORE_RETRY);
        }
    }

    /// Every supervisor can see this deadline.
    pub fn on_lease_written(&mut self, deadline: Duration) {
        self.lease_written = Some(deadline);
    }

    /// A connection was opened.
    pub fn on_connected(&mut self) {
        self.link.open();
    }

    /// The connection is gone.
    pub fn on_disconnected(&mut self) {
        self.link.close();
    }

    /// The server took a sync. One of another connection counts nothing.
    pub fn on_acknowledge(&mut self, sequence: u64, fence: Duration, interval: Duration) {
        if let Some(sent_at) = self.link.acknowledge(sequence, interval) {
            self.lease = Some(sent_at + fence);
        }
    }

    /// What is to be done now, after all that was told.
    pub fn effects(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.link.connected && self.link.dead(now) {
            self.link.close();
            effects.push(Effect::Reconnect);
        }
        self.store(now, &mut effects);
        if let Some(deadline) = self.lease.filter(|_| self.lease != self.lease_asked) {
            self.lease_asked = Some(deadline);
            effects.push(Effect::ExtendLease { deadline });
        }
        let settled = self.settled();
        // Before the first desired state, a running rank is one that an agent without its ledger found: nothing is known of it.
        if settled && self.ledger.generation > 0 {
            let granted = self.lease_written.filter(|deadline| {
                self.link.confirmed && self.inventory.is_some() && now < *deadline
            });
            let may = May {
                go_on: self.lease_written.is_some_and(|deadline| now < deadline),
                begin: granted.is_some() && self.open_ranks().next().is_none(),
            };
            effects.extend(
                self.stress
                    .next(&self.ledger, &self.options.boot_id, may, now),
            );
            // Nothing is started beside a test.
            let granted = granted.filter(|_| !self.stress.busy(&self.ledger, now));
            ranks::due(&self.ledger, &mut self.live, granted, now, &mut effects);
            let environment = &self.ledger.environment;
            let heard = self.link.heard(&environment.items);
            effects.extend(self.environment.next(
                environment,
                self.inventory.is_some(),
                heard,
                now,
            ));
            let may_restart = self.link.confirmed && self.open_ranks().next().is_none();
            let wish = self.ledger.disk_expand.as_ref();
            effects.extend(self.disk.next(wish, &self.options.boot_id, may_restart));
        }
        // Whoever has ranks to tell of does not wait.
        let unsure = self.ledger.generation > 0
            && self.environment.unsure(&self.ledger.environment)
            && ranks::observed(&self.ledger, &self.live).is_empty();
        let observed = (settled && !unsure).then(|| self.observed());
        let generation = self.told_generation();
        let inventory = self
            .inventory
            .as_ref()
            .map(|inventory| (self.inventory_version, inventory));
        effects.extend(
            self.link
                .next(now, generation, observed, inventory)
                .map(Effect::Send),
        );
        if settled {
            self.prune(now, &mut effects);
        }
        effects
    }

    /// The moment on the monotonic clock at which [`AgentCore::effects`] has to be asked although nothing happened.
    pub fn next_wake(&self) -> Option<Duration> {
        let store = if self.storing.is_none() {
            self.store_after
        } else {
            None
        };
        let acting = [
            self.environment.wake(),
            ranks::wake(&self.live),
            self.prune_at(),
            self.stress_wake(),
        ];
        let acting = acting.into_iter().filter(|_| self.settled());
        [self.link.wake(), store]
            .into_iter()
            .chain(acting)
            .flatten()
            .min()
    }

    /// The newest ledger, stored or about to be.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The ranks that have not ended, as far as is known.
    pub fn open_ranks(&self) -> impl Iterator<Item = &RankKey> {
        self.ledger
            .ranks
            .iter()
            .filter(|(_, record)| matches!(record, RankRecord::Launched { .. }))
            .map(|(key, _)| key)
    }

    /// What this agent would report now, without the inventory.
    pub fn observed(&self) -> Observed {
        let environment = &self.ledger.environment;
        Observed {
            boot_id: self.options.boot_id.clone(),
            agent_version: self.options.agent_version.clone(),
            capabilities: self.options.capabilities.clone(),
            address: self.options.address.clone(),
            environment_applied: self.environment.applied(environment),
            environment_items: environment.items.clone(),
            ranks: ranks::observed(&self.ledger, &self.live),
            disk_expand: self.disk.report.clone(),
            stress: self.stress.report.clone(),
            disk_usage: self.disk.usage,
            retries: self.retries.observed(),
            inventory: None,
        }
    }

    /// A test ends with its lease.
    fn stress_wake(&self) -> Option<Duration> {
        let lease = self.lease_written.filter(|_| self.stress.running());
        [self.stress.wake(), lease].into_iter().flatten().min()
    }

    /// Whether everything that it knows is on the disk.
    pub fn is_stored(&self) -> bool {
        self.stored_version >= self.version
    }

    /// Whether everything that was decided is on the disk.
    fn settled(&self) -> bool {
        self.stored_version >= self.intent_version
    }

    /// The generation that the server is told. Nothing makes it send everything again: where the environment is missing, and where a
    /// rank waits that is perhaps not wanted any more.
    fn told_generation(&self) -> Generation {
        let missing = self.ledger.environment.missing.is_some();
        let unsure = !self.link.confirmed && ranks::waiting(&self.ledger, &self.live);
        if (missing || unsure) && !self.link.behind {
            0
        } else {
            self.stored_generation
        }
    }

    fn store(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waits = self.store_after.is_some_and(|after| now < after);
        if self.is_stored() || self.storing.is_some() || waits {
            return;
        }
        self.store_after = None;
        self.storing = Some(Storing {
            version: self.version,
            generation: self.ledger.generation,
        });
        effects.push(Effect::StoreLedger {
            version: self.version,
            ledger: Box::new(self.ledger.clone()),
        });
    }

    fn prune_at(&self) -> Option<Duration> {
        let pause = if self.prune_again {
            PRUNE_PAUSE
        } else {
            PRUNE_PERIOD
        };
        self.pruned_at.map(|pruned| pruned + pause)
    }

    fn prune(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.prune_at().is_some_and(|at| now < at) {
            return;
        }
        self.pruned_at = Some(now);
        self.prune_again = false;
        let kept =
            |record: &RankRecord| matches!(record, RankRecord::Archived { removed: false, .. });
        let archived: Vec<RankKey> = self
            .ledger
            .ranks
            .iter()
            .filter(|(_, record)| kept(record))
            .map(|(key, _)| key.clone())
            .collect();
        if !archived.is_empty() {
            effects.push(Effect::Prune { archived });
        }
    }
}
