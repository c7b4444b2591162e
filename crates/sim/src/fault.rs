//! Faults, and their ends.

use std::time::Duration;

use crate::event::{Event, Heal, MachineEvent, ServerEvent};
use crate::machine::Power;
use crate::options::FaultKind;
use crate::world::World;

impl World {
    /// One fault, and the time of the next.
    pub(crate) fn fault(&mut self) {
        if self.now >= self.options.chaos {
            return;
        }
        let total: u32 = self
            .options
            .faults
            .kinds
            .iter()
            .map(|(_, weight)| weight)
            .sum();
        let mut drawn = self.chance.below(u64::from(total.max(1)));
        let kinds = self.options.faults.kinds.clone();
        for (kind, weight) in kinds {
            let weight = u64::from(weight);
            if drawn < weight {
                let machine = self.chance.index(self.machines.len());
                let duration = self.outage();
                self.inject(kind, machine, duration);
                break;
            }
            drawn -= weight;
        }
        let again = self.chance.between(self.options.faults.interval);
        self.queue.push(self.now + again, Event::Fault);
    }

    /// How long something is away: mostly short, sometimes about as long as a lease, sometimes far longer.
    fn outage(&mut self) -> Duration {
        match self.chance.below(10) {
            0..=5 => self.chance.milliseconds(1, 1500),
            6..=8 => self.chance.milliseconds(6000, 13_000),
            _ => self.chance.milliseconds(10_000, 25_000),
        }
    }

    /// Makes a fault happen; it ends by itself.
    pub(crate) fn inject(&mut self, kind: FaultKind, machine: usize, duration: Duration) {
        let end = self.now + duration;
        match kind {
            FaultKind::ServerKill => {
                self.kill_server();
                self.queue.push(end, Event::Server(ServerEvent::Start));
            }
            FaultKind::AgentKill => {
                self.kill_agent(machine);
                self.machine_event(machine, duration, MachineEvent::AgentStart);
            }
            FaultKind::AgentHalt => self.halt(machine, end),
            FaultKind::Reboot => {
                if self.machines[machine].power == Power::On {
                    self.note(|world| format!("{} goes down", world.machines[machine].name));
                    self.power_off(machine);
                    self.machine_event(machine, duration, MachineEvent::Boot);
                }
            }
            FaultKind::Partition => self.cut(machine, end),
            FaultKind::Reset => self.reset_connection(machine),
            FaultKind::ClockJump => {
                let most = u64::from(self.options.faults.clock_jump_seconds);
                let seconds = i64::try_from(self.chance.below(2 * most + 1)).expect("it is small")
                    - i64::try_from(most).expect("it is small");
                self.note(|_| format!("the server's wall clock is {seconds} s off"));
                self.time.set_wall_offset(seconds * 1_000_000);
                self.queue.push(end, Event::Heal(Heal::Clock));
            }
            FaultKind::SupervisorKill => {
                let keys: Vec<_> = self.machines[machine].processes.keys().cloned().collect();
                if let Some(key) = self.chance.pick(&keys).cloned() {
                    self.kill_supervisor(machine, key);
                }
            }
            FaultKind::DiskFull => {
                self.note(|world| format!("the disk of {} is full", world.machines[machine].name));
                self.machines[machine].disk_full = true;
                self.queue.push(end, Event::Heal(Heal::Disk { machine }));
            }
            FaultKind::EnvironmentBroken => {
                self.note(|world| {
                    format!(
                        "environments cannot be applied on {}",
                        world.machines[machine].name
                    )
                });
                self.machines[machine].environment_broken = true;
                self.queue
                    .push(end, Event::Heal(Heal::Environment { machine }));
            }
        }
    }

    fn halt(&mut self, machine: usize, end: Duration) {
        let agent = self.machines[machine].agents;
        if let Some(process) = self.machines[machine]
            .agent
            .as_mut()
            .filter(|process| !process.halted)
        {
            process.halted = true;
            self.note(|world| format!("{}: agent halted", world.machines[machine].name));
            self.queue
                .push(end, Event::Heal(Heal::Halt { machine, agent }));
        }
    }

    fn cut(&mut self, machine: usize, end: Duration) {
        let directions = self.chance.below(4);
        let network = &mut self.machines[machine].network;
        if network.to_server || network.to_agent {
            return;
        }
        (network.to_server, network.to_agent) = match directions {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let (to_server, to_agent) = (network.to_server, network.to_agent);
        self.note(|world| {
            format!(
                "{} is cut off (to server: {to_server}, to agent: {to_agent})",
                world.machines[machine].name
            )
        });
        self.queue
            .push(end, Event::Heal(Heal::Partition { machine }));
    }

    pub(crate) fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Halt { machine, agent } => self.wake_up(machine, agent),
            Heal::Partition { machine } => self.mend(machine),
            Heal::Clock => self.time.set_wall_offset(0),
            Heal::Disk { machine } => self.machines[machine].disk_full = false,
            Heal::Environment { machine } => self.machines[machine].environment_broken = false,
        }
    }

    /// A halted agent goes on with what has happened meanwhile.
    fn wake_up(&mut self, machine: usize, process: u64) {
        let Some(agent) = self.machines[machine]
            .agent(process)
            .filter(|agent| agent.halted)
        else {
            return;
        };
        agent.halted = false;
        let waiting = std::mem::take(&mut agent.waiting);
        self.note(|world| format!("{}: agent goes on", world.machines[machine].name));
        for event in waiting {
            self.queue.push(
                self.now,
                Event::Agent {
                    machine,
                    agent: process,
                    event,
                },
            );
        }
    }

    /// Ends every fault now.
    pub(crate) fn heal_all(&mut self) {
        self.note(|_| "all faults end".into());
        self.options.faults.heal();
        self.time.set_wall_offset(0);
        for machine in 0..self.machines.len() {
            self.mend(machine);
            let agent = self.machines[machine].agents;
            self.wake_up(machine, agent);
            self.machines[machine].disk_full = false;
            self.machines[machine].environment_broken = false;
        }
    }
}
