//! The process of a simulated agent: the real core, between a simulated machine and a simulated network.
//!
//! It does what `supernode_agent::service` does, in the same order, and like it decides nothing.

use std::time::Duration;

use supernode_agent::core::{AgentCore, CoreOptions, Effect, EnvironmentTask};
use supernode_agent::executor::Done;
use supernode_agent::ledger::RankKey;
use supernode_api::agent::{FromAgent, ToAgent};
use supernode_types::agent::RankLaunch;
use supernode_types::environment::{ItemCondition, ItemState};

use crate::event::{AgentEvent, Event, MachineEvent, Work};
use crate::machine::{Agent, EnvironmentOnDisk};
use crate::options::Defect;
use crate::ranks::{Program, RankTask};
use crate::world::World;

/// An agent that wants to be asked at once again and again, and has nothing to do, wastes a core.
const MOST_IDLE_TURNS: u32 = 200;

impl World {
    /// Something will happen to the present process of an agent.
    pub(crate) fn agent_event(&mut self, machine: usize, delay: Duration, event: AgentEvent) {
        let agent = self.machines[machine].agents;
        self.queue.push(self.now + delay, Event::Agent { machine, agent, event });
    }

    /// A process of the agent starts, if the machine is up and none runs.
    pub(crate) fn start_agent(&mut self, machine: usize) {
        let here = &mut self.machines[machine];
        if !here.up || here.agent.is_some() {
            return;
        }
        here.agents += 1;
        here.agent = Some(Agent::new());
        self.note(|world| format!("{}: agent starts", world.machines[machine].name));
        let discovery = self.chance.between((self.options.faults.disk.0, self.options.faults.environment.0 * 4));
        self.agent_event(machine, discovery, AgentEvent::Discovered);
        if self.machines[machine].disk.identity.is_some() {
            self.begin(machine);
        } else {
            self.agent_event(machine, Duration::ZERO, AgentEvent::Enrol);
        }
    }

    /// An agent with a certificate reads its disk and begins.
    fn begin(&mut self, machine: usize) {
        let keys: Vec<RankKey> = self.machines[machine].disk.ranks.keys().cloned().collect();
        let found: Vec<_> = keys.into_iter().filter_map(|key| self.observe(machine, &key).map(|state| (key, state))).collect();
        let here = &mut self.machines[machine];
        let options = CoreOptions {
            boot_id: here.boot_id(),
            agent_version: "sim".into(),
            capabilities: Vec::new(),
            address: here.name.to_string(),
        };
        let inventory = here.hardware.inventory();
        let Some(agent) = &mut here.agent else { return };
        let mut core = AgentCore::new(options, here.disk.ledger.clone(), found);
        if agent.discovered {
            core.on_inventory(inventory);
        }
        agent.core = Some(core);
        self.agent_event(machine, Duration::ZERO, AgentEvent::Connect);
        self.agent_event(machine, Duration::from_secs(5), AgentEvent::LookAtAll);
        self.act(machine);
    }

    /// The process of an agent is killed; its machine goes on.
    pub(crate) fn kill_agent(&mut self, machine: usize) {
        let Some(agent) = self.machines[machine].agent.take() else { return };
        if let (Some(Defect::DiskForgetsLedger), Some(honest)) = (self.options.defect, agent.honest_ledger) {
            self.machines[machine].disk.ledger = *honest;
        }
        if let Some(connection) = agent.connection.or(agent.connecting) {
            self.agent_hangs_up(machine, connection);
        }
        self.note(|world| format!("{}: agent killed", world.machines[machine].name));
    }

    /// One thing happens to the process of an agent.
    pub(crate) fn agent_step(&mut self, machine: usize, process: u64, event: AgentEvent) {
        if event.by_network() && self.machines[machine].network.to_agent {
            self.machines[machine].network.held.push(Event::Agent { machine, agent: process, event });
            return;
        }
        let Some(agent) = self.machines[machine].agent(process) else { return };
        if agent.halted {
            agent.waiting.push(event);
            return;
        }
        match event {
            AgentEvent::Wake => agent.wake_at = None,
            AgentEvent::Discovered => {
                agent.discovered = true;
                let inventory = self.machines[machine].hardware.inventory();
                if let Some(core) = self.core(machine) {
                    core.on_inventory(inventory);
                }
            }
            AgentEvent::Enrol => self.agent_enrols(machine),
            AgentEvent::Enrolled { attempt, node, serial } => {
                if agent.enrolments == attempt && self.machines[machine].disk.identity.is_none() {
                    self.machines[machine].disk.identity = Some((node, serial));
                    self.begin(machine);
                }
            }
            AgentEvent::Connect => self.agent_connects(machine),
            AgentEvent::Connected { connection, welcome } => self.agent_connected(machine, connection, welcome),
            AgentEvent::Frame { connection, text } => {
                if agent.connection == Some(connection) {
                    self.received(machine, &text);
                }
            }
            AgentEvent::Gone { connection } => {
                if agent.connection == Some(connection) {
                    agent.connection = None;
                    if let Some(core) = &mut agent.core {
                        core.on_disconnected();
                    }
                    self.connect_again(machine);
                }
            }
            AgentEvent::Work(work) => self.work(machine, work),
            AgentEvent::Done(done) => self.done(machine, done),
            AgentEvent::Changed(key) => self.enter(machine, key, RankTask::Look),
            AgentEvent::LookAtAll => self.look_at_all(machine),
        }
        self.act(machine);
    }

    fn core(&mut self, machine: usize) -> Option<&mut AgentCore> {
        self.machines[machine].agent.as_mut()?.core.as_mut()
    }

    fn received(&mut self, machine: usize, text: &str) {
        let message: ToAgent = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => return self.violated(format!("a message to an agent cannot be read: {error}: {text}")),
        };
        let old_as_new = self.options.defect == Some(Defect::OldDesiredAsNew);
        let Some(core) = self.core(machine) else { return };
        match message {
            ToAgent::Acknowledge { sequence, fence_seconds, interval_milliseconds } => {
                core.on_acknowledge(sequence, Duration::from_secs(fence_seconds), Duration::from_millis(interval_milliseconds));
            }
            ToAgent::Desired(mut desired) => {
                if old_as_new {
                    desired.generation = desired.generation.max(core.ledger().generation + 1);
                }
                core.on_desired(*desired);
            }
            ToAgent::ReadLog(_) => {}
        }
    }

    /// Does what the core wants.
    fn act(&mut self, machine: usize) {
        let clock = self.machines[machine].clock(self.now);
        let Some(core) = self.core(machine) else { return };
        let effects = core.effects(clock);
        let idle = effects.is_empty();
        for effect in effects {
            self.perform(machine, effect);
        }
        let Some(wake) = self.core(machine).and_then(|core| core.next_wake()) else { return };
        let at = self.machines[machine].world_time(wake).max(self.now + Duration::from_millis(1));
        let Some(agent) = &mut self.machines[machine].agent else { return };
        agent.idle_turns = if idle && wake <= clock { agent.idle_turns + 1 } else { 0 };
        if agent.idle_turns > MOST_IDLE_TURNS {
            agent.idle_turns = 0;
            let name = self.machines[machine].name.clone();
            self.violated(format!("the agent of {name} wants to be asked at once for ever, and has nothing to do"));
            return;
        }
        if agent.wake_at.is_none_or(|known| at < known) {
            agent.wake_at = Some(at);
            let delay = at - self.now;
            self.agent_event(machine, delay, AgentEvent::Wake);
        }
    }

    fn perform(&mut self, machine: usize, effect: Effect) {
        match effect {
            Effect::StoreLedger { version, ledger } => {
                let delay = self.disk_time();
                self.agent_event(machine, delay, AgentEvent::Work(Work::Ledger { version, ledger }));
            }
            Effect::ExtendLease { deadline } => {
                if let Some(agent) = &mut self.machines[machine].agent {
                    agent.lease_next = Some(deadline);
                }
                self.write_lease(machine);
            }
            Effect::LaunchRank { key, launch, .. } => self.launch_rank(machine, key, &launch),
            Effect::StopRank { key, grace, .. } => self.enter(machine, key, RankTask::Stop { grace }),
            Effect::ApplyEnvironment { desired } => {
                let task = EnvironmentTask::Apply { generation: desired.generation };
                // From now on something of it may be there.
                self.machines[machine].disk.environment = EnvironmentOnDisk { present: Some(desired.clone()), wrong: true };
                self.environment(machine, task, Some(desired));
            }
            Effect::VerifyEnvironment { desired } => {
                self.environment(machine, EnvironmentTask::Verify { generation: desired.generation }, Some(desired));
            }
            Effect::CleanEnvironment => self.environment(machine, EnvironmentTask::Clean, None),
            Effect::Send(sync) => {
                let text = serde_json::to_string(&FromAgent::Sync(Box::new(sync))).expect("the contract's types serialize");
                self.agent_sends(machine, text);
            }
            Effect::Reconnect => {
                if let Some(connection) = self.machines[machine].agent.as_mut().and_then(|agent| agent.connection.take()) {
                    self.agent_hangs_up(machine, connection);
                }
                self.connect_again(machine);
            }
            Effect::Prune { archived } => {
                let delay = self.disk_time();
                self.agent_event(machine, delay, AgentEvent::Work(Work::Prune(archived)));
            }
        }
    }

    fn launch_rank(&mut self, machine: usize, key: RankKey, launch: &RankLaunch) {
        let Some(program) = Program::parse(&launch.arguments) else {
            return self.violated(format!("{key} is launched with other arguments than its job has: {:?}", launch.arguments));
        };
        if !launch.place.devices.contains(&launch.place.device) {
            return self.violated(format!("{key} is launched on a device that its job does not have: {:?}", launch.place));
        }
        self.enter(machine, key, RankTask::Launch { device: launch.place.device, program });
    }

    fn environment(&mut self, machine: usize, task: EnvironmentTask, desired: Option<Box<supernode_types::environment::EnvironmentDesired>>) {
        let usual = self.options.faults.environment;
        let delay = if task_looks(task) { usual.0 } else { self.chance.between(usual) };
        self.agent_event(machine, delay, AgentEvent::Work(Work::Environment { task, desired }));
    }

    fn write_lease(&mut self, machine: usize) {
        let Some(agent) = self.machines[machine].agent.as_mut().filter(|agent| !agent.lease_under_way) else { return };
        let Some(deadline) = agent.lease_next.take() else { return };
        agent.lease_under_way = true;
        let delay = self.disk_time();
        self.agent_event(machine, delay, AgentEvent::Work(Work::Lease { deadline }));
    }

    /// The executor does something, and will report it.
    fn work(&mut self, machine: usize, work: Work) {
        let fails = self.machines[machine].disk_full || self.chance.percent(self.options.faults.bad_disk_percent);
        let done = match work {
            Work::Rank(key) => return self.work_on_rank(machine, key),
            Work::Ledger { version, ledger } => {
                // Of a failure nobody knows whether it came before or after the new content was there.
                if !fails || self.chance.percent(50) {
                    self.store_ledger(machine, &ledger);
                }
                Done::Ledger { version, result: if fails { Err("no space left".into()) } else { Ok(()) } }
            }
            Work::Lease { deadline } => {
                if !fails {
                    self.machines[machine].disk.lease = Some(deadline);
                }
                Done::Lease { deadline, result: if fails { Err("no space left".into()) } else { Ok(()) } }
            }
            Work::Environment { task, desired } => {
                let result = self.environment_work(machine, task, desired);
                Done::Environment { task, result }
            }
            Work::Prune(archived) => {
                let mut removed = Vec::new();
                for key in archived {
                    let runs = self.machines[machine].processes.contains_key(&key);
                    if !runs && self.chance.percent(50) {
                        self.machines[machine].disk.ranks.remove(&key);
                        removed.push(key);
                    }
                }
                Done::Removed(removed)
            }
        };
        let delay = self.chance.between((Duration::ZERO, self.options.faults.delay.0));
        self.agent_event(machine, delay, AgentEvent::Done(done));
    }

    fn store_ledger(&mut self, machine: usize, ledger: &supernode_agent::ledger::Ledger) {
        let text = serde_json::to_string(ledger).expect("a ledger is JSON");
        let stored: supernode_agent::ledger::Ledger = match serde_json::from_str(&text) {
            Ok(stored) => stored,
            Err(error) => return self.violated(format!("a ledger cannot be read again: {error}: {text}")),
        };
        if stored != *ledger {
            return self.violated(format!("a ledger is read as another one than was written: {text}"));
        }
        let forgets = self.options.defect == Some(Defect::DiskForgetsLedger);
        let here = &mut self.machines[machine];
        if forgets && let Some(agent) = &mut here.agent {
            agent.honest_ledger = Some(Box::new(here.disk.ledger.clone()));
        }
        if stored.generation < here.disk.highest_generation {
            let (name, from, to) = (here.name.clone(), here.disk.highest_generation, stored.generation);
            return self.violated(format!("the desired generation that the agent of {name} has stored went back from {from} to {to}"));
        }
        here.disk.highest_generation = stored.generation;
        here.disk.ledger = stored;
    }

    fn environment_work(
        &mut self,
        machine: usize,
        task: EnvironmentTask,
        desired: Option<Box<supernode_types::environment::EnvironmentDesired>>,
    ) -> Result<Vec<ItemState>, String> {
        let bad = self.options.faults.bad_environment_percent;
        if self.chance.percent(bad / 2) {
            return Err("the manifest cannot be written".into());
        }
        let broken = self.machines[machine].environment_broken || self.chance.percent(bad);
        let item = |state| vec![ItemState { item: "file /etc/sim".into(), state }];
        let disk = &mut self.machines[machine].disk.environment;
        Ok(match task {
            EnvironmentTask::Apply { .. } if broken => {
                *disk = EnvironmentOnDisk { present: desired, wrong: true };
                item(ItemCondition::Failed { why: "read-only file system".into() })
            }
            EnvironmentTask::Apply { .. } => {
                *disk = EnvironmentOnDisk { present: desired, wrong: false };
                item(ItemCondition::Applied)
            }
            EnvironmentTask::Verify { .. } => {
                disk.wrong |= broken;
                item(if disk.wrong { ItemCondition::Drifted { why: "has other content".into() } } else { ItemCondition::Applied })
            }
            EnvironmentTask::Clean if broken && disk.present.is_some() => {
                disk.wrong = true;
                item(ItemCondition::Failed { why: "read-only file system".into() })
            }
            EnvironmentTask::Clean => {
                *disk = EnvironmentOnDisk::default();
                Vec::new()
            }
        })
    }

    /// The executor reports.
    fn done(&mut self, machine: usize, done: Done) {
        let clock = self.machines[machine].clock(self.now);
        match &done {
            Done::Lease { .. } => {
                if let Some(agent) = &mut self.machines[machine].agent {
                    agent.lease_under_way = false;
                }
                self.write_lease(machine);
            }
            Done::Rank { key, .. } => {
                let lane = self.machines[machine].agent.as_mut().and_then(|agent| agent.lanes.get_mut(key));
                if let Some(lane) = lane {
                    lane.busy = false;
                }
                self.go_on(machine, key.clone());
            }
            Done::Ledger { .. } | Done::Environment { .. } | Done::Removed(_) => {}
        }
        let Some(core) = self.core(machine) else { return };
        match done {
            Done::Ledger { version, result: Ok(()) } => core.on_ledger_stored(version),
            Done::Ledger { version, result: Err(_) } => core.on_ledger_failed(version, clock),
            Done::Lease { deadline, result: Ok(()) } => core.on_lease_written(deadline),
            Done::Lease { result: Err(_), .. } => {}
            Done::Rank { key, result } => {
                if let Ok(Some(state)) = result {
                    core.on_rank_observed(&key, state);
                }
            }
            Done::Environment { task, result } => core.on_environment_done(task, result, clock),
            Done::Removed(keys) => core.on_ranks_removed(&keys),
        }
    }

    /// One thing happens on a machine.
    pub(crate) fn machine_step(&mut self, machine: usize, boot: u64, event: MachineEvent) {
        if self.machines[machine].boot != boot {
            return;
        }
        match event {
            MachineEvent::Boot => self.boot(machine),
            MachineEvent::AgentStart => self.start_agent(machine),
            MachineEvent::Supervise { key, device, program } => self.supervise(machine, key, device, program),
            MachineEvent::Fence { key } => self.fence(machine, key),
            MachineEvent::End { key, end } => self.end(machine, key, end),
        }
    }

    fn boot(&mut self, machine: usize) {
        let here = &mut self.machines[machine];
        here.booted_at = self.now;
        here.up = true;
        self.start_agent(machine);
    }

    /// A machine goes down; nothing of it runs any more.
    pub(crate) fn power_off(&mut self, machine: usize) {
        self.kill_agent(machine);
        let here = &mut self.machines[machine];
        here.up = false;
        // What was about to happen in the former boot does not.
        here.boot += 1;
        here.processes.clear();
        // The lease file is not flushed, so it may be there or not; it means nothing in the next boot.
        if self.chance.percent(30) {
            self.machines[machine].disk.lease = None;
        }
    }
}

/// Whether a task only looks.
fn task_looks(task: EnvironmentTask) -> bool {
    matches!(task, EnvironmentTask::Verify { .. })
}
