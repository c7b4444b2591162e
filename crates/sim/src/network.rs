//! The network between agents and the server: connections that deliver in order, late, or not at all.
//!
//! Within one connection nothing is lost, doubled or overtaken on the way to the server, as TLS promises; but a connection can break at
//! any moment, one side can learn of it much later than the other, and while a direction is cut everything in it waits. What the
//! server sends may also arrive twice or in another order where the world is rough: the core promises to stand that.

use std::time::Duration;

use crate::event::{AgentEvent, Event, ServerEvent};
use crate::machine::Disk;
use crate::world::World;

/// For how long an agent waits for the answer when it opens a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a node that the server refuses waits.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Of one connection: when the last message of each direction arrives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    to_server: Duration,
    to_agent: Duration,
}

impl World {
    /// How long a message travels.
    pub(crate) fn travel(&mut self) -> Duration {
        let faults = &self.options.faults;
        let (usual, slow) = (faults.delay, faults.slow_percent);
        if self.chance.percent(slow) {
            self.chance.milliseconds(100, 3000)
        } else {
            self.chance.between(usual)
        }
    }

    /// Sends something to the server, behind what was sent before on the same connection.
    fn send_to_server(&mut self, connection: u64, event: ServerEvent) {
        let at = self.now + self.travel();
        let order = self.connections.entry(connection).or_default();
        order.to_server = order.to_server.max(at);
        let at = order.to_server;
        self.queue.push(at, Event::Server(event));
    }

    /// Sends something to an agent.
    pub(crate) fn send_to_agent(
        &mut self,
        machine: usize,
        agent: u64,
        connection: u64,
        event: AgentEvent,
    ) {
        let mut at = self.now + self.travel();
        if self.options.faults.disorder
            && let AgentEvent::Frame { text, .. } = &event
        {
            if self.chance.percent(10) {
                let again = at + self.chance.milliseconds(1, 8000);
                let event = AgentEvent::Frame {
                    connection,
                    text: text.clone(),
                };
                self.queue.push(
                    again,
                    Event::Agent {
                        machine,
                        agent,
                        event,
                    },
                );
            }
        } else {
            let order = self.connections.entry(connection).or_default();
            order.to_agent = order.to_agent.max(at);
            at = order.to_agent;
        }
        self.queue.push(
            at,
            Event::Agent {
                machine,
                agent,
                event,
            },
        );
    }

    /// An agent that has no certificate asks for one.
    pub(crate) fn agent_enrols(&mut self, machine: usize) {
        let agent = self.machines[machine].agents;
        let here = &mut self.machines[machine];
        if here.must_enrol()
            && let Some(process) = &mut here.agent
        {
            process.enrolments += 1;
            let attempt = process.enrolments;
            let at = self.now + self.travel();
            self.queue.push(
                at,
                Event::Server(ServerEvent::Enrol {
                    machine,
                    agent,
                    attempt,
                }),
            );
            let pause = self.chance.milliseconds(1500, 4000);
            self.agent_event(machine, pause, AgentEvent::Enrol);
        }
    }

    /// An agent tries to open a connection.
    pub(crate) fn agent_connects(&mut self, machine: usize) {
        let agent = self.machines[machine].agents;
        let Some(here) = self.machines[machine]
            .agent
            .as_mut()
            .filter(|here| here.connection.is_none() && here.connecting.is_none())
        else {
            return;
        };
        self.connections_made += 1;
        let connection = self.connections_made;
        here.connecting = Some(connection);
        self.send_to_server(
            connection,
            ServerEvent::Connect {
                machine,
                agent,
                connection,
            },
        );
        // Nobody answers at all.
        self.agent_event(
            machine,
            CONNECT_LIMIT,
            AgentEvent::Connected {
                connection,
                welcome: None,
            },
        );
    }

    /// The answer to an attempt came, or none came in time.
    pub(crate) fn agent_connected(
        &mut self,
        machine: usize,
        connection: u64,
        welcome: Option<bool>,
    ) {
        let Some(here) = self.machines[machine].agent.as_mut() else {
            return;
        };
        if here.connecting != Some(connection) {
            // Too late: this attempt was given up, and its socket is closed.
            if welcome == Some(true) && here.connection != Some(connection) {
                self.agent_hangs_up(machine, connection);
            }
            return;
        }
        here.connecting = None;
        match welcome {
            Some(true) => {
                here.connection = Some(connection);
                if let Some(core) = &mut here.core {
                    core.on_connected();
                }
            }
            Some(false) => self.refused(machine),
            None => {
                self.agent_hangs_up(machine, connection);
                self.connect_again(machine);
            }
        }
    }

    /// The server refuses the node's certificate. Somebody enrols the machine again, as a new node if it was removed.
    fn refused(&mut self, machine: usize) {
        let here = &mut self.machines[machine];
        let removed = here
            .node()
            .is_some_and(|node| !self.check.view.nodes.contains_key(node));
        if removed && !here.processes.is_empty() {
            return self.agent_event(machine, REFUSED_PAUSE, AgentEvent::Connect);
        }
        self.kill_agent(machine);
        if removed {
            self.machines[machine].disk = Disk::default();
        }
        // A late enrolment can revoke the certificate of a later one: that needs somebody to enrol the node again.
        self.machines[machine].disk.refused = true;
        self.start_agent(machine);
    }

    /// An agent without a connection tries again soon.
    pub(crate) fn connect_again(&mut self, machine: usize) {
        let pause = self.chance.milliseconds(30, 2000);
        self.agent_event(machine, pause, AgentEvent::Connect);
    }

    /// An agent sends a frame on its connection.
    pub(crate) fn agent_sends(&mut self, machine: usize, text: String) {
        let connection = self.machines[machine]
            .agent
            .as_ref()
            .and_then(|agent| agent.connection);
        if let Some(connection) = connection {
            self.send_to_server(
                connection,
                ServerEvent::Frame {
                    machine,
                    connection,
                    text,
                },
            );
        }
    }

    /// An agent closes its end, or dies; the server may learn of it.
    pub(crate) fn agent_hangs_up(&mut self, machine: usize, connection: u64) {
        if self.chance.percent(70) {
            self.send_to_server(
                connection,
                ServerEvent::Gone {
                    machine,
                    connection,
                },
            );
        }
    }

    /// Both ends of a node's connection are told that it is gone.
    pub(crate) fn reset_connection(&mut self, machine: usize) {
        let Some(connection) = self.machines[machine]
            .agent
            .as_ref()
            .and_then(|agent| agent.connection)
        else {
            return;
        };
        self.note(|world| {
            format!(
                "the connection of {} is reset",
                world.machines[machine].name
            )
        });
        self.agent_event(machine, Duration::ZERO, AgentEvent::Gone { connection });
        if self.chance.percent(60) {
            self.queue.push(
                self.now,
                Event::Server(ServerEvent::Gone {
                    machine,
                    connection,
                }),
            );
        }
    }

    /// What waited in front of a cut arrives at once: nothing that is still on its way on the same connection may come before it.
    pub(crate) fn mend(&mut self, machine: usize) {
        let network = &mut self.machines[machine].network;
        (network.to_server, network.to_agent) = (false, false);
        let held = std::mem::take(&mut network.held);
        self.note(|world| {
            format!(
                "{} and the server hear each other again",
                world.machines[machine].name
            )
        });
        for event in held {
            self.queue.push(self.now, event);
        }
    }
}
