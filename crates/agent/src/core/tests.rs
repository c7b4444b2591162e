//! The core, told one thing after the other; in [`world`], told anything in any order.

mod environment;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use supernode_api::agent::Sync;
use supernode_types::agent::{DesiredRank, EnvironmentWish, RankLaunch, RankPlace, RankWish};
use supernode_types::entropy::SeededEntropy;
use supernode_types::environment::{EnvironmentDesired, ItemCondition};
use supernode_types::job::RankEnd;
use supernode_types::{AttemptId, JobId, Timestamp};

use super::link::GATHERING;
use super::*;

const BOOT: &str = "boot-1";
const FENCE: Duration = Duration::from_secs(8);
const INTERVAL: Duration = Duration::from_secs(1);

fn options() -> CoreOptions {
    CoreOptions {
        boot_id: BOOT.into(),
        agent_version: "1".into(),
        capabilities: Vec::new(),
        address: "10.0.0.1".into(),
    }
}

fn attempt(number: u64) -> AttemptId {
    let milliseconds = i64::try_from(number).expect("small") * 1000;
    AttemptId::new(Timestamp(milliseconds), &SeededEntropy::new(number))
}

fn key(number: u64) -> RankKey {
    RankKey {
        attempt: attempt(number),
        rank: 0,
    }
}

fn run() -> RankWish {
    RankWish::Run(Box::new(RankLaunch {
        arguments: vec!["true".into()],
        environment: BTreeMap::new(),
        workdir: None,
        run_as_root: false,
        place: RankPlace {
            local_rank: 0,
            local_world_size: 1,
            node_rank: 0,
            nodes: 1,
            world_size: 1,
            master_address: "10.0.0.1".into(),
            master_port: 20_000,
            device: 0,
            devices: vec![0],
            restart_count: 0,
        },
        group_key: None,
        retry_log: None,
        rank_table: None,
    }))
}

fn stop() -> RankWish {
    RankWish::Stop {
        grace_milliseconds: 10_000,
        why: "the job was cancelled".into(),
    }
}

fn wish(number: u64, wish: RankWish) -> DesiredRank {
    let job = JobId::new(Timestamp(0), &SeededEntropy::new(number));
    DesiredRank {
        attempt: attempt(number),
        job,
        rank: 0,
        boot_id: BOOT.into(),
        wish,
    }
}

fn desired(generation: Generation, ranks: Vec<DesiredRank>) -> Desired {
    Desired {
        generation,
        environment: EnvironmentWish::Clean,
        ranks,
        disk_expand: None,
        stress: None,
    }
}

fn document(generation: Generation) -> EnvironmentDesired {
    EnvironmentDesired {
        super_node_name: "sn".into(),
        generation,
        members: Vec::new(),
        variables: BTreeMap::new(),
        files: Vec::new(),
        sysctls: BTreeMap::new(),
        required_versions: BTreeMap::new(),
    }
}

fn keep(generation: Generation, document_generation: Generation) -> Desired {
    Desired {
        environment: EnvironmentWish::Keep {
            generation: document_generation,
        },
        ..desired(generation, vec![])
    }
}

fn have(generation: Generation, document_generation: Generation) -> Desired {
    Desired {
        environment: EnvironmentWish::Have(Arc::new(document(document_generation))),
        ..desired(generation, vec![])
    }
}

/// A core whose effects are done at once, except those that a test looks at.
struct Rig {
    core: AgentCore,
    now: Duration,
    disk: Ledger,
    sent: Vec<Sync>,
    rest: Vec<Effect>,
}

impl Rig {
    fn new(ledger: Ledger, found: Vec<(RankKey, RankState)>) -> Self {
        let mut core = AgentCore::new(options(), ledger.clone(), found);
        core.on_inventory(Inventory::default());
        Self {
            core,
            now: Duration::from_secs(100),
            disk: ledger,
            sent: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Connected, and the first sync acknowledged.
    fn connected(ledger: Ledger, found: Vec<(RankKey, RankState)>) -> Self {
        let mut rig = Self::new(ledger, found);
        rig.core.on_connected();
        rig.go();
        rig.acknowledge();
        rig
    }

    /// Does the inner effects until only those for the outside are left, and lets the moment pass in which news is gathered.
    fn go(&mut self) {
        loop {
            let mut inner = false;
            for effect in self.core.effects(self.now) {
                match effect {
                    Effect::StoreLedger { version, ledger } => {
                        self.disk = *ledger;
                        self.core.on_ledger_stored(version);
                        inner = true;
                    }
                    Effect::ExtendLease { deadline } => {
                        self.core.on_lease_written(deadline);
                        inner = true;
                    }
                    Effect::CleanEnvironment => {
                        self.core.on_environment_done(
                            EnvironmentTask::Clean,
                            Ok(Vec::new()),
                            self.now,
                        );
                        inner = true;
                    }
                    Effect::Prune { archived } => self.core.on_ranks_removed(&archived),
                    Effect::Send(sync) => self.sent.push(sync),
                    other => self.rest.push(other),
                }
            }
            let next = self.core.next_wake().filter(|wake| *wake > self.now);
            match next {
                _ if inner => {}
                Some(next) if next <= self.now + GATHERING => self.now = next,
                _ => return,
            }
        }
    }

    fn acknowledge(&mut self) {
        let sequence = self.sent.last().expect("something was sent").sequence;
        self.core.on_acknowledge(sequence, FENCE, INTERVAL);
        self.go();
    }

    /// Acknowledges until there is nothing more to say.
    fn quiet(&mut self) {
        loop {
            let sent = self.sent.len();
            self.acknowledge();
            if self.sent.len() == sent {
                return;
            }
        }
    }

    fn desired(&mut self, desired: Desired) -> Reception {
        let reception = self.core.on_desired(desired);
        self.go();
        reception
    }

    fn launched(&mut self) -> Vec<RankKey> {
        let rest = std::mem::take(&mut self.rest);
        let launched = rest.iter().filter_map(|effect| match effect {
            Effect::LaunchRank { key, .. } => Some(key.clone()),
            _ => None,
        });
        launched.collect()
    }

    fn stopped(&mut self) -> Vec<(RankKey, Duration)> {
        let rest = std::mem::take(&mut self.rest);
        let stopped = rest.iter().filter_map(|effect| match effect {
            Effect::StopRank { key, grace, .. } => Some((key.clone(), *grace)),
            _ => None,
        });
        stopped.collect()
    }

    fn state(&self, number: u64) -> Option<RankState> {
        let observed = self.core.observed();
        observed
            .ranks
            .into_iter()
            .find(|rank| rank.attempt == attempt(number))
            .map(|rank| rank.state)
    }
}

fn ended(end: RankEnd) -> RankState {
    RankState::Ended {
        end,
        last_lines: Vec::new(),
    }
}

#[test]
fn the_ledger_is_stored_before_a_rank_starts_and_before_it_is_reported() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    assert_eq!(
        rig.core.on_desired(desired(1, vec![wish(1, run())])),
        Reception::Accepted
    );
    let effects = rig.core.effects(rig.now);
    let [Effect::StoreLedger { version, ledger }] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((ledger.generation, ledger.ranks.len()), (1, 1));
    assert_eq!(
        rig.core.effects(rig.now),
        [],
        "nothing else happens meanwhile"
    );
    rig.core.on_ledger_failed(*version, rig.now);
    assert_eq!(
        rig.core.next_wake().expect("it is tried again"),
        rig.now + INTERVAL
    );
    rig.go();
    assert_eq!(rig.launched(), []);
    rig.now += STORE_RETRY;
    rig.go();
    assert_eq!(rig.launched(), [key(1)]);
    assert_eq!(rig.sent.last().expect("it reports").stored_generation, 1);
}

#[test]
fn repeated_and_stale_desired_states_change_nothing() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(desired(5, vec![wish(1, run())]));
    assert_eq!(rig.launched(), [key(1)]);
    assert_eq!(
        rig.desired(desired(5, vec![wish(1, run())])),
        Reception::Known
    );
    assert_eq!(
        rig.desired(desired(4, vec![wish(2, run())])),
        Reception::Refused
    );
    assert_eq!((rig.launched(), rig.core.ledger().generation), (vec![], 5));
    rig.desired(desired(6, vec![wish(1, run())]));
    assert_eq!(rig.launched(), [], "it was started once");
}

#[test]
fn a_rank_of_another_boot_is_lost_and_never_starts() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    let other = DesiredRank {
        boot_id: "boot-0".into(),
        ..wish(1, run())
    };
    rig.desired(desired(1, vec![other]));
    assert_eq!(rig.launched(), []);
    assert!(matches!(
        rig.state(1),
        Some(RankState::Ended {
            end: RankEnd::Lost { .. },
            ..
        })
    ));
    // And one that ran when the node was restarted.
    let mut ledger = Ledger {
        generation: 3,
        wishes: vec![wish(2, run())],
        ..Ledger::default()
    };
    ledger.ranks.insert(
        key(2),
        RankRecord::Launched {
            boot_id: "boot-0".into(),
        },
    );
    let mut rig = Rig::connected(ledger, Vec::new());
    assert_eq!(rig.launched(), []);
    assert!(matches!(
        rig.state(2),
        Some(RankState::Ended {
            end: RankEnd::Lost { .. },
            ..
        })
    ));
    assert!(matches!(rig.disk.ranks[&key(2)], RankRecord::Ended { .. }));
}

#[test]
fn a_rank_that_was_to_stop_before_it_started_never_starts() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(desired(1, vec![wish(1, stop())]));
    assert_eq!(rig.state(1), Some(ended(RankEnd::Stopped { code: 143 })));
    rig.desired(desired(2, vec![wish(1, run())]));
    assert_eq!(rig.launched(), []);
    rig.desired(desired(3, vec![]));
    assert_eq!(rig.state(1), None);
    // A server that was restored from a backup.
    rig.desired(desired(4, vec![wish(1, run())]));
    assert_eq!(rig.launched(), []);
    assert_eq!(rig.state(1), Some(ended(RankEnd::Stopped { code: 143 })));
}

#[test]
fn an_ended_rank_is_reported_until_a_later_state_does_not_list_it() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(desired(1, vec![wish(1, run())]));
    rig.core.on_rank_observed(&key(1), RankState::Running);
    rig.desired(desired(2, vec![]));
    assert_eq!(
        rig.stopped(),
        [(key(1), Duration::from_secs(1))],
        "it is not listed any more"
    );
    rig.core
        .on_rank_observed(&key(1), ended(RankEnd::Stopped { code: 143 }));
    rig.go();
    assert_eq!(rig.state(1), Some(ended(RankEnd::Stopped { code: 143 })));
    rig.desired(desired(2, vec![]));
    assert!(rig.state(1).is_some(), "the same state says nothing new");
    rig.desired(desired(3, vec![]));
    assert_eq!(rig.state(1), None);
    assert!(matches!(
        rig.disk.ranks[&key(1)],
        RankRecord::Archived { .. }
    ));
}

#[test]
fn the_same_state_sent_again_in_full_forgets_nothing() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(desired(1, vec![wish(1, run())]));
    rig.core.on_rank_observed(&key(1), RankState::Running);
    rig.desired(keep(2, 4));
    rig.core
        .on_rank_observed(&key(1), ended(RankEnd::Stopped { code: 143 }));
    assert_eq!(rig.desired(have(2, 4)), Reception::Accepted);
    assert!(
        rig.state(1).is_some(),
        "it ended at this generation, and a later one has to forget it"
    );
}

#[test]
fn an_acknowledgement_stands_for_all_that_was_sent_before() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.quiet();
    for _ in 0..2 {
        rig.now += INTERVAL;
        rig.go();
    }
    let sequence = rig.sent.last().expect("two heartbeats").sequence;
    rig.core.on_acknowledge(sequence, FENCE, INTERVAL);
    rig.go();
    assert_eq!(rig.core.lease_written, Some(rig.now + FENCE));
    rig.core.on_acknowledge(sequence - 1, FENCE, INTERVAL);
    rig.go();
    assert_eq!(
        rig.core.lease_written,
        Some(rig.now + FENCE),
        "a late one of an earlier sync shortens nothing"
    );
}

#[test]
fn a_stop_is_repeated_with_a_shorter_grace_and_after_a_while() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(desired(1, vec![wish(1, run())]));
    rig.core.on_rank_observed(&key(1), RankState::Running);
    rig.desired(desired(2, vec![wish(1, stop())]));
    assert_eq!(rig.stopped(), [(key(1), Duration::from_secs(10))]);
    rig.desired(desired(3, vec![wish(1, stop())]));
    assert_eq!(rig.stopped(), []);
    let shorter = RankWish::Stop {
        grace_milliseconds: 0,
        why: "now".into(),
    };
    rig.desired(desired(4, vec![wish(1, shorter)]));
    assert_eq!(rig.stopped(), [(key(1), Duration::ZERO)]);
    rig.now += Duration::from_secs(5);
    rig.go();
    assert_eq!(rig.stopped(), [(key(1), Duration::ZERO)]);
}

#[test]
fn without_a_lease_nothing_starts() {
    let mut rig = Rig::new(Ledger::default(), Vec::new());
    rig.core.on_connected();
    rig.go();
    rig.desired(desired(1, vec![wish(1, run())]));
    assert_eq!(rig.launched(), []);
    rig.acknowledge();
    assert_eq!(rig.launched(), [key(1)]);
    // The lease of one that lost contact has ended, whatever it is told.
    rig.now += FENCE;
    rig.desired(desired(2, vec![wish(1, run()), wish(2, run())]));
    assert_eq!(rig.launched(), []);
}

#[test]
fn an_acknowledgement_counts_from_the_sending() {
    let mut rig = Rig::new(Ledger::default(), Vec::new());
    rig.core.on_connected();
    rig.go();
    let sent_at = rig.now;
    rig.now += Duration::from_secs(3);
    rig.core.on_acknowledge(1, FENCE, INTERVAL);
    let extended: Vec<Effect> = rig
        .core
        .effects(rig.now)
        .into_iter()
        .filter(|effect| matches!(effect, Effect::ExtendLease { .. }))
        .collect();
    assert_eq!(
        extended,
        [Effect::ExtendLease {
            deadline: sent_at + FENCE
        }]
    );
    rig.core.on_acknowledge(77, FENCE, INTERVAL);
    rig.core.on_disconnected();
    rig.core.on_connected();
    rig.core.on_acknowledge(1, FENCE * 2, INTERVAL);
    let effects = rig.core.effects(rig.now);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::ExtendLease { .. })),
        "none of this connection: {effects:?}"
    );
}

#[test]
fn a_rank_that_waits_after_a_restart_starts_only_when_it_is_still_wanted() {
    let mut ledger = Ledger {
        generation: 3,
        wishes: vec![wish(1, run())],
        ..Ledger::default()
    };
    ledger.ranks.insert(
        key(1),
        RankRecord::Launched {
            boot_id: BOOT.into(),
        },
    );
    let mut rig = Rig::connected(ledger.clone(), Vec::new());
    assert_eq!(rig.launched(), []);
    assert_eq!(
        rig.sent[0].stored_generation, 0,
        "so that the server sends everything"
    );
    rig.desired(desired(3, vec![wish(1, run())]));
    assert_eq!(rig.launched(), [key(1)]);
    let mut rig = Rig::connected(ledger.clone(), Vec::new());
    rig.desired(desired(4, vec![]));
    assert_eq!(rig.launched(), []);
    // One that runs already is found, and nothing has to be asked.
    let mut rig = Rig::connected(ledger, vec![(key(1), RankState::Running)]);
    assert_eq!((rig.launched(), rig.sent[0].stored_generation), (vec![], 3));
    assert_eq!(rig.state(1), Some(RankState::Running));
}

#[test]
fn a_server_that_knows_less_hears_the_truth() {
    let mut ledger = Ledger {
        generation: 9,
        wishes: vec![wish(1, run())],
        ..Ledger::default()
    };
    ledger.ranks.insert(
        key(1),
        RankRecord::Launched {
            boot_id: BOOT.into(),
        },
    );
    let mut rig = Rig::connected(ledger, Vec::new());
    assert_eq!(rig.desired(desired(5, vec![])), Reception::Refused);
    rig.now += INTERVAL;
    rig.go();
    assert_eq!(rig.sent.last().expect("a heartbeat").stored_generation, 9);
    assert_eq!(rig.desired(desired(10, vec![])), Reception::Accepted);
}

#[test]
fn an_agent_without_its_ledger_leaves_running_ranks_alone_until_it_is_told() {
    let mut rig = Rig::connected(
        Ledger::default(),
        vec![(key(1), RankState::Running), (key(2), RankState::Running)],
    );
    assert_eq!(rig.stopped(), []);
    assert_eq!(rig.state(1), Some(RankState::Running));
    rig.desired(desired(7, vec![wish(1, run())]));
    assert_eq!(rig.stopped(), [(key(2), Duration::from_secs(1))]);
    assert_eq!(rig.launched(), []);
}

#[test]
fn one_report_is_under_way_at_a_time_and_the_next_says_what_it_led_to() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(desired(1, vec![wish(1, run()), wish(2, run())]));
    let reported = rig.sent.len();
    rig.core.on_rank_observed(&key(1), RankState::Running);
    rig.go();
    rig.core.on_rank_observed(&key(2), RankState::Running);
    rig.go();
    rig.core
        .on_rank_observed(&key(1), ended(RankEnd::Exited { code: 0 }));
    rig.go();
    assert_eq!(
        rig.sent.len(),
        reported,
        "the report of the two starts is not acknowledged yet"
    );
    rig.acknowledge();
    let observed = rig
        .sent
        .last()
        .and_then(|sync| sync.observed.clone())
        .expect("all in one");
    assert_eq!(observed.ranks[0].state, ended(RankEnd::Exited { code: 0 }));
    assert_eq!(observed.ranks[1].state, RankState::Running);
    rig.acknowledge();
    let count = rig.sent.len();
    rig.go();
    assert_eq!(rig.sent.len(), count, "nothing new");
    assert_eq!(rig.core.next_wake(), Some(rig.now + INTERVAL));
    rig.now += INTERVAL;
    rig.go();
    assert_eq!(rig.sent.last().expect("a heartbeat").observed, None);
}

#[test]
fn the_inventory_is_sent_on_connect_and_when_it_changes() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    let inventory = |rig: &Rig| {
        rig.sent
            .last()
            .and_then(|sync| sync.observed.clone())
            .and_then(|observed| observed.inventory)
    };
    assert_eq!(inventory(&rig), Some(Inventory::default()));
    let other = Inventory {
        host_name: "n1".into(),
        ..Inventory::default()
    };
    rig.core.on_inventory(other.clone());
    rig.go();
    assert_eq!(inventory(&rig), Some(other.clone()));
    rig.acknowledge();
    rig.core.on_inventory(other.clone());
    rig.desired(desired(1, vec![wish(1, stop())]));
    assert_eq!(inventory(&rig), None);
    rig.core.on_disconnected();
    rig.core.on_connected();
    rig.go();
    assert_eq!(inventory(&rig), Some(other));
}

#[test]
fn a_silent_server_is_given_up() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.now += INTERVAL;
    rig.go();
    let asked = rig.now;
    while rig.rest.is_empty() {
        rig.now = rig
            .core
            .next_wake()
            .expect("there is something to wait for");
        assert!(rig.now <= asked + INTERVAL * 3 + Duration::from_secs(2));
        rig.go();
    }
    assert_eq!(rig.rest, [Effect::Reconnect]);
    rig.now += INTERVAL;
    let sent = rig.sent.len();
    rig.go();
    assert_eq!(rig.sent.len(), sent, "there is no connection");
}
