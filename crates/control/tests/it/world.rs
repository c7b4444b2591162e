//! A server with its agents, in the hands of a test: time passes when the test says so, and nothing happens by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_control::job::Strictness;
use supernode_control::provisioner::Provisioner;
use supernode_control::scale_up::{Selection, Test};
use supernode_control::service::{self, LoopMetrics};
use supernode_control::spec::Source;
use supernode_control::super_node::Create;
use supernode_control::token::JoinTokenWish;
use supernode_control::{
    ChangeRequest, Changed, Control, Enrolment, IdempotencyKey, Intent, Refusal, Settings,
    StoreError, SyncOutcome, Tx, desired, enrol, job, node, operation, query, scale_down, scale_up,
    spec, super_node, sync, token,
};
use supernode_store::migrations::MIGRATIONS;
use supernode_store::testing::PrivatePostgres;
use supernode_store::{DatabaseUrl, Options, Store};
use supernode_types::agent::Observed;
use supernode_types::entropy::SeededEntropy;
use supernode_types::event::{Event, Severity};
use supernode_types::job::{Job, JobSpec, JobState, Rank, RankState};
use supernode_types::node::{Membership, Node, NodePolicy, Position};
use supernode_types::operation::{Admission, Operation, OperationKind};
use supernode_types::super_node::{DrainMode, SuperNode};
use supernode_types::{Clock, Entropy, JobId, Name, NodeId, OperationId, Timestamp};
use tempfile::TempDir;

use crate::agent::Agent;

static POSTGRES: LazyLock<PrivatePostgres> = LazyLock::new(|| {
    let server = PrivatePostgres::start().unwrap_or_else(|error| panic!("{error}"));
    // One database with the schema, to copy: that is quicker than making the schema again and again.
    administer(&server, "CREATE DATABASE template");
    drop(open_store(&server.url("template")));
    server
});

/// Counts the databases of this process.
static DATABASES: AtomicU32 = AtomicU32::new(0);

fn administer(server: &PrivatePostgres, sql: &str) {
    server
        .administer(sql)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// 2025-11-23.
const BEGINNING: i64 = 1_763_900_000_000_000;
/// The hash of the join token that every node uses unless a test says otherwise.
pub(crate) const JOIN_TOKEN: &str = "hash-of-the-join-token";
/// What operations get when it does not matter.
pub(crate) const DEADLINE: Duration = Duration::from_mins(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// One test per case and engine, from one list of cases.
macro_rules! on_every_engine {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite { $( #[test] fn $case() { super::$case($crate::world::Engine::Sqlite); } )* }
        mod on_postgres { $( #[test] fn $case() { super::$case($crate::world::Engine::Postgres); } )* }
    };
}
pub(crate) use on_every_engine;

/// Time that stands still until it is moved.
#[derive(Debug)]
struct ManualClock(AtomicI64);

impl ManualClock {
    fn microseconds(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGINNING + self.microseconds())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.microseconds()).expect("it only grows"))
    }
}

pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) agents: BTreeMap<String, Agent>,
    pub(crate) metrics: LoopMetrics,
    clock: Arc<ManualClock>,
    entropy: Arc<dyn Entropy>,
    settings: Settings,
    url: DatabaseUrl,
    runtime: tokio::runtime::Runtime,
    _directory: Option<TempDir>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        lost_after: Duration::from_secs(10),
        admission: Admission::None,
        ..Settings::new(Provisioner::Pool)
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

pub(crate) fn request(action: &'static str) -> ChangeRequest {
    ChangeRequest {
        action,
        subject: "subject".into(),
        audited: serde_json::json!({ "asked": action }),
        request_id: "request-1".into(),
        actor: "ada".into(),
        operator: true,
        admin: true,
        if_match: None,
        idempotency: None,
    }
}

/// With an idempotency key and the digest of the request.
pub(crate) fn keyed(action: &'static str, key: &str, digest: &str) -> ChangeRequest {
    ChangeRequest {
        idempotency: Some(IdempotencyKey {
            key: key.into(),
            digest: digest.into(),
        }),
        ..request(action)
    }
}

pub(crate) fn job_spec(nodes: u32) -> JobSpec {
    JobSpec {
        nodes,
        devices: None,
        arguments: vec!["/bin/train".into()],
        environment: BTreeMap::new(),
        workdir: None,
        priority: 0,
        time_limit_seconds: None,
        requeue_limit: 0,
        grace_seconds: 10,
        run_as_root: false,
    }
}

impl World {
    /// A server over a fresh database.
    pub(crate) fn empty(engine: Engine, settings: Settings) -> Self {
        let (url, directory) = match engine {
            Engine::Sqlite => {
                // In memory where that is possible: nothing here is about the disk.
                let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
                let directory = directory.expect("a temporary directory");
                (
                    DatabaseUrl::sqlite_file(directory.path().join("state.db")),
                    Some(directory),
                )
            }
            Engine::Postgres => {
                let name = format!("t{}", DATABASES.fetch_add(1, Ordering::SeqCst));
                administer(
                    &POSTGRES,
                    &format!("CREATE DATABASE {name} TEMPLATE template"),
                );
                (POSTGRES.url(&name), None)
            }
        };
        let clock = Arc::new(ManualClock(AtomicI64::new(0)));
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(7));
        let control = open(&url, &clock, &entropy, &settings);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            control,
            agents: BTreeMap::new(),
            metrics: LoopMetrics::default(),
            clock,
            entropy,
            settings,
            url,
            runtime: runtime.expect("a runtime"),
            _directory: directory,
        }
    }

    /// A server with ready spares `n1` … of one declared spec, `std`.
    pub(crate) fn with_spares(engine: Engine, count: usize) -> Self {
        Self::with_spares_and(engine, count, settings())
    }

    pub(crate) fn with_spares_and(engine: Engine, count: usize, settings: Settings) -> Self {
        let mut world = Self::empty(engine, settings);
        for number in 1..=count {
            world.enrol(&format!("n{number}"));
        }
        world.settle();
        world.declare("std", "n1");
        world.settle();
        world
    }

    /// The server is killed and started again.
    pub(crate) fn restart(&mut self) {
        let placeholder = Control::new(
            Store::open_inline().expect("in memory"),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Arc::clone(&self.entropy),
            self.settings.clone(),
        );
        // One server at a time: the old one has to be gone before the database is opened again.
        drop(std::mem::replace(&mut self.control, placeholder));
        self.control = open(&self.url, &self.clock, &self.entropy, &self.settings);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    // ---- requests

    /// A change as the admin `ada`.
    pub(crate) fn change<T, F>(&self, action: &'static str, change: F) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        self.change_as(request(action), change)
    }

    pub(crate) fn change_as<T, F>(&self, request: ChangeRequest, change: F) -> Result<T, Refusal>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut Tx<'_>, &Intent) -> Result<T, Refusal> + Send + 'static,
    {
        self.control.change_inline(request, change)
    }

    pub(crate) fn read<T, F>(&self, read: F) -> T
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let answer = self.control.store().read_inline("test", read);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn write<T, F>(&self, write: F) -> T
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let answer = self.control.store().write_inline("test", write);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Declares what a node has as a spec of at most 48 nodes.
    pub(crate) fn declare(&self, spec_name: &str, node: &str) {
        let (spec_name, source) = (name(spec_name), Source::Node(node.into()));
        self.change("spec_create", move |tx, intent| {
            spec::declare(tx, intent, &spec_name, &source, spec::Maximums::nodes(48)).map(drop)
        })
        .expect("declared");
    }

    pub(crate) fn create(
        &self,
        super_node: &str,
        selection: Selection,
    ) -> Result<Operation, Refusal> {
        let wish = Create {
            name: name(super_node),
            spec: None,
            selection,
            labels: BTreeMap::new(),
            deadline: DEADLINE,
        };
        self.change("super_node_create", move |tx, intent| {
            super_node::create(tx, intent, &wish)
        })
    }

    /// A ready super node of `count` nodes.
    pub(crate) fn created(&mut self, super_node: &str, count: u32) {
        let operation = self
            .create(super_node, Selection::Count(count))
            .expect("accepted");
        self.settle();
        assert_eq!(self.operation(&operation.id).state.word(), "succeeded");
    }

    pub(crate) fn scale_up(
        &self,
        super_node: &str,
        selection: Selection,
    ) -> Result<Operation, Refusal> {
        self.scale_up_as(request("super_node_scale_up"), super_node, selection)
    }

    pub(crate) fn scale_up_as(
        &self,
        request: ChangeRequest,
        super_node: &str,
        selection: Selection,
    ) -> Result<Operation, Refusal> {
        let super_node = super_node.to_owned();
        self.change_as(request, move |tx, intent| {
            scale_up::scale_up(tx, intent, &super_node, &selection, Test::AsSet, DEADLINE)
        })
    }

    pub(crate) fn scale_down(
        &self,
        super_node: &str,
        selection: Selection,
        mode: DrainMode,
    ) -> Result<Operation, Refusal> {
        let super_node = super_node.to_owned();
        self.change("super_node_scale_down", move |tx, intent| {
            scale_down::scale_down(tx, intent, &super_node, &selection, mode, DEADLINE)
        })
    }

    pub(crate) fn delete(&self, super_node: &str) -> Result<Operation, Refusal> {
        let super_node = super_node.to_owned();
        self.change("super_node_delete", move |tx, intent| {
            super_node::delete(tx, intent, &super_node, DEADLINE)
        })
    }

    pub(crate) fn cancel(&self, operation: &OperationId) -> Result<(), Refusal> {
        let id = operation.to_string();
        self.change("operation_cancel", move |tx, intent| {
            operation::cancel(tx, intent, &id).map(drop)
        })
    }

    pub(crate) fn cordon(&self, node: &str, reason: &str) -> Result<Node, Refusal> {
        let (node, reason) = (node.to_owned(), reason.to_owned());
        self.change("node_cordon", move |tx, intent| {
            node::cordon(tx, intent, &node, &reason)
        })
    }

    pub(crate) fn remove(&self, node: &str) -> Result<Operation, Refusal> {
        let node = node.to_owned();
        self.change("node_remove", move |tx, intent| {
            node::remove(tx, intent, &node)
        })
    }

    pub(crate) fn submit(&self, super_node: &str, spec: JobSpec) -> Result<Job, Refusal> {
        self.submit_as(request("job_submit"), super_node, spec)
    }

    pub(crate) fn submit_as(
        &self,
        request: ChangeRequest,
        super_node: &str,
        spec: JobSpec,
    ) -> Result<Job, Refusal> {
        self.submit_with(request, super_node, spec, Strictness::Warn)
    }

    pub(crate) fn submit_with(
        &self,
        request: ChangeRequest,
        super_node: &str,
        spec: JobSpec,
        strictness: Strictness,
    ) -> Result<Job, Refusal> {
        let super_node = super_node.to_owned();
        self.change_as(request, move |tx, intent| {
            job::submit(tx, intent, &super_node, None, &spec, strictness).map(|(job, _)| job)
        })
    }

    /// A job whose ranks all run.
    pub(crate) fn running(&mut self, super_node: &str, spec: JobSpec) -> JobId {
        let job = self.submit(super_node, spec).expect("accepted").id;
        self.settle();
        assert_eq!(self.job(&job).state.word(), "running");
        job
    }

    pub(crate) fn cancel_job(&self, job: &JobId) -> Result<Job, Refusal> {
        let id = job.to_string();
        self.change("job_cancel", move |tx, intent| job::cancel(tx, intent, &id))
    }

    // ---- what there is

    pub(crate) fn node(&self, name: &str) -> Node {
        let name = name.to_owned();
        self.read(move |tx| node::find(tx, &name))
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.read(|tx| query::nodes(tx, false))
    }

    pub(crate) fn super_node(&self, name: &str) -> SuperNode {
        let name = name.to_owned();
        self.read(move |tx| super_node::find(tx, &name))
    }

    /// The names of its full members.
    pub(crate) fn members(&self, super_node: &str) -> Vec<String> {
        let id = self.super_node(super_node).id;
        let nodes = self.read(move |tx| query::nodes_of(tx, &id));
        let full = nodes
            .iter()
            .filter(|node| matches!(node.membership, Membership::Member { .. }));
        full.map(|node| node.name.to_string()).collect()
    }

    pub(crate) fn spares(&self) -> Vec<String> {
        let nodes = self.nodes();
        let spares = nodes
            .iter()
            .filter(|node| node.membership == Membership::Spare);
        spares.map(|node| node.name.to_string()).collect()
    }

    pub(crate) fn operation(&self, id: &OperationId) -> Operation {
        let id = id.to_string();
        self.read(move |tx| operation::find(tx, &id)).operation
    }

    pub(crate) fn job(&self, id: &JobId) -> Job {
        let id = id.to_string();
        self.read(move |tx| job::find(tx, &id))
    }

    pub(crate) fn ranks(&self, job: &JobId) -> Vec<Rank> {
        let job = self.job(job);
        self.read(move |tx| query::ranks_of(tx, &job))
    }

    /// How many devices jobs hold.
    pub(crate) fn leased(&self) -> u32 {
        self.read(query::leased_devices).values().sum()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.read(|tx| query::events(tx, Some(0), None, Severity::Info, 1000))
    }

    /// How often something happened.
    pub(crate) fn event_count(&self, kind: &str) -> usize {
        self.events()
            .iter()
            .filter(|event| event.kind == kind)
            .count()
    }

    // ---- agents

    /// A join token with this hash, good for an hour.
    pub(crate) fn join_token(&self, hash: &str, uses: u32) -> String {
        self.join_token_for(hash, uses, Duration::from_hours(1))
    }

    fn join_token_for(&self, hash: &str, uses: u32, lifetime: Duration) -> String {
        let hash = hash.to_owned();
        let wish = JoinTokenWish {
            uses,
            lifetime,
            labels: [("pool".to_owned(), "a".to_owned())].into(),
            position: Position::default(),
        };
        self.change("join_token_create", move |tx, intent| {
            token::create_join(tx, intent, &wish, &hash).map(|token| token.id.to_string())
        })
        .expect("created")
    }

    /// Asks for a certificate.
    pub(crate) fn ask_to_enrol(
        &self,
        hash: &str,
        node: &str,
        machine: &str,
    ) -> Result<Agent, Refusal> {
        let wish = Enrolment {
            join_token_hash: hash.into(),
            name: name(node),
            address: format!("{node}.test"),
            labels: BTreeMap::new(),
            position: Position::default(),
            machine_id: machine.into(),
        };
        let granted = self.change("node_enrol", move |tx, intent| enrol(tx, intent, &wish))?;
        let (id, serial, ends_at) = granted;
        assert!(ends_at > self.now());
        Ok(Agent::new(id, serial, format!("{node}.test")))
    }

    /// Enrols a node and connects its agent.
    pub(crate) fn enrol(&mut self, node: &str) -> NodeId {
        if self.read(query::join_tokens).is_empty() {
            self.join_token_for(JOIN_TOKEN, 1000, Duration::from_hours(24 * 365));
        }
        let agent = self
            .ask_to_enrol(JOIN_TOKEN, node, &format!("machine-{node}"))
            .expect("enrolled");
        let id = agent.id.clone();
        self.agents.insert(node.into(), agent);
        id
    }

    pub(crate) fn agent(&mut self, node: &str) -> &mut Agent {
        self.agents
            .get_mut(node)
            .unwrap_or_else(|| panic!("{node} has an agent"))
    }

    /// Stores one report.
    pub(crate) fn report(
        &self,
        id: &NodeId,
        stored: i64,
        observed: Option<Observed>,
    ) -> SyncOutcome {
        let (id, now) = (id.clone(), self.now());
        self.write(move |tx| sync(tx, &id, stored, observed.as_ref(), now))
    }

    /// One exchange of a connected agent: it says what it has, hears what it should do, does it, and says so.
    pub(crate) fn sync(&mut self, node: &str) {
        for _ in 0..2 {
            let agent = &self.agents[node];
            if !agent.connected {
                return;
            }
            let (id, stored) = (agent.id.clone(), agent.stored);
            let outcome = self.report(&id, stored, Some(agent.observed()));
            self.control.hub().heard(&id);
            let SyncOutcome::Stored {
                desired_generation, ..
            } = outcome
            else {
                self.agent(node).connected = false;
                return;
            };
            if desired_generation != stored {
                let wanted = id.clone();
                let all = self.read(move |tx| Ok(desired(tx, [wanted.clone()])?));
                let desired = all.get(&id).expect("the node is in service").clone();
                self.agent(node).take(desired);
            }
        }
    }

    /// Every agent exchanges what it has, then the loop looks once.
    pub(crate) fn round(&mut self) -> Changed {
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.sync(&node);
        }
        self.pass()
    }

    /// The loop looks once.
    pub(crate) fn pass(&mut self) -> Changed {
        let changed = self.block_on(service::pass(&self.control, &self.metrics));
        let changed = changed.unwrap_or_else(|error| panic!("{error}"));
        assert!(!changed.unfinished, "the planner comes to an end");
        self.check();
        changed
    }

    /// Until nothing changes any more.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        for _ in 0..20 {
            if self.round().actions == 0 && self.all_told() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Whether every connected agent has stored what it should do.
    fn all_told(&self) -> bool {
        let nodes = self.nodes();
        let mut connected = self.agents.values().filter(|agent| agent.connected);
        connected.all(|agent| {
            let node = nodes.iter().find(|node| node.id == agent.id);
            node.is_none_or(|node| node.desired_generation == agent.stored)
        })
    }

    /// Time passes; connected agents say that they are there.
    pub(crate) fn wait(&mut self, seconds: u64) {
        let microseconds = i64::try_from(seconds * 1_000_000).expect("a short time");
        self.clock.0.fetch_add(microseconds, Ordering::SeqCst);
        for agent in self.agents.values().filter(|agent| agent.connected) {
            self.control.hub().heard(&agent.id);
        }
    }

    /// A node's network is cut until the server counts it as lost; its supervisors have stopped its ranks by then.
    pub(crate) fn lose(&mut self, node: &str) {
        let agent = self.agent(node);
        agent.connected = false;
        agent.fence();
        self.wait(11);
        self.round();
        assert_eq!(self.node(node).condition.word(), "lost");
    }

    /// A rank of a running job ends by itself, wherever it runs.
    pub(crate) fn exit(&mut self, job: &JobId, rank: u32, code: i32, last_lines: &[&str]) {
        let ranks = self.ranks(job);
        let placed = ranks
            .iter()
            .find(|found| found.rank == rank)
            .expect("the job has the rank");
        let agents = &mut self.agents;
        let agent = agents.values_mut().find(|agent| agent.id == placed.node);
        agent
            .expect("the node has an agent")
            .exit(rank, code, last_lines);
    }

    /// All ranks of a running job end well.
    pub(crate) fn finish(&mut self, job: &JobId) {
        for rank in self.ranks(job) {
            self.exit(job, rank.rank, 0, &[]);
        }
    }

    // ---- what must always hold

    fn check(&self) {
        self.check_super_nodes();
        self.check_leases();
    }

    /// A super node has a node, unless it is only just being made or taken apart; no node is claimed by what is not there.
    fn check_super_nodes(&self) {
        let (nodes, super_nodes) =
            self.read(|tx| Ok((query::nodes(tx, false)?, query::super_nodes(tx)?)));
        let open = self.read(|tx| query::operations(tx, None, Some("running"), None, 1000));
        let open: BTreeMap<_, _> = open
            .iter()
            .map(|record| (&record.operation.id, &record.operation))
            .collect();
        for super_node in &super_nodes {
            let has_node = nodes
                .iter()
                .any(|node| node.membership.super_node() == Some(&super_node.id));
            let in_the_making = open.values().any(|operation| {
                let whole = matches!(
                    operation.kind,
                    OperationKind::SuperNodeCreate | OperationKind::SuperNodeDelete
                );
                whole && operation.super_node.as_ref() == Some(&super_node.id)
            });
            assert!(has_node || in_the_making, "{} has no node", super_node.name);
            if let Some(deleting) = &super_node.deleting {
                assert!(
                    open.contains_key(deleting),
                    "{} is being deleted by nobody",
                    super_node.name
                );
            }
        }
        for node in &nodes {
            let super_node = node.membership.super_node();
            assert!(
                super_node.is_none_or(|id| super_nodes.iter().any(|found| found.id == *id)),
                "{node:?}"
            );
            if let NodePolicy::Draining { operation, .. } = &node.policy {
                assert!(
                    open.contains_key(operation),
                    "{} is drained by nobody",
                    node.name
                );
            }
        }
    }

    /// Leases belong to attempts that are under way, all of a gang or none; what runs has a lease.
    fn check_leases(&self) {
        let (leases, jobs) = self.read(|tx| {
            let leases = supernode_store::attempt::lease_list(tx)?;
            Ok((leases, query::jobs(tx, None, Some("active"), None, 1000)?))
        });
        let mut held: BTreeMap<_, usize> = BTreeMap::new();
        for lease in &leases {
            if let Some(attempt) = lease.attempt() {
                *held.entry(attempt.clone()).or_default() += 1;
            }
        }
        for job in &jobs {
            if let Some(attempt) = job.state.attempt() {
                let ranks = self.ranks(&job.id);
                assert_eq!(
                    held.remove(attempt),
                    Some(ranks.len()),
                    "{} holds a whole gang",
                    job.id
                );
            }
        }
        assert_eq!(held, BTreeMap::new(), "leases of attempts that are over");
        let mut devices = BTreeSet::new();
        for agent in self.agents.values() {
            let ranks = agent
                .ranks
                .iter()
                .filter(|(_, state)| **state == RankState::Running);
            for ((attempt, rank), _) in ranks {
                let lease = leases
                    .iter()
                    .find(|lease| lease.attempt() == Some(attempt) && lease.node == agent.id);
                assert!(
                    lease.is_some(),
                    "rank {rank} of {attempt} runs without a lease"
                );
                assert!(devices.insert((agent.id.clone(), attempt.clone(), *rank)));
            }
        }
    }

    /// Whether a job is queued, and what for.
    pub(crate) fn queue_reason(&self, job: &JobId) -> String {
        match self.job(job).state {
            JobState::Queued { reason } => reason,
            other => panic!("{job} is {}", other.word()),
        }
    }
}

fn open(
    url: &DatabaseUrl,
    clock: &Arc<ManualClock>,
    entropy: &Arc<dyn Entropy>,
    settings: &Settings,
) -> Control {
    let store = open_store(url);
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Control::new(store, clock, Arc::clone(entropy), settings.clone())
}

fn open_store(url: &DatabaseUrl) -> Store {
    let mut patience = Patience::new();
    loop {
        // One reader is enough for a test, and connections take time.
        let options = Options {
            readers: NonZero::<usize>::MIN,
            ..Options::new(MIGRATIONS)
        };
        match Store::open_with(url, options) {
            // A program that another test is just starting still has our files open, for a moment.
            Err(StoreError::Locked { .. }) => patience.wait("the database is free"),
            outcome => return outcome.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

/// Waits for something that must happen, until a deadline.
pub(crate) struct Patience(std::time::Instant);

impl Patience {
    #[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
    pub(crate) fn new() -> Self {
        Self(std::time::Instant::now())
    }

    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str) {
        assert!(
            self.0.elapsed() < Duration::from_secs(20),
            "waited in vain until {what}"
        );
        std::thread::yield_now();
    }
}
