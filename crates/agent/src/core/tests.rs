//! The core against a world that repeats, reorders, loses, and kills the agent between any two effects.

use std::collections::BTreeMap;

use proptest::prelude::*;
use supernode_api::agent::Sync;
use supernode_types::agent::{DesiredRank, EnvironmentWish, RankLaunch, RankPlace, RankWish};
use supernode_types::entropy::SeededEntropy;
use supernode_types::environment::{EnvironmentDesired, ItemCondition};
use supernode_types::job::RankEnd;
use supernode_types::{AttemptId, JobId, Timestamp};

use super::*;

const BOOT: &str = "boot-1";
const FENCE: Duration = Duration::from_secs(8);
const INTERVAL: Duration = Duration::from_secs(1);

fn options() -> CoreOptions {
    CoreOptions { boot_id: BOOT.into(), agent_version: "1".into(), capabilities: Vec::new(), address: "10.0.0.1".into() }
}

fn attempt(number: u64) -> AttemptId {
    let milliseconds = i64::try_from(number).expect("small") * 1000;
    AttemptId::new(Timestamp(milliseconds), &SeededEntropy::new(number))
}

fn key(number: u64) -> RankKey {
    RankKey { attempt: attempt(number), rank: 0 }
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
        rank_table: None,
    }))
}

fn stop() -> RankWish {
    RankWish::Stop { grace_milliseconds: 10_000, why: "the job was cancelled".into() }
}

fn wish(number: u64, wish: RankWish) -> DesiredRank {
    let job = JobId::new(Timestamp(0), &SeededEntropy::new(number));
    DesiredRank { attempt: attempt(number), job, rank: 0, boot_id: BOOT.into(), wish }
}

fn desired(generation: Generation, ranks: Vec<DesiredRank>) -> Desired {
    Desired { generation, environment: EnvironmentWish::Clean, ranks }
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
        Self { core, now: Duration::from_secs(100), disk: ledger, sent: Vec::new(), rest: Vec::new() }
    }

    /// Connected, and the first sync acknowledged.
    fn connected(ledger: Ledger, found: Vec<(RankKey, RankState)>) -> Self {
        let mut rig = Self::new(ledger, found);
        rig.core.on_connected();
        rig.go();
        rig.acknowledge();
        rig
    }

    /// Does the inner effects until only those for the outside are left.
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
                        self.core.on_environment_done(EnvironmentTask::Clean, Ok(Vec::new()), self.now);
                        inner = true;
                    }
                    Effect::Prune { archived } => self.core.on_ranks_removed(&archived),
                    Effect::Send(sync) => self.sent.push(sync),
                    other => self.rest.push(other),
                }
            }
            if !inner {
                return;
            }
        }
    }

    fn acknowledge(&mut self) {
        let sequence = self.sent.last().expect("something was sent").sequence;
        self.core.on_acknowledge(sequence, FENCE, INTERVAL);
        self.go();
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
        observed.ranks.into_iter().find(|rank| rank.attempt == attempt(number)).map(|rank| rank.state)
    }
}

fn ended(end: RankEnd) -> RankState {
    RankState::Ended { end, last_lines: Vec::new() }
}

#[test]
fn the_ledger_is_stored_before_a_rank_starts_and_before_it_is_reported() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    assert_eq!(rig.core.on_desired(desired(1, vec![wish(1, run())])), Reception::Accepted);
    let effects = rig.core.effects(rig.now);
    let [Effect::StoreLedger { version, ledger }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((ledger.generation, ledger.ranks.len()), (1, 1));
    assert_eq!(rig.core.effects(rig.now), [], "nothing else happens meanwhile");
    rig.core.on_ledger_failed(*version, rig.now);
    assert_eq!(rig.core.next_wake().expect("it is tried again"), rig.now + INTERVAL);
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
    assert_eq!(rig.desired(desired(5, vec![wish(1, run())])), Reception::Known);
    assert_eq!(rig.desired(desired(4, vec![wish(2, run())])), Reception::Refused);
    assert_eq!((rig.launched(), rig.core.ledger().generation), (vec![], 5));
    rig.desired(desired(6, vec![wish(1, run())]));
    assert_eq!(rig.launched(), [], "it was started once");
}

#[test]
fn a_rank_of_another_boot_is_lost_and_never_starts() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    let other = DesiredRank { boot_id: "boot-0".into(), ..wish(1, run()) };
    rig.desired(desired(1, vec![other]));
    assert_eq!(rig.launched(), []);
    assert!(matches!(rig.state(1), Some(RankState::Ended { end: RankEnd::Lost { .. }, .. })));
    // And one that ran when the node was restarted.
    let mut ledger = Ledger { generation: 3, wishes: vec![wish(2, run())], ..Ledger::default() };
    ledger.ranks.insert(key(2), RankRecord::Launched { boot_id: "boot-0".into() });
    let mut rig = Rig::connected(ledger, Vec::new());
    assert_eq!(rig.launched(), []);
    assert!(matches!(rig.state(2), Some(RankState::Ended { end: RankEnd::Lost { .. }, .. })));
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
    assert_eq!(rig.stopped(), [(key(1), Duration::from_secs(1))], "it is not listed any more");
    rig.core.on_rank_observed(&key(1), ended(RankEnd::Stopped { code: 143 }));
    rig.go();
    assert_eq!(rig.state(1), Some(ended(RankEnd::Stopped { code: 143 })));
    rig.desired(desired(2, vec![]));
    assert!(rig.state(1).is_some(), "the same state says nothing new");
    rig.desired(desired(3, vec![]));
    assert_eq!(rig.state(1), None);
    assert!(matches!(rig.disk.ranks[&key(1)], RankRecord::Archived { .. }));
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
    let shorter = RankWish::Stop { grace_milliseconds: 0, why: "now".into() };
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
    let extended: Vec<Effect> = rig.core.effects(rig.now).into_iter().filter(|effect| matches!(effect, Effect::ExtendLease { .. })).collect();
    assert_eq!(extended, [Effect::ExtendLease { deadline: sent_at + FENCE }]);
    rig.core.on_acknowledge(77, FENCE, INTERVAL);
    rig.core.on_disconnected();
    rig.core.on_connected();
    rig.core.on_acknowledge(1, FENCE * 2, INTERVAL);
    let effects = rig.core.effects(rig.now);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::ExtendLease { .. })), "none of this connection: {effects:?}");
}

#[test]
fn a_rank_that_waits_after_a_restart_starts_only_when_it_is_still_wanted() {
    let mut ledger = Ledger { generation: 3, wishes: vec![wish(1, run())], ..Ledger::default() };
    ledger.ranks.insert(key(1), RankRecord::Launched { boot_id: BOOT.into() });
    let mut rig = Rig::connected(ledger.clone(), Vec::new());
    assert_eq!(rig.launched(), []);
    assert_eq!(rig.sent[0].stored_generation, 0, "so that the server sends everything");
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
    let mut ledger = Ledger { generation: 9, wishes: vec![wish(1, run())], ..Ledger::default() };
    ledger.ranks.insert(key(1), RankRecord::Launched { boot_id: BOOT.into() });
    let mut rig = Rig::connected(ledger, Vec::new());
    assert_eq!(rig.desired(desired(5, vec![])), Reception::Refused);
    rig.now += INTERVAL;
    rig.go();
    assert_eq!(rig.sent.last().expect("a heartbeat").stored_generation, 9);
    assert_eq!(rig.desired(desired(10, vec![])), Reception::Accepted);
}

#[test]
fn an_agent_without_its_ledger_leaves_running_ranks_alone_until_it_is_told() {
    let mut rig = Rig::connected(Ledger::default(), vec![(key(1), RankState::Running), (key(2), RankState::Running)]);
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
    rig.core.on_rank_observed(&key(1), ended(RankEnd::Exited { code: 0 }));
    rig.go();
    assert_eq!(rig.sent.len(), reported, "the report of the two starts is not acknowledged yet");
    rig.acknowledge();
    let observed = rig.sent.last().and_then(|sync| sync.observed.clone()).expect("all in one");
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
    let inventory = |rig: &Rig| rig.sent.last().and_then(|sync| sync.observed.clone()).and_then(|observed| observed.inventory);
    assert_eq!(inventory(&rig), Some(Inventory::default()));
    let other = Inventory { host_name: "n1".into(), ..Inventory::default() };
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
        rig.now = rig.core.next_wake().expect("there is something to wait for");
        assert!(rig.now <= asked + INTERVAL * 3 + Duration::from_secs(2));
        rig.go();
    }
    assert_eq!(rig.rest, [Effect::Reconnect]);
    rig.now += INTERVAL;
    let sent = rig.sent.len();
    rig.go();
    assert_eq!(rig.sent.len(), sent, "there is no connection");
}

fn item(state: ItemCondition) -> Vec<ItemState> {
    vec![ItemState { item: "file /etc/x".into(), state }]
}

fn have(generation: Generation, document_generation: Generation) -> Desired {
    Desired { environment: EnvironmentWish::Have(Box::new(document(document_generation))), ..desired(generation, vec![]) }
}

fn keep(generation: Generation, document_generation: Generation) -> Desired {
    Desired { environment: EnvironmentWish::Keep { generation: document_generation }, ..desired(generation, vec![]) }
}

#[test]
fn drift_is_reported_and_repaired() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(have(1, 4));
    assert!(matches!(std::mem::take(&mut rig.rest)[..], [Effect::ApplyEnvironment { .. }]));
    assert_eq!(rig.core.observed().environment_applied, 0);
    rig.core.on_environment_done(EnvironmentTask::Apply { generation: 4 }, Ok(item(ItemCondition::Applied)), rig.now);
    rig.go();
    assert_eq!((rig.core.observed().environment_applied, rig.disk.environment.applied), (4, 4));
    rig.acknowledge();
    rig.desired(keep(2, 4));
    rig.acknowledge();
    rig.now += environment::VERIFY_PERIOD;
    rig.go();
    assert!(matches!(std::mem::take(&mut rig.rest)[..], [Effect::VerifyEnvironment { .. }]));
    rig.acknowledge();
    let drift = item(ItemCondition::Drifted { why: "missing".into() });
    rig.core.on_environment_done(EnvironmentTask::Verify { generation: 4 }, Ok(drift.clone()), rig.now);
    rig.go();
    assert!(matches!(std::mem::take(&mut rig.rest)[..], [Effect::ApplyEnvironment { .. }]));
    let told = rig.sent.last().and_then(|sync| sync.observed.clone()).expect("it is reported");
    assert_eq!((told.environment_items, told.environment_applied), (drift, 4));
    let failed = item(ItemCondition::Failed { why: "read-only".into() });
    rig.core.on_environment_done(EnvironmentTask::Apply { generation: 4 }, Ok(failed.clone()), rig.now);
    rig.go();
    assert_eq!(rig.core.observed().environment_items, failed, "all was tried: the generation is applied, with a problem");
    assert_eq!(rig.rest, []);
}

#[test]
fn an_environment_that_is_not_here_is_asked_for() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    assert_eq!(rig.desired(keep(7, 4)), Reception::Accepted);
    rig.acknowledge();
    rig.now += INTERVAL;
    rig.go();
    let asked = rig.sent.last().expect("a sync");
    assert_eq!((asked.stored_generation, rig.core.observed().environment_applied), (0, 0));
    assert_eq!(rig.rest, []);
    assert_eq!(rig.desired(have(7, 4)), Reception::Accepted, "the same generation, this time with its content");
    assert!(matches!(rig.rest[..], [Effect::ApplyEnvironment { .. }]));
}

#[test]
fn leaving_cleans_and_an_executor_that_cannot_work_is_tried_again() {
    let mut rig = Rig::connected(Ledger::default(), Vec::new());
    rig.desired(have(1, 4));
    rig.rest.clear();
    rig.core.on_environment_done(EnvironmentTask::Apply { generation: 4 }, Err("the record is damaged".into()), rig.now);
    rig.go();
    assert_eq!((rig.core.observed().environment_applied, rig.rest.len()), (0, 0));
    assert!(rig.core.observed().environment_items[0].problem().is_some());
    rig.acknowledge();
    rig.now += Duration::from_secs(5);
    rig.go();
    assert!(matches!(std::mem::take(&mut rig.rest)[..], [Effect::ApplyEnvironment { .. }]));
    // The wish changes while it is applied: what was done is undone.
    rig.desired(desired(2, vec![]));
    rig.core.on_environment_done(EnvironmentTask::Apply { generation: 4 }, Ok(item(ItemCondition::Applied)), rig.now);
    rig.go();
    assert_eq!(rig.core.observed().environment_applied, 0);
    assert_eq!(rig.core.observed().environment_items, []);
}

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
        (!self.wanted.is_empty()).then(|| self.wanted.keys().nth(index % self.wanted.len()).cloned()).flatten()
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
                    Some(index) if !self.history.is_empty() => self.history.get(index % self.history.len()).cloned(),
                    _ => self.history.last().cloned(),
                };
                if let Some(desired) = desired {
                    self.core.on_desired(desired);
                }
            }
            Step::End(index) => {
                let running: Vec<RankKey> = self.processes.iter().filter(|(_, state)| **state == Process::Running).map(|(key, _)| key.clone()).collect();
                if let Some(key) = running.get(index % running.len().max(1)) {
                    self.processes.insert(key.clone(), Process::Over);
                    self.core.on_rank_observed(key, ended(RankEnd::Exited { code: 0 }));
                }
            }
            Step::Do(index) => {
                if !self.pending.is_empty() {
                    let chosen = lane(&self.pending[index % self.pending.len()]);
                    let first = self.pending.iter().position(|effect| lane(effect) == chosen).expect("the chosen one");
                    let effect = self.pending.remove(first);
                    self.perform(effect);
                }
            }
            Step::Kill => self.kill(),
            Step::Reboot => {
                self.boot += 1;
                self.processes.values_mut().filter(|state| **state == Process::Running).for_each(|state| *state = Process::Over);
                self.lease = Duration::ZERO;
                self.kill();
            }
            Step::Connect => {
                self.core.on_disconnected();
                self.core.on_connected();
                self.last_sequence = 0;
            }
            Step::Disconnect => self.core.on_disconnected(),
            Step::Acknowledge => self.core.on_acknowledge(self.last_sequence, FENCE, INTERVAL),
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
        self.core = AgentCore::new(CoreOptions { boot_id: self.boot_id(), ..options() }, self.disk.clone(), found);
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
                assert!(matches!(self.disk.ranks.get(&key), Some(RankRecord::Launched { boot_id }) if *boot_id == self.boot_id()), "{key} is in the ledger");
                assert!(!self.ended.contains_key(&key), "{key} was reported to have ended, and starts");
                assert!(!self.processes.contains_key(&key), "{key} is asked to start although something of it is here");
                *self.starts.entry(key.clone()).or_default() += 1;
                // A supervisor without a lease ends what it would have started.
                let state = if self.now < self.lease { Process::Running } else { Process::Over };
                self.processes.insert(key.clone(), state);
                self.core.on_rank_observed(&key, if state == Process::Running { RankState::Running } else { ended(RankEnd::Fenced) });
            }
            Effect::StopRank { key, .. } => {
                let state = self.processes.entry(key.clone()).or_insert(Process::NeverToStart);
                if *state == Process::Running {
                    *state = Process::Over;
                }
                self.core.on_rank_observed(&key, ended(RankEnd::Stopped { code: 143 }));
            }
            Effect::Send(sync) => self.receive(sync),
            Effect::CleanEnvironment => self.core.on_environment_done(EnvironmentTask::Clean, Ok(Vec::new()), self.now),
            Effect::Prune { archived } => {
                self.processes.retain(|key, _| !archived.contains(key));
                self.core.on_ranks_removed(&archived);
            }
            Effect::ApplyEnvironment { .. } | Effect::VerifyEnvironment { .. } => unreachable!("no environment is wanted"),
            Effect::Reconnect => {}
        }
    }

    /// The server's side of a sync.
    fn receive(&mut self, sync: Sync) {
        self.last_sequence = sync.sequence;
        assert!(sync.stored_generation <= self.disk.generation, "what is called stored is stored");
        let Some(observed) = sync.observed else { return };
        for rank in observed.ranks {
            let key = RankKey { attempt: rank.attempt, rank: rank.rank };
            match rank.state {
                RankState::Ended { end, .. } => {
                    assert_ne!(self.processes.get(&key), Some(&Process::Running), "{key} runs, and was reported to have ended");
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
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

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
