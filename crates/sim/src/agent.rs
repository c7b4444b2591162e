//! The process of a simulated agent: the real core, between a simulated machine and a simulated network.
//!
//! It does what `supernode_agent::service` does, in the same order, and like it decides nothing.

use std::time::Duration;

use supernode_agent::core::{AgentCore, CoreOptions};
use supernode_agent::ledger::{Ledger, RankKey};
use supernode_api::agent::ToAgent;

use crate::event::{AgentEvent, Event, MachineEvent};
use crate::machine::{Agent, Power};
use crate::options::Defect;
use crate::ranks::RankTask;
use crate::world::World;

/// An agent that wants to be asked at once again and again, and has nothing to do, wastes a core.
const MOST_IDLE_TURNS: u32 = 200;

impl World {
    /// Something will happen to the present process of an agent.
    pub(crate) fn agent_event(&mut self, machine: usize, delay: Duration, event: AgentEvent) {
        let agent = self.machines[machine].agents;
        self.queue.push(
            self.now + delay,
            Event::Agent {
                machine,
                agent,
                event,
            },
        );
    }

    /// A process of the agent starts, if the machine is up and none runs.
    pub(crate) fn start_agent(&mut self, machine: usize) {
        let here = &mut self.machines[machine];
        if here.power != Power::On || here.agent.is_some() {
            return;
        }
        here.agents += 1;
        here.agent = Some(Agent::new());
        self.note(|world| format!("{}: agent starts", world.machines[machine].name));
        let discovery = self.chance.between((
            self.options.faults.disk.0,
            self.options.faults.environment.0 * 4,
        ));
        self.agent_event(machine, discovery, AgentEvent::Discovered);
        if self.machines[machine].must_enrol() {
            self.agent_event(machine, Duration::ZERO, AgentEvent::Enrol);
        } else {
            self.begin(machine);
        }
    }

    /// An agent with a certificate reads its disk and begins.
    fn begin(&mut self, machine: usize) {
        let keys: Vec<RankKey> = self.machines[machine].disk.ranks.keys().cloned().collect();
        let found: Vec<_> = keys
            .into_iter()
            .filter_map(|key| self.observe(machine, &key).map(|state| (key, state)))
            .collect();
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
        let Some(agent) = self.machines[machine].agent.take() else {
            return;
        };
        if let (Some(Defect::DiskForgetsLedger), Some(honest)) =
            (self.options.defect, agent.honest_ledger)
        {
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
            self.machines[machine].network.held.push(Event::Agent {
                machine,
                agent: process,
                event,
            });
            return;
        }
        let Some(agent) = self.machines[machine].agent(process) else {
            return;
        };
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
            AgentEvent::Enrolled {
                attempt,
                node,
                serial,
            } => {
                if agent.enrolments == attempt && self.machines[machine].must_enrol() {
                    self.machines[machine].disk.identity = Some((node, serial));
                    self.machines[machine].disk.refused = false;
                    self.begin(machine);
                }
            }
            AgentEvent::Connect => self.agent_connects(machine),
            AgentEvent::Connected {
                connection,
                welcome,
            } => self.agent_connected(machine, connection, welcome),
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

    pub(crate) fn core(&mut self, machine: usize) -> Option<&mut AgentCore> {
        self.machines[machine].agent.as_mut()?.core.as_mut()
    }

    fn received(&mut self, machine: usize, text: &str) {
        let message: ToAgent = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => {
                return self.violated(format!(
                    "a message to an agent cannot be read: {error}: {text}"
                ));
            }
        };
        let old_as_new = self.options.defect == Some(Defect::OldDesiredAsNew);
        let Some(core) = self.core(machine) else {
            return;
        };
        match message {
            ToAgent::Acknowledge {
                sequence,
                fence_seconds,
                interval_milliseconds,
            } => {
                core.on_acknowledge(
                    sequence,
                    Duration::from_secs(fence_seconds),
                    Duration::from_millis(interval_milliseconds),
                );
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
        let Some(core) = self.core(machine) else {
            return;
        };
        let effects = core.effects(clock);
        let idle = effects.is_empty();
        for effect in effects {
            self.perform(machine, effect);
        }
        let Some(wake) = self.core(machine).and_then(|core| core.next_wake()) else {
            return;
        };
        let at = self.machines[machine]
            .world_time(wake)
            .max(self.now + Duration::from_millis(1));
        let Some(agent) = &mut self.machines[machine].agent else {
            return;
        };
        agent.idle_turns = if idle && wake <= clock {
            agent.idle_turns + 1
        } else {
            0
        };
        if agent.idle_turns > MOST_IDLE_TURNS {
            agent.idle_turns = 0;
            let name = self.machines[machine].name.clone();
            self.violated(format!(
                "the agent of {name} wants to be asked at once for ever, and has nothing to do"
            ));
            return;
        }
        if agent.wake_at.is_none_or(|known| at < known) {
            agent.wake_at = Some(at);
            let delay = at.saturating_sub(self.now);
            self.agent_event(machine, delay, AgentEvent::Wake);
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
            MachineEvent::Supervise {
                key,
                device,
                program,
                granted,
            } => self.supervise(machine, key, device, program, granted),
            MachineEvent::Fence { key } => self.fence(machine, key),
            MachineEvent::End { key, end } => self.end(machine, key, end),
        }
    }

    fn boot(&mut self, machine: usize) {
        let here = &mut self.machines[machine];
        here.booted_at = self.now;
        here.power = Power::On;
        self.start_agent(machine);
    }

    /// A machine goes down; nothing of it runs any more.
    pub(crate) fn power_off(&mut self, machine: usize) {
        self.kill_agent(machine);
        let here = &mut self.machines[machine];
        here.power = Power::Off;
        // What was about to happen in the former boot does not.
        here.boot += 1;
        here.processes.clear();
        if self.chance.percent(50) {
            self.lose_power(machine);
        }
    }

    /// What an agent and its supervisors do not flush is as it was before, or gone.
    fn lose_power(&mut self, machine: usize) {
        let (lease, ledger) = (self.chance.percent(50), self.chance.below(4));
        let disk = &mut self.machines[machine].disk;
        if lease {
            disk.lease = None;
        }
        match ledger {
            0 => disk.ledger = Ledger::default(),
            1 => disk.ledger = disk.former_ledger.clone(),
            _ => {}
        }
        disk.highest_generation = disk.ledger.generation;
        let chance = &mut self.chance;
        disk.ranks
            .retain(|_, rank| rank.exit.is_some() || !chance.percent(30));
    }
}
