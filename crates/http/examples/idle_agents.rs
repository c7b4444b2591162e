//! Measures how much memory an idle agent connection costs the server: `cargo run --release --example idle_agents -- 500`.
//!
//! The agents run in a second process (this program again), so that only the server's side is counted.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use supernode_api::agent::{
    EnrolRequest, EnrolResponse, FromAgent, RenewRequest, SYNC_PATH, ToAgent,
};
use supernode_http::{
    AgentConnection, AgentEdge, AgentOptions, AgentPort, AgentSession, Authority, BoxFuture,
    Failure, Listener, ListenerOptions, NodeIdentity, ServerTls,
};
use supernode_types::entropy::SystemEntropy;
use supernode_types::time::SystemClock;
use supernode_types::{CertificateSerial, Clock, NodeId};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

struct Port;

struct Session(mpsc::Sender<ToAgent>);

impl AgentSession for Session {
    fn received(self: Arc<Self>, message: FromAgent) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            if let FromAgent::Sync(sync) = message {
                let answer = ToAgent::Acknowledge {
                    sequence: sync.sequence,
                    fence_seconds: 5,
                    interval_milliseconds: 1000,
                };
                self.0
                    .send(answer)
                    .await
                    .map_err(|_| Failure::conflict("the connection has ended"))?;
            }
            Ok(())
        })
    }
}

impl AgentPort for Port {
    fn enrol(&self, _: EnrolRequest, _: IpAddr) -> BoxFuture<'_, Result<EnrolResponse, Failure>> {
        Box::pin(async { Err(Failure::forbidden("not measured")) })
    }

    fn renew(
        &self,
        _: NodeIdentity,
        _: RenewRequest,
    ) -> BoxFuture<'_, Result<EnrolResponse, Failure>> {
        Box::pin(async { Err(Failure::forbidden("not measured")) })
    }

    fn connected(
        &self,
        _: NodeIdentity,
        _: IpAddr,
    ) -> BoxFuture<'_, Result<AgentConnection, Failure>> {
        Box::pin(async {
            let (sender, outgoing) = mpsc::channel(8);
            Ok(AgentConnection {
                session: Arc::new(Session(sender)),
                outgoing,
                close: CancellationToken::new(),
            })
        })
    }
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = text
        .split(' ')
        .nth(1)
        .expect("the second number")
        .parse()
        .expect("a number");
    pages * 4096
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments[..] {
        [_, role, address, directory, count] if role == "agents" => {
            let address = address.parse().expect("an address");
            agents(address, directory, count.parse().expect("a number")).await;
        }
        [_, count] => server(count),
        _ => eprintln!("usage: idle_agents COUNT"),
    }
}

fn server(count: &str) {
    let directory = std::env::temp_dir().join(format!("idle-agents-{}", std::process::id()));
    let now = SystemClock.now();
    let authority = Authority::load_or_create(&directory, now).expect("an authority");
    let certificate = authority
        .server_certificate(&["127.0.0.1".to_owned()], now)
        .expect("a certificate");
    let tls = ServerTls::new(&authority, &certificate, Arc::new(SystemClock))
        .expect("usable certificates");
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request")
        .pem()
        .expect("PEM");
    let (node, serial) = (
        NodeId::new(now, &SystemEntropy),
        CertificateSerial::new(now, &SystemEntropy),
    );
    let not_after = now.plus(Duration::from_hours(1));
    let issued = authority
        .issue_node_certificate(&request, &node, &serial, now, not_after)
        .expect("a certificate");
    std::fs::write(
        directory.join("agent.pem"),
        format!("{issued}{}", key.serialize_pem()),
    )
    .expect("writable");

    let shutdown = CancellationToken::new();
    let edge = AgentEdge::new(
        Arc::new(Port),
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        AgentOptions::default(),
        shutdown.clone(),
    );
    let sockets = edge.sockets();
    let listener = Listener::bind(
        "127.0.0.1:0".parse().expect("an address"),
        ListenerOptions::agents(),
    )
    .expect("a free port");
    let address = listener.address().to_string();
    tokio::spawn(listener.serve(
        edge.into_router(),
        tls.agents(),
        shutdown,
        Duration::from_secs(1),
    ));

    let mut before = 0;
    // The first round fills caches and allocator pools; the second is what is measured.
    for round in ["warm-up", "measured"] {
        let program = std::env::current_exe().expect("this program has a path");
        let arguments = [
            "agents",
            &address,
            directory.to_str().expect("a plain path"),
            if round == "warm-up" { "20" } else { count },
        ];
        before = resident_bytes();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut ready = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut output, &mut ready).expect("it says when it is ready");
        if round == "measured" {
            let (open, after) = (sockets.open(), resident_bytes());
            println!(
                "{open} idle agents: {} bytes of resident memory each",
                after.saturating_sub(before) / open.max(1)
            );
        }
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }
    println!("the server had {before} bytes before");
    std::fs::remove_dir_all(&directory).expect("it is ours");
}

async fn agents(address: SocketAddr, directory: &str, count: usize) {
    let read = |name: &str| {
        std::fs::read_to_string(std::path::Path::new(directory).join(name)).expect("readable")
    };
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(read("ca.pem").as_bytes()).expect("a certificate"))
        .expect("a root");
    let identity = read("agent.pem");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider has them")
    .with_root_certificates(roots)
    .with_client_auth_cert(
        vec![CertificateDer::from_pem_slice(identity.as_bytes()).expect("a certificate")],
        PrivateKeyDer::from_pem_slice(identity.as_bytes()).expect("a key"),
    )
    .expect("they belong together");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut sockets = Vec::new();
    for _ in 0..count {
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("a connection");
        let stream = connector
            .connect(ServerName::IpAddress(address.ip().into()), stream)
            .await
            .expect("a handshake");
        let (mut socket, _) =
            tokio_tungstenite::client_async(format!("wss://localhost{SYNC_PATH}"), stream)
                .await
                .expect("an upgrade");
        for sequence in 0..5 {
            let text = format!(r#"{{"type":"sync","sequence":{sequence},"stored_generation":0}}"#);
            socket.send(Message::text(text)).await.expect("sent");
            socket.next().await.expect("an answer").expect("a frame");
        }
        sockets.push(socket);
    }
    println!("ready");
    // Until the server has measured and closes our input.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("readable");
}
