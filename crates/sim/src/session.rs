//! The server's end of the connections of agents, as `http` has it: a sync is stored, then answered, and each of the two is an event of
//! its own, so that a kill can come between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supernode_api::agent::{FromAgent, Sync, ToAgent};
use supernode_control::hub::{Link, LogBytes, LogRequest};
use supernode_control::{SyncOutcome, check_certificate, desired, sync};
use supernode_types::agent::Desired;
use supernode_types::{Generation, NodeId};
use tokio::sync::oneshot;

use crate::event::{AgentEvent, Event, ServerEvent};
use crate::options::Defect;
use crate::world::World;

/// One connection of an agent, as the server sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) machine: usize,
    pub(crate) agent: u64,
    node: NodeId,
    link: Arc<SimLink>,
    registered: u64,
    /// A sync is being worked on; the next frame waits.
    pub(crate) busy: bool,
    pub(crate) waiting: VecDeque<String>,
}

#[derive(Debug, Default)]
struct SimLink {
    told: AtomicI64,
    outgoing: Mutex<Outgoing>,
}

#[derive(Debug, Default)]
struct Outgoing {
    messages: Vec<ToAgent>,
    closed: bool,
}

impl SimLink {
    fn outgoing(&self) -> std::sync::MutexGuard<'_, Outgoing> {
        self.outgoing.lock().expect("no holder of this lock panics")
    }
}

impl Link for SimLink {
    fn desired(&self, desired: Box<Desired>) -> bool {
        self.told.fetch_max(desired.generation, Ordering::Relaxed);
        self.outgoing().messages.push(ToAgent::Desired(desired));
        true
    }

    fn read_log(&self, _: LogRequest) -> oneshot::Receiver<Result<LogBytes, String>> {
        oneshot::channel().1
    }

    fn close(&self, _: &'static str) {
        self.outgoing().closed = true;
    }
}

impl World {
    pub(crate) fn session(&mut self, connection: u64) -> Option<&mut Session> {
        self.server.as_mut()?.sessions.get_mut(&connection)
    }

    pub(crate) fn connect(&mut self, machine: usize, agent: u64, connection: u64) {
        let identity = self.machines[machine].disk.identity.clone();
        let (Some(server), Some((node, serial))) = (&self.server, identity) else {
            return self.send_to_agent(
                machine,
                agent,
                connection,
                AgentEvent::Connected {
                    connection,
                    welcome: None,
                },
            );
        };
        let (id, now) = (node.clone(), self.time.wall());
        let welcome = server
            .control
            .store()
            .read_inline("certificate_check", move |tx| {
                check_certificate(tx, &id, &serial, now)
            })
            .is_ok();
        if let Some(server) = self.server.as_mut().filter(|_| welcome) {
            let link = Arc::new(SimLink::default());
            let registered = server
                .control
                .hub()
                .connect(&node, Arc::clone(&link) as Arc<dyn Link>);
            let session = Session {
                machine,
                agent,
                node,
                link,
                registered,
                busy: false,
                waiting: VecDeque::new(),
            };
            server.sessions.insert(connection, session);
        }
        self.send_to_agent(
            machine,
            agent,
            connection,
            AgentEvent::Connected {
                connection,
                welcome: Some(welcome),
            },
        );
        self.flush();
    }

    pub(crate) fn disconnect(&mut self, connection: u64) {
        if let Some(server) = &mut self.server
            && let Some(session) = server.sessions.remove(&connection)
        {
            server
                .control
                .hub()
                .disconnect(&session.node, session.registered);
        }
    }

    /// A session reads a frame. A sync that says something is stored before anything else is done.
    pub(crate) fn frame(&mut self, connection: u64, text: &str) {
        let Some(session) = self.session(connection) else {
            return;
        };
        let Sync {
            sequence,
            stored_generation,
            observed,
        } = match serde_json::from_str(text) {
            Ok(FromAgent::Sync(sync)) => *sync,
            Ok(FromAgent::Log(_)) => return,
            Err(error) => {
                return self.violated(format!(
                    "a message of an agent cannot be read: {error}: {text}"
                ));
            }
        };
        let news =
            observed.is_some() || stored_generation != session.link.told.load(Ordering::Relaxed);
        session.busy = true;
        let (node, machine, agent) = (session.node.clone(), session.machine, session.agent);
        let early = self.options.defect == Some(Defect::AcknowledgesBeforeStoring);
        if early && news && self.chance.percent(20) {
            // Acknowledged, and lost by a crash that the agent does not notice.
            self.answer(connection, sequence, stored_generation, None);
            return;
        }
        let mut outcome = None;
        if news {
            let now = self.time.wall();
            let stored = self.store.write_inline("agent_sync", move |tx| {
                sync(tx, &node, stored_generation, observed.as_ref(), now)
            });
            match stored {
                Err(error) => return self.violated(format!("a sync could not be stored: {error}")),
                Ok(SyncOutcome::Removed) => {
                    self.disconnect(connection);
                    return self.send_to_agent(
                        machine,
                        agent,
                        connection,
                        AgentEvent::Gone { connection },
                    );
                }
                Ok(SyncOutcome::Stored {
                    desired_generation,
                    changed,
                }) => {
                    self.check.store_changed |= changed;
                    outcome = Some((desired_generation, changed));
                }
            }
        }
        let process = self.server_processes;
        let delay = if news {
            self.chance
                .between((Duration::ZERO, self.options.faults.delay.0))
        } else {
            Duration::ZERO
        };
        let event = ServerEvent::Answer {
            process,
            connection,
            sequence,
            stored: stored_generation,
            outcome,
        };
        self.queue.push(self.now + delay, Event::Server(event));
    }

    /// What follows from a sync: the loop looks, the agent is told what it does not know, and its sync is acknowledged.
    pub(crate) fn answer(
        &mut self,
        connection: u64,
        sequence: u64,
        stored: Generation,
        outcome: Option<(Generation, bool)>,
    ) {
        let Some(server) = self.server.as_mut() else {
            return;
        };
        let Some(session) = server.sessions.get_mut(&connection) else {
            return;
        };
        session.busy = false;
        let next = session.waiting.pop_front();
        if let Some((wanted, _)) = outcome {
            if wanted == stored {
                session.link.told.fetch_max(stored, Ordering::Relaxed);
            } else {
                let node = session.node.clone();
                match server
                    .control
                    .store()
                    .read_inline("desired", move |tx| desired(tx, [node.clone()]))
                {
                    Err(error) => {
                        return self
                            .violated(format!("what a node should do cannot be read: {error}"));
                    }
                    Ok(all) => {
                        for (_, desired) in all {
                            session.link.desired(Box::new(desired));
                        }
                    }
                }
            }
        }
        server.control.hub().heard(&session.node);
        let settings = server.control.settings();
        session.link.outgoing().messages.push(ToAgent::Acknowledge {
            sequence,
            fence_seconds: settings.fence().as_secs(),
            interval_milliseconds: u64::try_from(settings.sync_interval.as_millis())
                .unwrap_or(1000),
        });
        if outcome.is_some_and(|(_, changed)| changed) {
            self.wake_loop();
        }
        self.flush();
        if let Some(text) = next {
            self.frame(connection, &text);
        }
    }

    /// Sends what the links hold, and closes those that are to be closed.
    pub(crate) fn flush(&mut self) {
        let Some(server) = &self.server else { return };
        let mut sends = Vec::new();
        for (connection, session) in &server.sessions {
            let mut outgoing = session.link.outgoing();
            let messages = std::mem::take(&mut outgoing.messages);
            if outgoing.closed || !messages.is_empty() {
                sends.push((
                    *connection,
                    session.machine,
                    session.agent,
                    messages,
                    outgoing.closed,
                ));
            }
        }
        for (connection, machine, agent, messages, closed) in sends {
            for message in messages {
                let text = serde_json::to_string(&message).expect("the contract's types serialize");
                self.send_to_agent(
                    machine,
                    agent,
                    connection,
                    AgentEvent::Frame { connection, text },
                );
            }
            if closed {
                self.disconnect(connection);
                self.send_to_agent(machine, agent, connection, AgentEvent::Gone { connection });
            }
        }
    }
}
