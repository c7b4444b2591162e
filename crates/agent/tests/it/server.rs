//! A server of the agent protocol, over real mutual TLS, that does what a test tells it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use supernode_api::agent::{
    ENROL_PATH, EnrolRequest, EnrolResponse, FromAgent, LogContent, RENEW_PATH, ReadLog,
    RenewRequest, SYNC_PATH, Sync, ToAgent,
};
use supernode_types::agent::{Desired, EnvironmentWish, Observed};
use supernode_types::entropy::SystemEntropy;
use supernode_types::job::RankState;
use supernode_types::time::{Clock, SystemClock};
use supernode_types::{AttemptId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::wait_for;

/// The join token that is accepted.
pub(crate) const TOKEN: &str = "a-join-token";

/// A certificate authority; a server that is started again keeps it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) node: NodeId,
}

impl Authority {
    pub(crate) fn new() -> Arc<Self> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("it signs").pem();
        let node = NodeId::new(SystemClock.now(), &SystemEntropy);
        Arc::new(Self {
            issuer: Issuer::new(params, key),
            pem,
            node,
        })
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("it is PEM"))
            .expect("it is an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier
            .allow_unauthenticated()
            .build()
            .expect("it verifies");
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("it is a key"),
            )
            .expect("they belong together");
        Arc::new(config)
    }

    fn node_certificate(&self, request: &str, lifetime: Duration) -> String {
        let request = CertificateSigningRequestParams::from_pem(request).expect("a request");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(
            format!("supernode:node:{}", self.node)
                .try_into()
                .expect("ASCII"),
        )];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let seconds = u64::try_from(SystemClock.now().0 / 1_000_000).expect("after 1970");
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(seconds - 3600);
        params.not_after = epoch + Duration::from_secs(seconds) + lifetime;
        params
            .signed_by(&request.public_key, &self.issuer)
            .expect("it signs")
            .pem()
    }
}

/// What a test sets and sees.
pub(crate) struct State {
    pub(crate) desired: Desired,
    pub(crate) fence: Duration,
    pub(crate) interval: Duration,
    pub(crate) acknowledges: bool,
    /// Refuses the sync connection.
    pub(crate) refuses: bool,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) enrolments: Vec<EnrolRequest>,
    pub(crate) renewals: u32,
    pub(crate) connections: u32,
    pub(crate) failed_handshakes: u32,
    pub(crate) refusals: u32,
    /// What was received, and when on the monotonic clock.
    pub(crate) syncs: Vec<(Duration, Sync)>,
    /// The last one that said something.
    pub(crate) observed: Option<Observed>,
    link: Option<mpsc::UnboundedSender<ToAgent>>,
    logs: Vec<supernode_api::agent::LogPart>,
}

/// A server that runs until it is dropped, as if by `kill -9`.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    authority: Arc<Authority>,
    state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub(crate) fn start(authority: &Arc<Authority>) -> Self {
        let desired = Desired {
            generation: 0,
            environment: EnvironmentWish::Clean,
            ranks: Vec::new(),
            disk_expand: None,
            stress: None,
        };
        Self::start_with(
            authority,
            "127.0.0.1:0".parse().expect("an address"),
            desired,
            false,
        )
    }

    fn start_with(
        authority: &Arc<Authority>,
        address: SocketAddr,
        desired: Desired,
        refuses: bool,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .expect("the port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(Mutex::new(State {
            desired,
            fence: Duration::from_secs(8),
            interval: Duration::from_millis(200),
            acknowledges: true,
            refuses,
            certificate_lifetime: Duration::from_hours(1),
            enrolments: Vec::new(),
            renewals: 0,
            connections: 0,
            failed_handshakes: 0,
            refusals: 0,
            syncs: Vec::new(),
            observed: None,
            link: None,
            logs: Vec::new(),
        }));
        let acceptor = TlsAcceptor::from(authority.server_config());
        let (issuing, shared) = (Arc::clone(authority), Arc::clone(&state));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (authority, state, acceptor) =
                    (Arc::clone(&issuing), Arc::clone(&shared), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor.accept(stream).await {
                        // A connection that ends is no news to a test.
                        Ok(stream) => drop(serve(stream, &authority, &state).await),
                        Err(_) => lock(&state).failed_handshakes += 1,
                    }
                });
            }
        });
        Self {
            address,
            authority: Arc::clone(authority),
            state,
            runtime: Some(runtime),
        }
    }

    /// Ends it, and starts another one at the same address that knows what this one wanted.
    pub(crate) fn restarted(mut self) -> Self {
        let (desired, refuses) = {
            let state = self.state();
            (state.desired.clone(), state.refuses)
        };
        let (authority, address) = (Arc::clone(&self.authority), self.address);
        self.runtime
            .take()
            .expect("it runs")
            .shutdown_timeout(Duration::from_secs(5));
        Self::start_with(&authority, address, desired, refuses)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes what is wanted, and tells a connected agent.
    pub(crate) fn want(&self, change: impl FnOnce(&mut Desired)) {
        let mut state = self.state();
        change(&mut state.desired);
        state.desired.generation += 1;
        let desired = state.desired.clone();
        if let Some(link) = &state.link {
            // An agent that is gone asks when it is back.
            let _ = link.send(ToAgent::Desired(Box::new(desired)));
        }
    }

    /// Waits until what the agent reported last is as the test wants it.
    pub(crate) fn observed<T>(
        &self,
        what: &str,
        mut condition: impl FnMut(&Observed) -> Option<T>,
    ) -> T {
        wait_for(what, || {
            self.state().observed.as_ref().and_then(&mut condition)
        })
    }

    /// Waits until a rank is reported so.
    pub(crate) fn rank<T>(
        &self,
        what: &str,
        attempt: &AttemptId,
        rank: u32,
        mut condition: impl FnMut(&RankState) -> Option<T>,
    ) -> T {
        self.observed(what, |observed| {
            let found = observed
                .ranks
                .iter()
                .find(|known| known.attempt == *attempt && known.rank == rank)?;
            condition(&found.state)
        })
    }

    pub(crate) fn read_log(
        &self,
        attempt: &AttemptId,
        rank: u32,
        offset: u64,
    ) -> Result<LogContent, String> {
        let request = {
            let state = self.state();
            let request = 1 + state.logs.len() as u64;
            let ask = ReadLog {
                request,
                attempt: attempt.clone(),
                rank,
                offset,
                limit: 65_536,
            };
            state
                .link
                .as_ref()
                .expect("an agent is connected")
                .send(ToAgent::ReadLog(ask))
                .expect("it is still connected");
            request
        };
        wait_for("an answer", || {
            self.state()
                .logs
                .iter()
                .find(|part| part.request == request)
                .map(|part| part.result.clone())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder of this lock panics")
}

async fn serve(
    mut stream: TlsStream<TcpStream>,
    authority: &Authority,
    state: &Arc<Mutex<State>>,
) -> io::Result<()> {
    let known = stream.get_ref().1.peer_certificates().is_some();
    let head = read_head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if path == SYNC_PATH {
        if !known || lock(state).refuses {
            lock(state).refusals += 1;
            return answer(
                &mut stream,
                "403 Forbidden",
                br#"{"code":"forbidden","message":"the node was removed","request_id":"r"}"#,
            )
            .await;
        }
        let key = header(&head, "sec-websocket-key").unwrap_or_default();
        let upgrade = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        stream.write_all(upgrade.as_bytes()).await?;
        converse(
            WebSocketStream::from_raw_socket(stream, Role::Server, None).await,
            state,
        )
        .await;
        return Ok(());
    }
    let length = header(&head, "content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let lifetime = lock(state).certificate_lifetime;
    let certificate_request = match path.as_str() {
        ENROL_PATH => {
            let request: EnrolRequest = serde_json::from_slice(&body)?;
            let (accepted, certificate_request) = (
                request.join_token == TOKEN,
                request.certificate_request.clone(),
            );
            lock(state).enrolments.push(request);
            if !accepted {
                return answer(&mut stream, "403 Forbidden", br#"{"code":"forbidden","message":"the join token is used up","request_id":"r"}"#).await;
            }
            certificate_request
        }
        RENEW_PATH if known => {
            lock(state).renewals += 1;
            serde_json::from_slice::<RenewRequest>(&body)?.certificate_request
        }
        _ => return answer(&mut stream, "404 Not Found", b"{}").await,
    };
    let certificate = authority.node_certificate(&certificate_request, lifetime);
    let response = EnrolResponse {
        node: authority.node.clone(),
        certificate,
        authority: authority.pem.clone(),
    };
    answer(&mut stream, "200 OK", &serde_json::to_vec(&response)?).await
}

async fn read_head(stream: &mut TlsStream<TcpStream>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .into_iter()
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

async fn answer(stream: &mut TlsStream<TcpStream>, status: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

async fn converse(mut socket: WebSocketStream<TlsStream<TcpStream>>, state: &Mutex<State>) {
    let (sender, mut outgoing) = mpsc::unbounded_channel();
    {
        let mut state = lock(state);
        state.connections += 1;
        state.link = Some(sender);
    }
    loop {
        let answers = tokio::select! {
            Some(message) = outgoing.recv() => vec![message],
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => received(serde_json::from_str(&text).expect("a message"), state),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Vec::new(),
                _ => return,
            },
        };
        for message in answers {
            let text = serde_json::to_string(&message).expect("it is plain data");
            if socket.send(Message::Text(text.into())).await.is_err() {
                return;
            }
        }
    }
}

fn received(message: FromAgent, state: &Mutex<State>) -> Vec<ToAgent> {
    let mut state = lock(state);
    match message {
        FromAgent::Log(part) => {
            state.logs.push(part);
            Vec::new()
        }
        FromAgent::Sync(sync) => {
            let mut answers = Vec::new();
            if state.acknowledges {
                answers.push(ToAgent::Acknowledge {
                    sequence: sync.sequence,
                    fence_seconds: state.fence.as_secs(),
                    interval_milliseconds: u64::try_from(state.interval.as_millis())
                        .expect("small"),
                });
            }
            if sync.stored_generation < state.desired.generation {
                answers.push(ToAgent::Desired(Box::new(state.desired.clone())));
            }
            if let Some(observed) = &sync.observed {
                let inventory = observed
                    .inventory
                    .clone()
                    .or_else(|| state.observed.take().and_then(|before| before.inventory));
                state.observed = Some(Observed {
                    inventory,
                    ..observed.clone()
                });
            }
            state.syncs.push((SystemClock.monotonic(), *sync));
            answers
        }
    }
}
