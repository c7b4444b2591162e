//! The agent protocol's routes: enrolment, renewal, and the sync `WebSocket`.
//!
//! Who an agent is comes from its certificate alone. Whether the certificate is still good (not revoked, the node not removed) is asked of
//! the [`AgentPort`] at every connection; its end is checked again at every message. Enrolment is the one thing that a stranger may do, so
//! it has a small body and a rate limit.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderValue};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_api::agent::{
    ENROL_PATH, EnrolRequest, EnrolResponse, FromAgent, MAXIMUM_FRAME_BYTES, RENEW_PATH,
    RenewRequest, SYNC_PATH, ToAgent,
};
use supernode_types::{Clock, Entropy};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent_socket::{self, SocketLimits};
use crate::layer::{RequestId, wrap};
use crate::mount::detached;
use crate::rate_limit::RateLimiter;
use crate::request::{parse_body, read_body, require_json};
use crate::tls::peer_certificate;
use crate::{BoxFuture, Failure, NodeIdentity, node_identity};

/// What becomes of agents' requests.
pub trait AgentPort: Send + Sync + 'static {
    /// A stranger at `source` shows a join token and wants to be a node.
    fn enrol(
        &self,
        request: EnrolRequest,
        source: IpAddr,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>>;

    /// A node wants its next certificate. Must refuse a certificate that was revoked.
    fn renew(
        &self,
        identity: NodeIdentity,
        request: RenewRequest,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>>;

    /// A node opens its sync connection. Must refuse a certificate that was revoked.
    fn connected(
        &self,
        identity: NodeIdentity,
        source: IpAddr,
    ) -> BoxFuture<'_, Result<AgentConnection, Failure>>;
}

/// The server's side of one sync connection. It ends when the socket ends (the session is dropped), when `close` is cancelled (the node
/// was removed, its certificate revoked, or a newer connection took over), or when all senders of `outgoing` are gone.
pub struct AgentConnection {
    /// Takes what the agent sends.
    pub session: Arc<dyn AgentSession>,
    /// What to send to the agent. Keep the queue short (8 is plenty): everything is level-triggered.
    pub outgoing: mpsc::Receiver<ToAgent>,
    /// Cancel to end the connection at once, also when the queue is full.
    pub close: CancellationToken,
}

impl fmt::Debug for AgentConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AgentConnection")
            .field("outgoing", &self.outgoing)
            .finish_non_exhaustive()
    }
}

/// Takes the messages of one connection. A call instead of a queue: an idle agent then costs neither a second task nor a buffer, and a
/// slow session slows down its own agent only.
pub trait AgentSession: Send + Sync + 'static {
    /// Takes one message. The next one is read when the future is done; what is queued for the agent is sent meanwhile. A failure
    /// closes the connection with its message.
    fn received(self: Arc<Self>, message: FromAgent) -> BoxFuture<'static, Result<(), Failure>>;
}

/// Limits of the agent port.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The most bytes in a request for a certificate.
    pub maximum_body_bytes: usize,
    /// How long such a body may take to arrive.
    pub body_timeout: Duration,
    /// How many enrolments of one address may fail or be under way at once.
    pub enrol_burst: u32,
    /// After how long an address may try once more.
    pub enrol_refill: Duration,
    /// The most requests for certificates and new connections that are handled at once.
    pub maximum_running_requests: usize,
    /// A connection without a message for this long is closed.
    pub idle_timeout: Duration,
    /// An agent that does not take a message for this long is cut off.
    pub send_timeout: Duration,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            maximum_body_bytes: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            enrol_burst: 100,
            enrol_refill: Duration::from_secs(1),
            maximum_running_requests: 1024,
            idle_timeout: Duration::from_mins(1),
            send_timeout: Duration::from_secs(10),
        }
    }
}

/// The routes of the agent listener.
pub struct AgentEdge(Arc<Inner>);

struct Inner {
    port: Arc<dyn AgentPort>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    options: AgentOptions,
    shutdown: CancellationToken,
    enrolments: RateLimiter,
    running: Arc<Semaphore>,
    sockets: TaskTracker,
}

impl fmt::Debug for AgentEdge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AgentEdge")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// The sync connections of an [`AgentEdge`].
#[derive(Debug, Clone)]
pub struct AgentSockets(TaskTracker);

impl AgentSockets {
    /// How many there are.
    pub fn open(&self) -> usize {
        self.0.len()
    }

    /// Waits until all have ended; they do so soon after shutdown.
    pub async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

impl AgentEdge {
    /// The agent routes over `port`. Connections end when `shutdown` is cancelled.
    pub fn new(
        port: Arc<dyn AgentPort>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: AgentOptions,
        shutdown: CancellationToken,
    ) -> Self {
        let enrolments = RateLimiter::new(
            Arc::clone(&clock),
            options.enrol_burst,
            options.enrol_refill,
        );
        let running = Arc::new(Semaphore::new(options.maximum_running_requests));
        Self(Arc::new(Inner {
            port,
            clock,
            entropy,
            options,
            shutdown,
            enrolments,
            running,
            sockets: TaskTracker::new(),
        }))
    }

    /// The sync connections.
    pub fn sockets(&self) -> AgentSockets {
        AgentSockets(self.0.sockets.clone())
    }

    /// The finished routes, to be served with [`ServerTls::agents`](crate::ServerTls::agents).
    pub fn into_router(self) -> Router {
        let entropy = Arc::clone(&self.0.entropy);
        let (enrolling, renewing, syncing) = (Arc::clone(&self.0), Arc::clone(&self.0), self.0);
        let router = Router::new()
            .route(
                ENROL_PATH,
                post(move |request: Request| respond(Arc::clone(&enrolling), request, enrol)),
            )
            .route(
                RENEW_PATH,
                post(move |request: Request| respond(Arc::clone(&renewing), request, renew)),
            )
            .route(
                SYNC_PATH,
                get(move |request: Request| respond(Arc::clone(&syncing), request, sync)),
            );
        wrap(router, entropy)
    }
}

async fn respond<F>(
    inner: Arc<Inner>,
    request: Request,
    handle: impl FnOnce(Arc<Inner>, Request) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Failure>>,
{
    let id = RequestId::of(request.extensions());
    match handle(inner, request).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(request_id = %id, %failure, "agent request refused");
            failure.respond(&id)
        }
    }
}

async fn enrol(inner: Arc<Inner>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let source = source(&parts.extensions);
    inner.enrolments.take(source).map_err(|wait| {
        Failure::too_many_requests(
            format!(
                "too many enrolments from {source} have failed; try again in {} s",
                wait.as_secs() + 1
            ),
            wait,
        )
    })?;
    let request: EnrolRequest = inner.read(&parts, body).await?;
    let port = Arc::clone(&inner.port);
    let response = inner
        .run(
            "agent_enrol",
            async move { port.enrol(request, source).await },
        )
        .await?;
    inner.enrolments.give_back(source);
    Ok(json_response(&response))
}

async fn renew(inner: Arc<Inner>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let identity = inner.identify(&parts.extensions)?;
    let request: RenewRequest = inner.read(&parts, body).await?;
    let port = Arc::clone(&inner.port);
    let response = inner
        .run(
            "agent_renew",
            async move { port.renew(identity, request).await },
        )
        .await?;
    Ok(json_response(&response))
}

async fn sync(inner: Arc<Inner>, request: Request) -> Result<Response, Failure> {
    let (mut parts, _) = request.into_parts();
    let identity = inner.identify(&parts.extensions)?;
    let source = source(&parts.extensions);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| {
            Failure::invalid_request(format!(
                "this path is a WebSocket: {}",
                rejection.body_text()
            ))
        })?;
    let (port, who) = (Arc::clone(&inner.port), identity.clone());
    let connection = inner
        .run(
            "agent_connect",
            async move { port.connected(who, source).await },
        )
        .await?;
    let limits = SocketLimits {
        idle: inner.options.idle_timeout,
        send: inner.options.send_timeout,
    };
    let (clock, shutdown, tracked) = (
        Arc::clone(&inner.clock),
        inner.shutdown.clone(),
        inner.sockets.token(),
    );
    // Small buffers, and nothing captured but what the loop needs: thousands of these are idle at any time.
    Ok(upgrade
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(MAXIMUM_FRAME_BYTES)
        .max_frame_size(MAXIMUM_FRAME_BYTES)
        .on_upgrade(move |socket| async move {
            let _tracked = tracked;
            agent_socket::run(socket, connection, identity, limits, clock, shutdown).await;
        }))
}

impl Inner {
    fn identify(&self, extensions: &Extensions) -> Result<NodeIdentity, Failure> {
        let der = peer_certificate(extensions).ok_or_else(|| {
            Failure::unauthenticated(
                "this needs the node's client certificate; enrol the node first",
            )
        })?;
        let identity =
            node_identity(der).map_err(|error| Failure::unauthenticated(error.to_string()))?;
        if self.clock.now() >= identity.not_after {
            return Err(Failure::unauthenticated(format!(
                "the node's certificate ended at {}; enrol the node again",
                identity.not_after
            )));
        }
        Ok(identity)
    }

    async fn read<T: DeserializeOwned>(&self, parts: &Parts, body: Body) -> Result<T, Failure> {
        require_json(&parts.headers)?;
        let bytes = read_body(
            &parts.headers,
            body,
            self.options.maximum_body_bytes,
            self.options.body_timeout,
        )
        .await?;
        parse_body(&bytes)
    }

    /// Runs `work` to its end whatever becomes of the connection, if there is room.
    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = Arc::clone(&self.running).try_acquire_owned().map_err(|_| {
            Failure::too_many_requests(
                "the server is busy with other agents; try again in a moment",
                Duration::from_secs(1),
            )
        })?;
        detached(what, async move {
            let _permit = permit;
            work.await
        })
        .await
    }
}

fn source(extensions: &Extensions) -> IpAddr {
    let address = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip());
    address
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        .to_canonical()
}

fn json_response(body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("the contract's types serialize");
    let mut response = Response::new(Body::from(bytes));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
