//! The simulated server: the real control plane over the real store, and what `http` does for agents between them.
//!
//! The store outlives the process. Contacts, links and what a session has not yet said do not: a kill can come between any commit and
//! what follows from it, because each of the two is an event of its own.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use supernode_control::provisioner::Provisioner;
use supernode_control::service::{LoopMetrics, pass};
use supernode_control::{ChangeRequest, Control, Enrolment, Refusal, Settings, enrol};
use supernode_types::operation::Admission;

use crate::cloud::Calls;
use crate::event::{AgentEvent, Event, ServerEvent};
use crate::options::{Defect, Options};
use crate::session::Session;
use crate::world::World;

/// The hash of the join token that every simulated node has.
pub(crate) const JOIN_TOKEN: &str = "join-token-of-the-simulation";

/// The process of the server, while there is one.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) control: Control,
    metrics: LoopMetrics,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) calls: Calls,
    /// Somebody woke the loop, and it has not looked since.
    woken: bool,
}

/// Runs a future that never has to wait: over an in-memory store everything is done on this thread.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("an in-memory store answers at once"),
    }
}

impl World {
    pub(crate) fn settings(options: &Options) -> Settings {
        let provisioner = if options.provisioner {
            Provisioner::Local {
                directory: "/nowhere".into(),
            }
        } else {
            Provisioner::Pool
        };
        let mut settings = Settings::new(provisioner);
        settings.lost_after = options.lost_after;
        settings.admission = Admission::None;
        settings
    }

    /// A process of the server starts.
    fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.server_processes += 1;
        let no_grace =
            self.options.defect == Some(Defect::NoGraceAfterRestart) && self.server_processes > 1;
        let control = Control::new(
            self.store.clone(),
            self.time.clock(no_grace),
            Arc::clone(&self.entropy),
            Self::settings(&self.options),
        );
        self.server = Some(Server {
            control,
            metrics: LoopMetrics::default(),
            sessions: BTreeMap::new(),
            calls: Calls::default(),
            woken: false,
        });
        self.note(|_| "server starts".into());
        let process = self.server_processes;
        self.queue.push(
            self.now,
            Event::Server(ServerEvent::Loop {
                process,
                periodic: true,
            }),
        );
        if self.options.provisioner {
            self.queue
                .push(self.now, Event::Server(ServerEvent::Provision { process }));
        }
    }

    /// The process of the server is killed.
    pub(crate) fn kill_server(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        self.note(|_| "server killed".into());
        for (connection, session) in server.sessions {
            // The kernel closes its sockets; what was written to them still arrives.
            self.send_to_agent(
                session.machine,
                session.agent,
                connection,
                AgentEvent::Gone { connection },
            );
        }
    }

    /// Makes the loop look soon.
    pub(crate) fn wake_loop(&mut self) {
        let Some(server) = self.server.as_mut().filter(|server| !server.woken) else {
            return;
        };
        server.woken = true;
        let process = self.server_processes;
        let delay = self
            .chance
            .between((Duration::ZERO, self.options.faults.delay.1));
        self.queue.push(
            self.now + delay,
            Event::Server(ServerEvent::Loop {
                process,
                periodic: false,
            }),
        );
    }

    /// One thing happens to the server.
    pub(crate) fn server_step(&mut self, event: ServerEvent) {
        if let Some(machine) = event
            .source()
            .filter(|machine| self.machines[*machine].network.to_server)
        {
            self.machines[machine]
                .network
                .held
                .push(Event::Server(event));
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
            ServerEvent::Enrol {
                machine,
                agent,
                attempt,
            } => self.enrol(machine, agent, attempt),
            ServerEvent::Connect {
                machine,
                agent,
                connection,
            } => self.connect(machine, agent, connection),
            ServerEvent::Frame {
                connection, text, ..
            } => {
                let Some(session) = self.session(connection) else {
                    return;
                };
                if session.busy {
                    session.waiting.push_back(text);
                } else {
                    self.frame(connection, &text);
                }
            }
            ServerEvent::Gone { connection, .. } => self.disconnect(connection),
            ServerEvent::Provision { process } => self.provision(process),
            ServerEvent::Call { process, call } => self.cloud(process, call),
            ServerEvent::CallAnswer {
                process,
                call,
                answer,
            } => self.call_answered(process, &call, answer),
            ServerEvent::Answer {
                process,
                connection,
                sequence,
                stored,
                outcome,
            } => {
                if self.server_processes == process {
                    self.answer(connection, sequence, stored, outcome);
                }
            }
        }
    }

    /// One pass of the loop.
    fn look(&mut self, process: u64, periodic: bool) {
        let Some(server) = self
            .server
            .as_mut()
            .filter(|_| self.server_processes == process)
        else {
            return;
        };
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
        let delay = self
            .chance
            .between((Duration::ZERO, self.options.faults.delay.0));
        self.queue.push(
            self.now + delay,
            Event::Server(ServerEvent::Flush { process }),
        );
        if periodic {
            self.queue.push(
                self.now + self.options.loop_period,
                Event::Server(ServerEvent::Loop { process, periodic }),
            );
        }
    }

    fn enrol(&mut self, machine: usize, agent: u64, attempt: u32) {
        let Some(server) = &self.server else { return };
        let here = &self.machines[machine];
        let wish = Enrolment {
            join_token_hash: here.token.clone(),
            name: here.name.clone(),
            address: here.name.to_string(),
            labels: BTreeMap::new(),
            position: here.hardware.position.clone(),
            machine_id: format!("machine-{}", here.name),
        };
        let request = change_request("node_enrol", here.name.to_string());
        let result = server
            .control
            .change_inline(request, move |tx, intent| enrol(tx, intent, &wish));
        self.check.store_changed = true;
        match result {
            // A provisioner's token is revoked when its node is not wanted any more.
            Err(Refusal::Forbidden(_)) if self.machines[machine].token != JOIN_TOKEN => {}
            Err(refusal) => self.violated(format!("a node could not enrol: {refusal}")),
            Ok((node, serial, _)) => {
                self.wake_loop();
                if !self
                    .chance
                    .percent(self.options.faults.request_loss_percent)
                {
                    let at = self.now + self.travel();
                    self.queue.push(
                        at,
                        Event::Agent {
                            machine,
                            agent,
                            event: AgentEvent::Enrolled {
                                attempt,
                                node,
                                serial,
                            },
                        },
                    );
                }
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
