//! A simulated world: one server, some nodes, an operator, and time that only moves from one event to the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use supernode_control::token::{JoinTokenWish, create_join};
use supernode_control::{Control, Store, query, spec};
use supernode_types::Entropy;
use supernode_types::entropy::SeededEntropy;
use supernode_types::event::Severity;
use supernode_types::node::Position;
use supernode_types::spec::SpecDefinition;

use crate::chance::Chance;
use crate::check::Check;
use crate::client::Asked;
use crate::clock::ServerTime;
use crate::cloud::Cloud;
use crate::event::{ClientEvent, Event, MachineEvent, Queue, ServerEvent};
use crate::machine::{Hardware, Machine};
use crate::network::Connection;
use crate::options::Options;
use crate::server::{JOIN_TOKEN, Server, change_request};

/// How often an end is looked for.
const REST: Duration = Duration::from_secs(5);
/// After the last fault: the longest deadline of an operation, what it may take to clean up, the time a rank has to start, and as
/// much again for what waits behind.
const CALM_BEFORE_END: Duration = Duration::from_mins(20);

/// A simulated world.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) chance: Chance,
    pub(crate) queue: Queue,
    pub(crate) now: Duration,
    pub(crate) time: ServerTime,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) store: Store,
    pub(crate) server: Option<Server>,
    pub(crate) server_processes: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) connections_made: u64,
    pub(crate) cloud: Cloud,
    pub(crate) client: Vec<Asked>,
    pub(crate) check: Check,
    /// How many actions the last pass of the loop applied.
    pub(crate) last_plan: usize,
    steps: u64,
    violation: Option<String>,
    trace: VecDeque<String>,
    /// How many lines of it are kept.
    trace_lines: usize,
}

/// What a run without a violation was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events.
    pub steps: u64,
    /// Simulated time.
    pub time: Duration,
    /// Requests that were accepted.
    pub accepted: u64,
    /// Jobs that ended.
    pub jobs: u64,
    /// Processes of the server.
    pub server_processes: u64,
    /// How often each kind of event was told.
    pub events: BTreeMap<String, u64>,
    /// What happened, as far as the world was told to write it down.
    pub trace: Vec<String>,
}

impl Outcome {
    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (kind, count) in &other.events {
            *self.events.entry(kind.clone()).or_default() += count;
        }
        Self {
            steps: self.steps + other.steps,
            time: self.time + other.time,
            accepted: self.accepted + other.accepted,
            jobs: self.jobs + other.jobs,
            server_processes: self.server_processes + other.server_processes,
            events: self.events,
            trace: Vec::new(),
        }
    }
}

/// What did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("after step {step}, {:.3} s: {what}", .time.as_secs_f64())]
pub struct Violation {
    /// What.
    pub what: String,
    /// After how many events.
    pub step: u64,
    /// When.
    pub time: Duration,
    /// What happened last, as far as the world was told to write it down.
    pub trace: Vec<String>,
}

impl World {
    /// A world at its beginning: the server and all nodes are about to start for the first time.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut chance = Chance::new(seed);
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(chance.number()));
        let mut world = Self {
            machines: (0..options.machines)
                .map(|number| machine(number, &options))
                .collect(),
            options,
            chance,
            queue: Queue::default(),
            now: Duration::ZERO,
            time: ServerTime::default(),
            entropy,
            store: Store::open_inline().expect("memory is enough for an empty database"),
            server: None,
            server_processes: 0,
            connections: BTreeMap::new(),
            connections_made: 0,
            cloud: Cloud::default(),
            client: Vec::new(),
            check: Check::default(),
            last_plan: 0,
            steps: 0,
            violation: None,
            trace: VecDeque::new(),
            trace_lines: 0,
        };
        world.set_up();
        world
            .queue
            .push(Duration::ZERO, Event::Server(ServerEvent::Start));
        for machine in 0..world.machines.len() {
            let delay = world
                .chance
                .between((Duration::ZERO, world.options.faults.environment.0));
            world.machine_event(machine, delay, MachineEvent::Boot);
        }
        if let Some(pace) = world.options.requests {
            let first = Duration::from_secs(1) + world.chance.between(pace);
            world.queue.push(first, Event::Client(ClientEvent::Ask));
        }
        if !world.options.faults.kinds.is_empty() {
            let first =
                Duration::from_millis(500) + world.chance.between(world.options.faults.interval);
            world.queue.push(first, Event::Fault);
        }
        world
    }

    /// What an administrator does once: a join token, and the specs.
    fn set_up(&mut self) {
        let control = Control::new(
            self.store.clone(),
            self.time.clock(false),
            Arc::clone(&self.entropy),
            Self::settings(&self.options),
        );
        let wish = JoinTokenWish {
            uses: 100_000,
            lifetime: Duration::from_hours(365 * 24),
            labels: BTreeMap::new(),
            position: Position::default(),
        };
        let made = control.change_inline(
            change_request("join_token_create", String::new()),
            move |tx, intent| {
                create_join(tx, intent, &wish, JOIN_TOKEN)?;
                Ok(())
            },
        );
        made.expect("the set-up of a world is valid");
        let mut kinds: Vec<(&str, SpecDefinition)> = Vec::new();
        for machine in &self.machines {
            let name = if machine.hardware.second_spec {
                "large"
            } else {
                "small"
            };
            if kinds.iter().all(|(known, _)| *known != name) {
                kinds.push((name, SpecDefinition::learn(&machine.hardware.inventory())));
            }
        }
        for (name, definition) in kinds {
            let source = spec::Source::Definition(Box::new(definition));
            let name = name.parse().expect("it is a name");
            let declared = control.change_inline(
                change_request("spec_declare", String::new()),
                move |tx, intent| {
                    spec::declare(tx, intent, &name, &source, spec::Maximums::nodes(48))?;
                    Ok(())
                },
            );
            declared.expect("the set-up of a world is valid");
        }
    }

    /// Writes down what happens, and keeps the last lines of it.
    #[must_use]
    pub fn traced(mut self, lines: usize) -> Self {
        self.trace_lines = lines;
        self
    }

    /// Runs to the end: requests and faults, then calm, then everything must have come to rest.
    pub fn run(mut self) -> Result<Outcome, Box<Violation>> {
        self.run_until(self.options.chaos)?;
        self.heal_all();
        let jump = Duration::from_secs(u64::from(self.options.faults.clock_jump_seconds));
        let latest = self.now + CALM_BEFORE_END + 2 * jump;
        // What is still under way from the faults (a server that is down, a node that boots) ends by itself.
        self.options.loop_period = self.options.loop_period.max(Duration::from_secs(2));
        loop {
            self.run_until(self.now + REST)?;
            self.check_whole();
            self.check_step();
            self.result()?;
            match self.unrest() {
                None => break,
                Some(what) if self.now >= latest => {
                    self.violated(format!(
                        "{} s after the last fault: {what}",
                        self.now.saturating_sub(self.options.chaos).as_secs()
                    ));
                    self.result()?;
                }
                Some(_) => {}
            }
        }
        Ok(Outcome {
            steps: self.steps,
            time: self.now,
            accepted: self
                .client
                .iter()
                .filter(|asked| matches!(asked.answer, Some(Ok(_))))
                .count() as u64,
            jobs: self
                .check
                .view
                .jobs
                .values()
                .filter(|job| job.state.ended())
                .count() as u64,
            server_processes: self.server_processes,
            events: self.event_counts(),
            trace: self.trace.into(),
        })
    }

    fn event_counts(&self) -> BTreeMap<String, u64> {
        let all = self.store.read_inline("events", |tx| {
            query::events(tx, Some(0), None, Severity::Info, 1_000_000)
        });
        let mut counts = BTreeMap::new();
        for event in all.expect("the store is in memory") {
            *counts.entry(event.kind).or_default() += 1;
        }
        counts
    }

    /// Takes all steps up to this time.
    pub(crate) fn run_until(&mut self, time: Duration) -> Result<(), Box<Violation>> {
        while self.queue.next_at().is_some_and(|at| at <= time) {
            self.step()?;
        }
        self.set_time(time);
        Ok(())
    }

    /// How many steps were taken.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes one step and checks everything.
    pub(crate) fn step(&mut self) -> Result<(), Box<Violation>> {
        let Some((at, event)) = self.queue.pop() else {
            return Ok(());
        };
        self.set_time(at);
        self.steps += 1;
        match event {
            Event::Server(event) => self.server_step(event),
            Event::Agent {
                machine,
                agent,
                event,
            } => self.agent_step(machine, agent, event),
            Event::Machine {
                machine,
                boot,
                event,
            } => self.machine_step(machine, boot, event),
            Event::Client(event) => self.client_step(event),
            Event::Fault => self.fault(),
            Event::Heal(heal) => self.heal(heal),
        }
        self.check_step();
        self.result()
    }

    fn set_time(&mut self, at: Duration) {
        self.now = self.now.max(at);
        self.time.set(self.now);
    }

    /// Notes that something does not hold; the first such thing counts.
    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn result(&mut self) -> Result<(), Box<Violation>> {
        let Some(what) = self.violation.take() else {
            return Ok(());
        };
        let trace = std::mem::take(&mut self.trace).into();
        Err(Box::new(Violation {
            what,
            step: self.steps,
            time: self.now,
            trace,
        }))
    }

    /// Whether somebody wants to know what happens.
    pub(crate) fn traces(&self) -> bool {
        self.trace_lines > 0
    }

    /// Writes down what happens, if somebody wants to know.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if !self.traces() {
            return;
        }
        let line = format!(
            "{:>9.3} #{} {}",
            self.now.as_secs_f64(),
            self.steps,
            line(self)
        );
        if self.trace.len() == self.trace_lines {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }
}

fn machine(number: u32, options: &Options) -> Machine {
    let name = format!("node-{}", number + 1)
        .parse()
        .expect("it is a name");
    let position = Position {
        hyperplane: (options.hyperplanes > 1)
            .then(|| format!("plane-{}", number % options.hyperplanes)),
        rack: Some(format!("rack-{}", number / 2)),
        leaf: None,
    };
    let second_spec = options.two_specs && number % 2 == 1;
    Machine::new(
        name,
        Hardware {
            devices: options.devices,
            position,
            second_spec,
        },
    )
}
