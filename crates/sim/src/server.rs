//! The simulated server: the real control plane over the real store, and what `http` does for agents between them.
//!
//! The store outlives the process. Contacts, links and what a session has not yet said do not: a kill can come between any commit and
//! what follows from it, because each of the two is an event of its own.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use supernode_api::agent::{FromAgent, Sync, ToAgent};
use supernode_control::hub::{Link, LogBytes, LogRequest};
use supernode_control::service::{LoopMetrics, pass};
use supernode_control::{ChangeRequest, Control, Enrolment, Settings, SyncOutcome, check_certificate, desired, enrol, sync};
use supernode_control::provisioner::Provisioner;
use supernode_types::agent::Desired;
use supernode_types::{Generation, NodeId};
use tokio::sync::oneshot;

use crate::event::{AgentEvent, Event, ServerEvent};
use crate::options::Defect;
use crate::world::World;

/// The hash of the join token that every simulated node has.
pub(crate) const JOIN_TOKEN: &str = "join-token-of-the-simulation";

/// The process of the server, while there is one.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) control: Control,
    metrics: LoopMetrics,
    sessions: BTreeMap<u64, Session>,
    /// Somebody woke the loop, and it has not looked since.
    woken: bool,
}

/// One connection of an agent, as the server sees it.
#[derive(Debug)]
struct Session {
    machine: usize,
    agent: u64,
    node: NodeId,
    link: Arc<SimLink>,
    registered: u64,
    /// A sync is being worked on; the next frame waits.
    busy: bool,
    waiting: VecDeque<String>,
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

/// Runs a future that never has to wait: over an in-memory store everything is done on this thread.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("an in-memory store answers at once"),
    }
}

impl World {
    pub(crate) fn settings() -> Settings {
        let mut settings = Settings::new(Provisioner::Pool);
        settings.lost_after = Duration::from_secs(10);
        settings
    }

    /// A process of the server starts.
    fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.server_processes += 1;
        let no_grace = self.options.defect == Some(Defect::NoGraceAfterRestart) && self.server_processes > 1;
        let control = Control::new(self.store.clone(), self.time.clock(no_grace), Arc::clone(&self.entropy), Self::settings());
        self.server = Some(Server { control, metrics: LoopMetrics::default(), sessions: BTreeMap::new(), woken: false });
        self.note(|_| "server starts".into());
        let process = self.server_processes;
        self.queue.push(self.now, Event::Server(ServerEvent::Loop { process, periodic: true }));
    }

    /// The process of the server is killed.
    pub(crate) fn kill_server(&mut self) {
        let Some(server) = self.server.take() else { return };
        self.note(|_| "server killed".into());
        for (connection, session) in server.sessions {
            // The kernel closes its sockets; what was written to them still arrives.
            self.send_to_agent(session.machine, session.agent, connection, AgentEvent::Gone { connection });
        }
    }

    /// Makes the loop look soon.
    pub(crate) fn wake_loop(&mut self) {
        let Some(server) = self.server.as_mut().filter(|server| !server.woken) else { return };
        server.woken = true;
        let process = self.server_processes;
        let delay = self.chance.between((Duration::ZERO, self.options.faults.delay.1));
        self.queue.push(self.now + delay, Event::Server(ServerEvent::Loop { process, periodic: false }));
    }

    /// One thing happens to the server.
    pub(crate) fn server_step(&mut self, event: ServerEvent) {
        if let Some(machine) = event.source().filter(|machine| self.machines[*machine].network.to_server) {
            self.machines[machine].network.held.push(Event::Server(event));
            return;
        }
        match event {
            ServerEvent::Start => self.start_server(),
            ServerEvent::Loop { process, periodic } => self.look(process, periodic),
            ServerEvent::Flush { process } => {
                if self.server_processes == process {
                    self.flush();
                }
            }
            ServerEvent::Enrol { machine, agent, attempt } => self.enrol(machine, agent, attempt),
            ServerEvent::Connect { machine, agent, connection } => self.connect(machine, agent, connection),
            ServerEvent::Frame { connection, text, .. } => {
                let Some(session) = self.session(connection) else { return };
                if session.busy {
                    session.waiting.push_back(text);
                } else {
                    self.frame(connection, &text);
                }
            }
            ServerEvent::Gone { connection, .. } => self.disconnect(connection),
            ServerEvent::Answer { process, connection, sequence, stored, outcome } => {
                if self.server_processes == process {
                    self.answer(connection, sequence, stored, outcome);
                }
            }
        }
    }

    fn session(&mut self, connection: u64) -> Option<&mut Session> {
        self.server.as_mut()?.sessions.get_mut(&connection)
    }

    /// One pass of the loop.
    fn look(&mut self, process: u64, periodic: bool) {
        let Some(server) = self.server.as_mut().filter(|_| self.server_processes == process) else { return };
        server.woken = false;
        let result = at_once(pass(&server.control, &server.metrics));
        match result {
            Err(error) => self.violated(format!("a pass of the loop failed: {error}")),
            Ok(changed) => {
                if changed.unfinished {
                    self.violated("the planner does not come to an end".into());
                }
                self.last_plan = changed.actions;
                if changed.actions > 0 {
                    self.check.store_changed = true;
                }
            }
        }
        // What the loop has to say is in memory only until it is sent.
        let delay = self.chance.between((Duration::ZERO, self.options.faults.delay.0));
        self.queue.push(self.now + delay, Event::Server(ServerEvent::Flush { process }));
        if periodic {
            self.queue.push(self.now + self.options.loop_period, Event::Server(ServerEvent::Loop { process, periodic }));
        }
    }

    fn enrol(&mut self, machine: usize, agent: u64, attempt: u32) {
        let Some(server) = &self.server else { return };
        let here = &self.machines[machine];
        let wish = Enrolment {
            join_token_hash: JOIN_TOKEN.into(),
            name: here.name.clone(),
            address: here.name.to_string(),
            labels: BTreeMap::new(),
            position: here.hardware.position.clone(),
            machine_id: format!("machine-{}", here.name),
        };
        let request = change_request("node_enrol", here.name.to_string());
        let result = server.control.change_inline(request, move |tx, intent| enrol(tx, intent, &wish));
        self.check.store_changed = true;
        match result {
            Err(refusal) => self.violated(format!("a node could not enrol: {refusal}")),
            Ok((node, serial, _)) => {
                self.wake_loop();
                if !self.chance.percent(self.options.faults.request_loss_percent) {
                    let at = self.now + self.travel();
                    self.queue.push(at, Event::Agent { machine, agent, event: AgentEvent::Enrolled { attempt, node, serial } });
                }
            }
        }
    }

    fn connect(&mut self, machine: usize, agent: u64, connection: u64) {
        let identity = self.machines[machine].disk.identity.clone();
        let (Some(server), Some((node, serial))) = (&self.server, identity) else {
            return self.send_to_agent(machine, agent, connection, AgentEvent::Connected { connection, welcome: None });
        };
        let (id, now) = (node.clone(), self.time.wall());
        let welcome = server.control.store().read_inline("certificate_check", move |tx| check_certificate(tx, &id, &serial, now)).is_ok();
        if let Some(server) = self.server.as_mut().filter(|_| welcome) {
            let link = Arc::new(SimLink::default());
            let registered = server.control.hub().connect(&node, Arc::clone(&link) as Arc<dyn Link>);
            let session = Session { machine, agent, node, link, registered, busy: false, waiting: VecDeque::new() };
            server.sessions.insert(connection, session);
        }
        self.send_to_agent(machine, agent, connection, AgentEvent::Connected { connection, welcome: Some(welcome) });
        self.flush();
    }

    fn disconnect(&mut self, connection: u64) {
        if let Some(server) = &mut self.server
            && let Some(session) = server.sessions.remove(&connection)
        {
            server.control.hub().disconnect(&session.node, session.registered);
        }
    }

    /// A session reads a frame. A sync that says something is stored before anything else is done.
    fn frame(&mut self, connection: u64, text: &str) {
        let Some(session) = self.session(connection) else { return };
        let Sync { sequence, stored_generation, observed } = match serde_json::from_str(text) {
            Ok(FromAgent::Sync(sync)) => *sync,
            Ok(FromAgent::Log(_)) => return,
            Err(error) => return self.violated(format!("a message of an agent cannot be read: {error}: {text}")),
        };
        let news = observed.is_some() || stored_generation != session.link.told.load(Ordering::Relaxed);
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
            let stored = self.store.write_inline("agent_sync", move |tx| sync(tx, &node, stored_generation, observed.as_ref(), now));
            match stored {
                Err(error) => return self.violated(format!("a sync could not be stored: {error}")),
                Ok(SyncOutcome::Removed) => {
                    self.disconnect(connection);
                    return self.send_to_agent(machine, agent, connection, AgentEvent::Gone { connection });
                }
                Ok(SyncOutcome::Stored { desired_generation, changed }) => {
                    self.check.store_changed |= changed;
                    outcome = Some((desired_generation, changed));
                }
            }
        }
        let process = self.server_processes;
        let delay = if news { self.chance.between((Duration::ZERO, self.options.faults.delay.0)) } else { Duration::ZERO };
        let event = ServerEvent::Answer { process, connection, sequence, stored: stored_generation, outcome };
        self.queue.push(self.now + delay, Event::Server(event));
    }

    /// What follows from a sync: the loop looks, the agent is told what it does not know, and its sync is acknowledged.
    fn answer(&mut self, connection: u64, sequence: u64, stored: Generation, outcome: Option<(Generation, bool)>) {
        let Some(server) = self.server.as_mut() else { return };
        let Some(session) = server.sessions.get_mut(&connection) else { return };
        session.busy = false;
        let next = session.waiting.pop_front();
        if let Some((wanted, _)) = outcome {
            if wanted == stored {
                session.link.told.fetch_max(stored, Ordering::Relaxed);
            } else {
                let node = session.node.clone();
                match server.control.store().read_inline("desired", move |tx| desired(tx, [node.clone()])) {
                    Err(error) => return self.violated(format!("what a node should do cannot be read: {error}")),
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
            interval_milliseconds: u64::try_from(settings.sync_interval.as_millis()).unwrap_or(1000),
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
    fn flush(&mut self) {
        let Some(server) = &self.server else { return };
        let mut sends = Vec::new();
        for (connection, session) in &server.sessions {
            let mut outgoing = session.link.outgoing();
            let messages = std::mem::take(&mut outgoing.messages);
            if outgoing.closed || !messages.is_empty() {
                sends.push((*connection, session.machine, session.agent, messages, outgoing.closed));
            }
        }
        for (connection, machine, agent, messages, closed) in sends {
            for message in messages {
                let text = serde_json::to_string(&message).expect("the contract's types serialize");
                self.send_to_agent(machine, agent, connection, AgentEvent::Frame { connection, text });
            }
            if closed {
                self.disconnect(connection);
                self.send_to_agent(machine, agent, connection, AgentEvent::Gone { connection });
            }
        }
    }
}

/// A change that an agent or the set-up asks for.
pub(crate) fn change_request(action: &'static str, subject: String) -> ChangeRequest {
    ChangeRequest {
        action,
        subject,
        audited: serde_json::Value::Null,
        request_id: String::new(),
        actor: "simulation".into(),
        operator: true,
        admin: true,
        if_match: None,
        idempotency: None,
    }
}
