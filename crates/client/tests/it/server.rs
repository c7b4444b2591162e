//! A TLS server that speaks just enough HTTP: reactions in order or as a function of the request, and a record of what was asked.
//! The command line's tests use it too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use supernode_client::{Client, Context, Limits};
use supernode_types::entropy::SeededEntropy;
use supernode_types::time::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the server does with one request.
pub(crate) enum Reaction {
    /// Answers with a status and a body.
    Answer(u16, String),
    /// Answers these bytes, whatever they are, and closes.
    Raw(String),
    /// Closes the connection without an answer.
    Drop,
    /// Reads the request and never answers.
    Hang,
    /// Does something else a little later, as a request that waits for a change.
    Later(Duration, Box<Reaction>),
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// For example `GET /api/v1/nodes HTTP/1.1`.
    pub(crate) line: String,
    /// The headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) ca: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// An authority and a certificate of it for 127.0.0.1.
struct Identity {
    ca: String,
    config: rustls::ServerConfig,
}

fn identity() -> Identity {
    let ca_key = KeyPair::generate().expect("keys can be made");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("signs");
    let key = KeyPair::generate().expect("keys can be made");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .expect("signs");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider has them")
    .with_no_client_auth()
    .with_single_cert(vec![certificate.der().clone()], key)
    .expect("certificate and key belong together");
    Identity {
        ca: ca_certificate.pem(),
        config,
    }
}

/// Another authority than any server's.
pub(crate) fn foreign_ca() -> String {
    identity().ca
}

impl Server {
    /// Serves the reactions in order, one request after the other, then refuses connections.
    pub(crate) async fn start(reactions: Vec<Reaction>) -> Self {
        let (server, listener, acceptor) = Self::listen().await;
        let record = Arc::clone(&server.asked);
        tokio::spawn(async move {
            let mut reactions = reactions.into_iter().peekable();
            while reactions.peek().is_some() {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    continue;
                };
                let Some(request) = read_request(&mut stream).await else {
                    continue;
                };
                record.lock().expect("no holder panics").push(request);
                react(&mut stream, reactions.next().expect("there was one")).await;
            }
        });
        server
    }

    /// Answers every request with what `reaction` says, many at a time.
    pub(crate) async fn answering(
        reaction: impl Fn(&Asked) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let (server, listener, acceptor) = Self::listen().await;
        let record = Arc::clone(&server.asked);
        let reaction = Arc::new(reaction);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, record, reaction) =
                    (acceptor.clone(), Arc::clone(&record), Arc::clone(&reaction));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else {
                        return;
                    };
                    let Some(request) = read_request(&mut stream).await else {
                        return;
                    };
                    let reaction = reaction(&request);
                    record.lock().expect("no holder panics").push(request);
                    react(&mut stream, reaction).await;
                });
            }
        });
        server
    }

    async fn listen() -> (Self, TcpListener, TlsAcceptor) {
        let Identity { ca, config } = identity();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("https://{}", listener.local_addr().expect("bound"));
        (
            Self {
                address,
                ca,
                asked: Arc::default(),
            },
            listener,
            TlsAcceptor::from(Arc::new(config)),
        )
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no holder panics").clone()
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            server: self.address.clone(),
            ca: self.ca.clone(),
            token: "secret".into(),
        }
    }

    pub(crate) fn client(&self, limits: Limits) -> Client {
        client(&self.context(), limits)
    }
}

pub(crate) fn client(context: &Context, limits: Limits) -> Client {
    Client::with(
        context,
        limits,
        Arc::new(SystemClock),
        Arc::new(SeededEntropy::new(1)),
    )
    .expect("the context is usable")
}

/// Limits that make a test that should fail fail soon.
pub(crate) fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(2),
        total: Duration::from_secs(5),
        retry_for: Duration::from_secs(2),
        answer_bytes: 100_000,
    }
}

async fn react(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), reaction: Reaction) {
    let mut reaction = reaction;
    while let Reaction::Later(pause, then) = reaction {
        tokio::time::sleep(pause).await;
        reaction = *then;
    }
    match reaction {
        Reaction::Answer(status, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            write(stream, &(head + &body)).await;
        }
        Reaction::Raw(bytes) => write(stream, &bytes).await,
        Reaction::Drop | Reaction::Later(..) => {}
        Reaction::Hang => {
            // Ends when the client gives up and closes.
            let _ = stream.read(&mut [0; 1]).await;
        }
    }
}

async fn write(stream: &mut (impl AsyncWriteExt + Unpin), text: &str) {
    // A client that has seen enough may be gone already.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut asked = Asked {
        line,
        headers,
        body: String::new(),
    };
    let length: usize = asked
        .header("content-length")
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    asked.body = String::from_utf8(body).ok()?;
    Some(asked)
}
