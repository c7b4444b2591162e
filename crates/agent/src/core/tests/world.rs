//! The core in a world that repeats, reorders, loses, and kills the agent between any two effects.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use supernode_api::agent::Sync;
use supernode_types::Generation;
use supernode_types::agent::{Desired, DesiredRank, RankWish};
use supernode_types::inventory::Inventory;
use supernode_types::job::{RankEnd, RankState};

use super::super::{AgentCore, CoreOptions, Effect, EnvironmentTask};
use super::{FENCE, INTERVAL, desired, ended, key, options, run, stop, wish};
use crate::ledger::{Ledger, RankKey, RankRecord};

/// What the tests do to the agent.
#[derive(Debug, Clone)]
enum Step {
    /// The server wants one more rank.
    Want,
    /// The server wants a rank to stop.
    Unwant(usize),
    /// The server gives a rank up, although it may run.
    GiveUp(usize),
    /// A desired state arrives: the newest, or one of long ago.
    Tell(Option<usize>),
    /// A rank ends by itself.
    End(usize),
    /// One of the effects that were asked for is done.
    Do(usize),
    /// The agent is killed and started anew.
    Kill,
    /// The machine is restarted.
    Reboot,
    Connect,
    Disconnect,
    /// The newest sync is acknowledged.
    Acknowledge,
    /// Time goes on.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Want),
        2 => any::<usize>().prop_map(Step::Unwant),
        1 => any::<usize>().prop_map(Step::GiveUp),
        4 => Just(Step::Tell(None)),
        1 => any::<usize>().prop_map(|index| Step::Tell(Some(index))),
        2 => any::<usize>().prop_map(Step::End),
        12 => any::<usize>().prop_map(Step::Do),
        2 => Just(Step::Kill),
        1 => Just(Step::Reboot),
        3 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        4 => Just(Step::Acknowledge),
        2 => (1_u64..4000).prop_map(Step::Wait),
    ]
}

/// Effects of one lane are done in their order.
fn lane(effect: &Effect) -> String {
    match effect {
        Effect::LaunchRank { key, .. } | Effect::StopRank { key, .. } => key.to_string(),
        Effect::Send(_) => "send".into(),
        Effect::ExtendLease { .. } => "lease".into(),
        Effect::StoreLedger { .. } => "ledger".into(),
        _ => "other".into(),
    }
}

/// What is on the disk and in the process table: it outlives the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Running,
    Over,
    NeverToStart,
}

#[derive(Debug)]
struct World {
    core: AgentCore,
    now: Duration,
    boot: u32,
    disk: Ledger,
    lease: Duration,
    processes: BTreeMap<RankKey, Process>,
    starts: BTreeMap<RankKey, u32>,
    pending: Vec<Effect>,
    // The server.
    generation: Generation,
    wanted: BTreeMap<RankKey, DesiredRank>,
    ended: BTreeMap<RankKey, RankEnd>,
    history: Vec<Desired>,
    next_attempt: u64,
    last_sequence: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            core: AgentCore::new(options(), Ledger::default(), Vec::new()),
            now: Duration::from_secs(1000),
            boot: 1,
            disk: Ledger::default(),
            lease: Duration::ZERO,
            processes: BTreeMap::new(),
            starts: BTreeMap::new(),
            pending: Vec::new(),
            generation: 0,
            wanted: BTreeMap::new(),
            ended: BTreeMap::new(),
            history: Vec::new(),
            next_attempt: 1,
            last_sequence: 0,
        };
        world.core.on_inventory(Inventory::default());
        world
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    fn revise(&mut self) {
        self.generation += 1;
        let ranks = self.wanted.values().cloned().collect();
        self.history.push(desired(self.generation, ranks));
    }

    fn pick(&self, index: usize) -> Option<RankKey> {
        (!self.wanted.is_empty())
            .then(|| self.wanted.keys().nth(index % self.wanted.len()).cloned())
            .flatten()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Want => {
                let mut rank = wish(self.next_attempt, run());
                rank.boot_id = self.boot_id();
                self.wanted.insert(key(self.next_attempt), rank);
                self.next_attempt += 1;
                self.revise();
            }
            Step::Unwant(index) => {
                if let Some(key) = self.pick(*index) {
                    self.wanted.get_mut(&key).expect("picked").wish = stop();
                    self.revise();
                }
            }
            Step::GiveUp(index) => {
                if let Some(key) = self.pick(*index) {
                    self.wanted.remove(&key);
                    self.revise();
                }
            }
            Step::Tell(index) => {
                let desired = match index {
                    Some(index) if !self.history.is_empty() => {
                        self.history.get(index % self.history.len()).cloned()
                    }
                    _ => self.history.last().cloned(),
                };
                if let Some(desired) = desired {
                    self.core.on_desired(desired);
                }
            }
            Step::End(index) => {
                let running: Vec<RankKey> = self
                    .processes
                    .iter()
                    .filter(|(_, state)| **state == Process::Running)
                    .map(|(key, _)| key.clone())
                    .collect();
                if let Some(key) = running.get(index % running.len().max(1)) {
                    self.processes.insert(key.clone(), Process::Over);
                    self.core
                        .on_rank_observed(key, ended(RankEnd::Exited { code: 0 }));
                }
            }
            Step::Do(index) => {
                if !self.pending.is_empty() {
                    let chosen = lane(&self.pending[index % self.pending.len()]);
                    let first = self
                        .pending
                        .iter()
                        .position(|effect| lane(effect) == chosen)
                        .expect("the chosen one");
                    let effect = self.pending.remove(first);
                    self.perform(effect);
                }
            }
            Step::Kill => self.kill(),
            Step::Reboot => {
                self.boot += 1;
                self.processes
                    .values_mut()
                    .filter(|state| **state == Process::Running)
                    .for_each(|state| *state = Process::Over);
                self.lease = Duration::ZERO;
                self.kill();
            }
            Step::Connect => {
                self.core.on_disconnected();
                self.core.on_connected();
                self.last_sequence = 0;
            }
            Step::Disconnect => self.core.on_disconnected(),
            Step::Acknowledge => self
                .core
                .on_acknowledge(self.last_sequence, FENCE, INTERVAL),
            Step::Wait(milliseconds) => self.now += Duration::from_millis(*milliseconds),
        }
        let effects = self.core.effects(self.now);
        self.pending.extend(effects);
    }

    fn kill(&mut self) {
        self.pending.clear();
        let found: Vec<(RankKey, RankState)> = self
            .processes
            .iter()
            .map(|(key, state)| {
                let state = match state {
                    Process::Running => RankState::Running,
                    Process::Over => ended(RankEnd::Exited { code: 0 }),
                    Process::NeverToStart => ended(RankEnd::Stopped { code: 143 }),
                };
                (key.clone(), state)
            })
            .collect();
        self.core = AgentCore::new(
            CoreOptions {
                boot_id: self.boot_id(),
                ..options()
            },
            self.disk.clone(),
            found,
        );
        self.core.on_inventory(Inventory::default());
        self.last_sequence = 0;
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::StoreLedger { version, ledger } => {
                self.disk = *ledger;
                self.core.on_ledger_stored(version);
            }
            Effect::ExtendLease { deadline } => {
                self.lease = deadline;
                self.core.on_lease_written(deadline);
            }
            Effect::LaunchRank { key, .. } => {
                assert!(
                    matches!(self.disk.ranks.get(&key), Some(RankRecord::Launched { boot_id }) if *boot_id == self.boot_id()),
                    "{key} is in the ledger"
                );
                assert!(
                    !self.ended.contains_key(&key),
                    "{key} was reported to have ended, and starts"
                );
                assert!(
                    !self.processes.contains_key(&key),
                    "{key} is asked to start although something of it is here"
                );
                *self.starts.entry(key.clone()).or_default() += 1;
                // A supervisor without a lease ends what it would have started.
                let state = if self.now < self.lease {
                    Process::Running
                } else {
                    Process::Over
                };
                self.processes.insert(key.clone(), state);
                self.core.on_rank_observed(
                    &key,
                    if state == Process::Running {
                        RankState::Running
                    } else {
                        ended(RankEnd::Fenced)
                    },
                );
            }
            Effect::StopRank { key, .. } => {
                let state = self
                    .processes
                    .entry(key.clone())
                    .or_insert(Process::NeverToStart);
                if *state == Process::Running {
                    *state = Process::Over;
                }
                self.core
                    .on_rank_observed(&key, ended(RankEnd::Stopped { code: 143 }));
            }
            Effect::Send(sync) => self.receive(sync),
            Effect::CleanEnvironment => {
                self.core
                    .on_environment_done(EnvironmentTask::Clean, Ok(Vec::new()), self.now);
            }
            Effect::Prune { archived } => {
                self.processes.retain(|key, _| !archived.contains(key));
                self.core.on_ranks_removed(&archived);
            }
            Effect::ApplyEnvironment { .. } | Effect::VerifyEnvironment { .. } => {
                unreachable!("no environment is wanted")
            }
            Effect::RunStress { .. }
            | Effect::StopStress { .. }
            | Effect::ExpandDisk { .. }
            | Effect::RestartMachine { .. } => {
                unreachable!("no larger disk is wanted")
            }
            Effect::Reconnect => {}
        }
    }

    /// The server's side of a sync.
    fn receive(&mut self, sync: Sync) {
        self.last_sequence = sync.sequence;
        assert!(
            sync.stored_generation <= self.disk.generation,
            "what is called stored is stored"
        );
        let Some(observed) = sync.observed else {
            return;
        };
        for rank in observed.ranks {
            let key = RankKey {
                attempt: rank.attempt,
                rank: rank.rank,
            };
            match rank.state {
                RankState::Ended { end, .. } => {
                    assert_ne!(
                        self.processes.get(&key),
                        Some(&Process::Running),
                        "{key} runs, and was reported to have ended"
                    );
                    if self.wanted.remove(&key).is_some() {
                        self.revise();
                    }
                    self.ended.entry(key).or_insert(end);
                }
                RankState::Running | RankState::Assigned => {}
            }
        }
    }

    /// Everything works from now on: the agent must come to what the server wants.
    fn settle(&mut self) {
        // What is under way is done in some order; then there is a new connection.
        while !self.pending.is_empty() {
            self.step(&Step::Do(0));
        }
        self.step(&Step::Connect);
        for _ in 0..200 {
            while !self.pending.is_empty() {
                self.step(&Step::Do(0));
            }
            self.step(&Step::Acknowledge);
            self.step(&Step::Tell(None));
            if self.pending.is_empty() {
                self.step(&Step::Wait(1000));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_rank_starts_at_most_once_and_the_agent_comes_to_what_is_wanted(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            prop_assert!(world.starts.values().all(|count| *count == 1), "started twice: {:?}", world.starts);
        }
        world.settle();
        prop_assert!(world.starts.values().all(|count| *count == 1), "started twice: {:?}", world.starts);
        for (key, state) in &world.processes {
            let wanted = world.wanted.get(key).is_some_and(|rank| matches!(rank.wish, RankWish::Run(_)));
            prop_assert!(*state != Process::Running || wanted, "{key} runs and is not wanted");
        }
        for (key, rank) in &world.wanted {
            prop_assert!(matches!(rank.wish, RankWish::Run(_)), "{key} was to stop, and is not reported to have ended");
            prop_assert_eq!(world.processes.get(key), Some(&Process::Running), "{} is wanted and does not run", key);
        }
    }
}
