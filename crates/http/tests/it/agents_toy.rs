//! An agent port that enrols whoever says `good`, and agents to talk to it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rcgen::{CertificateParams, KeyPair};
use supernode_api::agent::{
    ENROL_PATH, EnrolRequest, EnrolResponse, FromAgent, RenewRequest, SYNC_PATH, Sync, ToAgent,
};
use supernode_http::{
    AgentConnection, AgentEdge, AgentOptions, AgentPort, AgentSession, AgentSockets, Authority,
    BoxFuture, Failure, ListenerOptions, NodeIdentity,
};
use supernode_types::entropy::SystemEntropy;
use supernode_types::{CertificateSerial, Clock, NodeId};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use crate::support::{Certified, MovedClock, Server, connect, eventually, within};

/// How long a certificate lasts.
pub(crate) const LIFETIME: Duration = Duration::from_hours(24);
/// A sync with this sequence is held until the toy lets it go.
pub(crate) const HELD: u64 = 1000;
/// A sync with this sequence is refused.
pub(crate) const REFUSED: u64 = 2000;

/// The server's side of one connection, as the toy keeps it.
pub(crate) struct Link {
    pub(crate) identity: NodeIdentity,
    pub(crate) outgoing: mpsc::Sender<ToAgent>,
    pub(crate) close: CancellationToken,
    pub(crate) received: Arc<Mutex<Vec<FromAgent>>>,
    pub(crate) ended: Arc<AtomicBool>,
}

pub(crate) struct ToyPort {
    authority: Arc<Authority>,
    clock: Arc<MovedClock>,
    pub(crate) sources: Mutex<Vec<IpAddr>>,
    pub(crate) revoked: Mutex<HashSet<CertificateSerial>>,
    pub(crate) links: Mutex<Vec<Arc<Link>>>,
    pub(crate) held: Arc<Semaphore>,
}

impl ToyPort {
    fn issue(&self, request: &str, node: NodeId) -> Result<EnrolResponse, Failure> {
        let serial = CertificateSerial::new(self.clock.now(), &SystemEntropy);
        let now = self.clock.now();
        let certificate = self
            .authority
            .issue_node_certificate(request, &node, &serial, now, now.plus(LIFETIME))
            .map_err(|error| Failure::invalid_request(error.to_string()))?;
        Ok(EnrolResponse {
            node,
            certificate,
            authority: self.authority.certificate_pem().to_owned(),
        })
    }

    fn check(&self, identity: &NodeIdentity) -> Result<(), Failure> {
        let revoked = self
            .revoked
            .lock()
            .expect("no holder panics")
            .contains(&identity.serial);
        if revoked {
            Err(Failure::forbidden(format!(
                "the certificate of {} was revoked",
                identity.node
            )))
        } else {
            Ok(())
        }
    }
}

impl AgentPort for ToyPort {
    fn enrol(
        &self,
        request: EnrolRequest,
        source: IpAddr,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>> {
        self.sources.lock().expect("no holder panics").push(source);
        Box::pin(async move {
            if request.join_token != "good" {
                return Err(Failure::unauthenticated(
                    "the join token is not valid; ask for a new one",
                ));
            }
            self.issue(
                &request.certificate_request,
                NodeId::new(self.clock.now(), &SystemEntropy),
            )
        })
    }

    fn renew(
        &self,
        identity: NodeIdentity,
        request: RenewRequest,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>> {
        Box::pin(async move {
            self.check(&identity)?;
            self.issue(&request.certificate_request, identity.node)
        })
    }

    fn connected(
        &self,
        identity: NodeIdentity,
        _: IpAddr,
    ) -> BoxFuture<'_, Result<AgentConnection, Failure>> {
        Box::pin(async move {
            self.check(&identity)?;
            let (outgoing, queue) = mpsc::channel(2);
            let (close, received, ended) =
                (CancellationToken::new(), Arc::default(), Arc::default());
            let link = Arc::new(Link {
                identity,
                outgoing,
                close: close.clone(),
                received,
                ended,
            });
            self.links
                .lock()
                .expect("no holder panics")
                .push(Arc::clone(&link));
            let session = Arc::new(ToySession {
                link,
                held: Arc::clone(&self.held),
            });
            Ok(AgentConnection {
                session,
                outgoing: queue,
                close,
            })
        })
    }
}

struct ToySession {
    link: Arc<Link>,
    held: Arc<Semaphore>,
}

impl Drop for ToySession {
    fn drop(&mut self) {
        self.link.ended.store(true, Ordering::SeqCst);
    }
}

impl AgentSession for ToySession {
    fn received(self: Arc<Self>, message: FromAgent) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            self.link
                .received
                .lock()
                .expect("no holder panics")
                .push(message.clone());
            let FromAgent::Sync(sync) = message else {
                return Ok(());
            };
            match sync.sequence {
                REFUSED => return Err(Failure::conflict("this node is another incarnation")),
                HELD => self.held.acquire().await.expect("never closed").forget(),
                _ => {}
            }
            let acknowledge = ToAgent::Acknowledge {
                sequence: sync.sequence,
                fence_seconds: 5,
                interval_milliseconds: 1000,
            };
            // Waits for room in the queue from inside the session: the socket goes on sending meanwhile.
            let _ = self.link.outgoing.send(acknowledge).await;
            Ok(())
        })
    }
}

/// An agent port on a free port.
pub(crate) struct AgentServer {
    pub(crate) certified: Certified,
    pub(crate) server: Server,
    pub(crate) port: Arc<ToyPort>,
    pub(crate) sockets: AgentSockets,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) fn agent_server(options: AgentOptions) -> AgentServer {
    let certified = Certified::new();
    let port = Arc::new(ToyPort {
        authority: Arc::clone(&certified.authority),
        clock: Arc::clone(&certified.clock),
        sources: Mutex::default(),
        revoked: Mutex::default(),
        links: Mutex::default(),
        held: Arc::new(Semaphore::new(0)),
    });
    let shutdown = CancellationToken::new();
    let edge = AgentEdge::new(
        port.clone(),
        certified.clock.clone(),
        Arc::new(SystemEntropy),
        options,
        shutdown.clone(),
    );
    let sockets = edge.sockets();
    let server = certified.serve(
        edge.into_router(),
        certified.tls.agents(),
        ListenerOptions::agents(),
    );
    AgentServer {
        certified,
        server,
        port,
        sockets,
        shutdown,
    }
}

/// A key and the certificate for it.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn new_request() -> (KeyPair, String) {
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request")
        .pem()
        .expect("PEM");
    (key, request)
}

impl AgentServer {
    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> reqwest::Response {
        let request = self.server.client.post(self.server.url(path));
        request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .expect("an answer")
    }

    pub(crate) async fn post_enrol(
        &self,
        join_token: &str,
        certificate_request: &str,
    ) -> reqwest::Response {
        let body = serde_json::json!({
            "join_token": join_token, "certificate_request": certificate_request, "name": "node-1", "address": "127.0.0.1", "machine_id": "m",
            "something_new": true,
        });
        self.post(ENROL_PATH, &body).await
    }

    pub(crate) async fn enrolled(&self) -> Identity {
        let (key, request) = new_request();
        let response = self.post_enrol("good", &request).await;
        assert_eq!(response.status().as_u16(), 200);
        let response: EnrolResponse =
            serde_json::from_str(&response.text().await.expect("a body")).expect("a certificate");
        assert_eq!(
            response.authority,
            self.certified.authority.certificate_pem()
        );
        Identity {
            certificate: response.certificate,
            key: key.serialize_pem(),
        }
    }

    pub(crate) async fn try_sync(
        &self,
        identity: Option<&Identity>,
    ) -> Result<Agent, tungstenite::Error> {
        let identity =
            identity.map(|identity| (identity.certificate.as_str(), identity.key.as_str()));
        let stream = connect(self.server.address, self.certified.client_config(identity))
            .await
            .map_err(tungstenite::Error::Io)?;
        let (socket, _) =
            tokio_tungstenite::client_async(format!("wss://localhost{SYNC_PATH}"), stream).await?;
        Ok(Agent(socket))
    }

    /// An agent with a fresh identity and its link.
    pub(crate) async fn synced(&self) -> (Agent, Arc<Link>) {
        let identity = self.enrolled().await;
        let agent = self.try_sync(Some(&identity)).await.expect("a connection");
        let link = self
            .port
            .links
            .lock()
            .expect("no holder panics")
            .last()
            .expect("it is connected")
            .clone();
        (agent, link)
    }
}

/// The agent's side of a sync connection.
pub(crate) struct Agent(pub(crate) WebSocketStream<TlsStream<TcpStream>>);

impl Agent {
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        self.0
            .send(Message::text(text.into()))
            .await
            .expect("the server reads");
    }

    pub(crate) async fn sync(&mut self, sequence: u64) {
        let message = FromAgent::Sync(Box::new(Sync {
            sequence,
            stored_generation: 0,
            observed: None,
        }));
        self.send(serde_json::to_string(&message).expect("serializes"))
            .await;
    }

    pub(crate) async fn receive(&mut self) -> ToAgent {
        match within("a message", self.0.next()).await {
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(&text).expect("a message of the contract")
            }
            other => panic!("{other:?}"),
        }
    }

    /// The code and the reason that the server closes with.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match within("the end of the connection", self.0.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Text(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

pub(crate) async fn ended(link: &Link) {
    eventually("the end of the session", || {
        link.ended.load(Ordering::SeqCst)
    })
    .await;
}

/// An agent port with default limits.
pub(crate) fn server() -> AgentServer {
    agent_server(AgentOptions::default())
}

/// What the toy answers to a sync.
pub(crate) fn acknowledged(sequence: u64) -> ToAgent {
    ToAgent::Acknowledge {
        sequence,
        fence_seconds: 5,
        interval_milliseconds: 1000,
    }
}
