//! What agents' requests mean: enrolment, renewal and syncs, as calls of `control`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supernode_api::agent::{
    EnrolRequest, EnrolResponse, FromAgent, LogPart, ReadLog, RenewRequest, Sync, ToAgent,
};
use supernode_control::hub::{Link, LogBytes, LogRequest};
use supernode_control::{
    ChangeRequest, Control, Enrolment, StoreError, SyncOutcome, check_certificate, desired, enrol,
    renew, sync,
};
use supernode_types::agent::Desired;
use supernode_types::{CertificateSerial, Generation, NodeId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::routes::failure;
use crate::routes::hash_secret;
use crate::{
    AgentConnection, AgentPort, AgentSession, Authority, BoxFuture, Failure, NodeIdentity,
};

/// How many messages wait for a slow agent; all are level-triggered, so few are enough.
const QUEUE: usize = 8;
/// An agent that was told what it should do has so long to say that it has stored it.
const TELL_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// A certificate is valid from a little before now, for agents whose clocks are behind.
const CLOCK_TOLERANCE_MICROSECONDS: i64 = 5 * 60 * 1_000_000;
/// The most log requests of one agent at once.
const MAXIMUM_PENDING_LOGS: usize = 256;

/// The agent port over a control plane.
#[derive(Debug, Clone)]
pub struct Agents {
    control: Control,
    authority: Arc<Authority>,
}

impl Agents {
    /// Certificates come from `authority`.
    pub fn new(control: Control, authority: Arc<Authority>) -> Self {
        Self { control, authority }
    }

    fn sign(
        &self,
        request: &str,
        (node, serial, ends_at): (NodeId, CertificateSerial, Timestamp),
    ) -> Result<EnrolResponse, Failure> {
        let begins_at = Timestamp(self.control.clock().now().0 - CLOCK_TOLERANCE_MICROSECONDS);
        let ends_at = ends_at.min(self.authority.not_after());
        let certificate = self
            .authority
            .issue_node_certificate(request, &node, &serial, begins_at, ends_at)
            .map_err(|error| Failure::invalid_request(error.to_string()))?;
        Ok(EnrolResponse {
            node,
            certificate,
            authority: self.authority.certificate_pem().to_owned(),
        })
    }

    fn change_request(
        action: &'static str,
        subject: String,
        audited: serde_json::Value,
    ) -> ChangeRequest {
        ChangeRequest {
            action,
            subject,
            audited,
            request_id: String::new(),
            actor: "agent".into(),
            operator: false,
            admin: false,
            if_match: None,
            idempotency: None,
        }
    }
}

impl AgentPort for Agents {
    fn enrol(
        &self,
        request: EnrolRequest,
        source: IpAddr,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>> {
        Box::pin(async move {
            let name =
                request
                    .name
                    .parse()
                    .map_err(|error: supernode_types::name::InvalidName| {
                        Failure::invalid_request(error.to_string())
                    })?;
            let wish = Enrolment {
                join_token_hash: hash_secret(&request.join_token),
                name,
                address: request.address.clone(),
                labels: request.labels.clone(),
                position: request.position.clone(),
                machine_id: request.machine_id.clone(),
            };
            let audited = serde_json::json!({ "address": request.address, "source": source.to_string(), "machine_id": request.machine_id });
            let granted = self
                .control
                .change(
                    Self::change_request("node_enrol", request.name.clone(), audited),
                    move |tx, intent| enrol(tx, intent, &wish),
                )
                .await
                .map_err(|refusal| failure(&refusal))?;
            self.sign(&request.certificate_request, granted)
        })
    }

    fn renew(
        &self,
        identity: NodeIdentity,
        request: RenewRequest,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>> {
        Box::pin(async move {
            let node = identity.node.clone();
            let audited = serde_json::json!({ "serial": identity.serial });
            let granted = self
                .control
                .change(
                    Self::change_request("certificate_renew", node.to_string(), audited),
                    move |tx, intent| renew(tx, intent, &identity.node, &identity.serial),
                )
                .await
                .map_err(|refusal| failure(&refusal))?;
            self.sign(&request.certificate_request, (node, granted.0, granted.1))
        })
    }

    fn connected(
        &self,
        identity: NodeIdentity,
        _source: IpAddr,
    ) -> BoxFuture<'_, Result<AgentConnection, Failure>> {
        Box::pin(async move {
            let (node, serial, now) = (
                identity.node.clone(),
                identity.serial.clone(),
                self.control.clock().now(),
            );
            self.control
                .read("certificate_check", move |tx| {
                    check_certificate(tx, &node, &serial, now)
                })
                .await
                .map_err(|refusal| failure(&refusal))?;
            let (sender, outgoing) = mpsc::channel(QUEUE);
            let close = CancellationToken::new();
            let socket = Arc::new(Socket {
                sender,
                close: close.clone(),
                pending: Mutex::new(BTreeMap::new()),
                requests: AtomicU64::new(0),
                told: AtomicI64::new(0),
                control: self.control.clone(),
                told_at: Mutex::new(Duration::ZERO),
            });
            let connection = self
                .control
                .hub()
                .connect(&identity.node, Arc::clone(&socket) as Arc<dyn Link>);
            let session = Arc::new(Session {
                control: self.control.clone(),
                node: identity.node,
                socket,
                connection,
            });
            Ok(AgentConnection {
                session,
                outgoing,
                close,
            })
        })
    }
}

/// The server's end of one connection, as the hub sees it.
struct Socket {
    sender: mpsc::Sender<ToAgent>,
    close: CancellationToken,
    pending: Mutex<BTreeMap<u64, oneshot::Sender<Result<LogBytes, String>>>>,
    requests: AtomicU64,
    /// The newest desired generation that was queued for the agent.
    told: AtomicI64,
    control: Control,
    /// When that was, on the monotonic clock.
    told_at: Mutex<Duration>,
}

impl Socket {
    /// Whether an agent that does not say that it has stored what it was told has had time to.
    fn overdue(&self) -> bool {
        let told_at = *self.told_at.lock().expect("no holder of this lock panics");
        self.control.clock().monotonic().saturating_sub(told_at) > TELL_AGAIN_AFTER
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Socket")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl Link for Socket {
    fn desired(&self, desired: Box<Desired>) -> bool {
        let generation = desired.generation;
        let queued = self.sender.try_send(ToAgent::Desired(desired)).is_ok();
        if queued {
            self.told.fetch_max(generation, Ordering::Relaxed);
            let mut told_at = self.told_at.lock().expect("no holder of this lock panics");
            *told_at = self.control.clock().monotonic();
        }
        queued
    }

    fn told(&self) -> Generation {
        self.told.load(Ordering::Relaxed)
    }

    fn read_log(&self, request: LogRequest) -> oneshot::Receiver<Result<LogBytes, String>> {
        let (answer, receiver) = oneshot::channel();
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        pending.retain(|_, waiting| !waiting.is_closed());
        let message = ToAgent::ReadLog(ReadLog {
            request: number,
            attempt: request.attempt,
            rank: request.rank,
            offset: request.offset,
            limit: request.limit,
        });
        if pending.len() < MAXIMUM_PENDING_LOGS && self.sender.try_send(message).is_ok() {
            pending.insert(number, answer);
        }
        receiver
    }

    fn close(&self, why: &'static str) {
        tracing::info!(why, "closing an agent's connection");
        self.close.cancel();
    }
}

/// One connection of one node.
struct Session {
    control: Control,
    node: NodeId,
    socket: Arc<Socket>,
    connection: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.control.hub().disconnect(&self.node, self.connection);
    }
}

impl AgentSession for Session {
    fn received(self: Arc<Self>, message: FromAgent) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            match message {
                FromAgent::Sync(sync) => self.synced(*sync).await,
                FromAgent::Log(part) => {
                    self.log(part);
                    Ok(())
                }
            }
        })
    }
}

fn replaced() -> Failure {
    Failure::unavailable("a newer connection of this node took over")
}

impl Session {
    /// A bare sync costs no database access: it only says that the node is there. Everything else is stored before it is acknowledged.
    async fn synced(&self, message: Sync) -> Result<(), Failure> {
        let clock = self.control.clock();
        let received = clock.monotonic();
        if !self.control.hub().is_current(&self.node, self.connection) {
            return Err(replaced());
        }
        let told = self.socket.told();
        let news = message.observed.is_some() || message.stored_generation != told;
        let (sequence, stored) = (message.sequence, message.stored_generation);
        if news {
            self.store(message).await?;
        }
        self.control.hub().heard(&self.node);
        let settings = self.control.settings();
        let acknowledge = ToAgent::Acknowledge {
            sequence,
            fence_seconds: settings.fence().as_secs(),
            interval_milliseconds: u64::try_from(settings.sync_interval.as_millis())
                .unwrap_or(1000),
        };
        self.socket
            .sender
            .send(acknowledge)
            .await
            .map_err(|_| Failure::unavailable("the connection is closing"))?;
        self.control
            .hub()
            .note_sync(clock.monotonic().saturating_sub(received));
        tracing::trace!(node = %self.node, sequence, stored, "acknowledged");
        Ok(())
    }

    async fn store(&self, message: Sync) -> Result<(), Failure> {
        let (node, now) = (self.node.clone(), self.control.clock().now());
        let stored = message.stored_generation;
        let observed = message.observed;
        let (hub, connection) = (self.control.hub().clone(), self.connection);
        let outcome = self
            .control
            .store()
            .write("agent_sync", move |tx| {
                // Asked here, where writes stand in one line: what a newer connection brings is stored after this.
                if !hub.is_current(&node, connection) {
                    return Ok(None);
                }
                sync(tx, &node, stored, observed.as_ref(), now).map(Some)
            })
            .await
            .map_err(|error: StoreError| failure(&error.into()))?;
        let Some(outcome) = outcome else {
            return Err(replaced());
        };
        let SyncOutcome::Stored {
            desired_generation,
            changed,
        } = outcome
        else {
            return Err(Failure::forbidden(format!(
                "{} was removed; enrol the machine again with a new join token",
                self.node
            )));
        };
        if changed {
            self.control.hub().wake_loop();
            self.control.hub().announce_change();
        }
        if desired_generation == stored {
            self.socket.told.fetch_max(stored, Ordering::Relaxed);
            return Ok(());
        }
        // A long list of members takes its time on the way; asked for at every sync of every member, it would never arrive.
        if desired_generation <= self.socket.told() && !self.socket.overdue() {
            return Ok(());
        }
        self.tell().await
    }

    async fn tell(&self) -> Result<(), Failure> {
        let node = self.node.clone();
        let all = self
            .control
            .store()
            .read("desired", move |tx| desired(tx, [node.clone()]))
            .await
            .map_err(|error: StoreError| failure(&error.into()))?;
        for (_, desired) in all {
            self.socket.desired(Box::new(desired));
        }
        Ok(())
    }

    fn log(&self, part: LogPart) {
        let waiting = self
            .socket
            .pending
            .lock()
            .expect("no holder of this lock panics")
            .remove(&part.request);
        if let Some(waiting) = waiting {
            let bytes = part.result.map(|content| LogBytes {
                offset: content.offset,
                next_offset: content.next_offset,
                content: content.content,
                end: content.end,
            });
            let _ = waiting.send(bytes);
        }
    }
}

/// How long the server waits for its connections when it ends.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
