//! A server on a free port, clients that trust it, and a log that can be read.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use supernode_api::{ErrorBody, Role};
use supernode_http::{
    Authenticator, Authority, BoxFuture, Caller, Connections, Edge, EdgeOptions, Failure, Listener,
    ListenerOptions, ListenerTls, ServeError, ServerTls,
};
use supernode_types::entropy::{SeededEntropy, SystemEntropy};
use supernode_types::time::SystemClock;
use supernode_types::{Clock, Timestamp, TokenId};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The result of `work`, which must not take for ever.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// The machine's clock, moved.
#[derive(Debug, Default)]
pub(crate) struct MovedClock(Mutex<Duration>);

impl MovedClock {
    pub(crate) fn advance(&self, duration: Duration) {
        *self.0.lock().expect("no holder panics") += duration;
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        SystemClock
            .now()
            .plus(*self.0.lock().expect("no holder panics"))
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + *self.0.lock().expect("no holder panics")
    }
}

/// Tokens by secret; the secret is the role's word.
#[derive(Debug)]
pub(crate) struct Tokens(Mutex<HashMap<String, Caller>>);

impl Tokens {
    pub(crate) fn new() -> Arc<Self> {
        let entropy = SeededEntropy::new(1);
        let caller = |role: Role| {
            let name = format!("the-{}", role.word())
                .parse()
                .expect("a valid name");
            (
                role.word().to_owned(),
                Caller {
                    name,
                    role,
                    token: TokenId::new(Timestamp(0), &entropy),
                },
            )
        };
        Arc::new(Self(Mutex::new(
            [Role::Viewer, Role::User, Role::Operator, Role::Admin]
                .map(caller)
                .into(),
        )))
    }

    pub(crate) fn revoke(&self, secret: &str) {
        self.0.lock().expect("no holder panics").remove(secret);
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(
        &'a self,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Option<Caller>, Failure>> {
        let found = self
            .0
            .lock()
            .expect("no holder panics")
            .get(secret)
            .cloned();
        Box::pin(async move {
            if secret == "broken" {
                Err(Failure::unavailable("the database is away"))
            } else {
                Ok(found)
            }
        })
    }
}

/// An edge without routes that accepts [`Tokens`].
pub(crate) fn edge(options: EdgeOptions) -> Edge {
    Edge::new(
        Tokens::new(),
        Arc::new(SystemEntropy),
        options,
        CancellationToken::new(),
    )
}

/// An authority in a directory of its own.
pub(crate) struct Certified {
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) tls: ServerTls,
    _directory: tempfile::TempDir,
}

impl Certified {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(MovedClock::default());
        let authority =
            Authority::load_or_create(directory.path(), clock.now()).expect("a new authority");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = authority
            .server_certificate(&names, clock.now())
            .expect("a new certificate");
        let tls =
            ServerTls::new(&authority, &certificate, clock.clone()).expect("usable certificates");
        Self {
            authority: Arc::new(authority),
            clock,
            tls,
            _directory: directory,
        }
    }

    /// A client configuration that trusts this authority and shows `identity` (certificate and key, PEM).
    pub(crate) fn client_config(
        &self,
        identity: Option<(&str, &str)>,
    ) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from(
                self.authority.certificate_der().to_vec(),
            ))
            .expect("a valid root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate =
                    CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .expect("they belong together")
            }
        })
    }

    pub(crate) fn serve(
        &self,
        routes: Router,
        tls: ListenerTls,
        options: ListenerOptions,
    ) -> Server {
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), options)
            .expect("a free port");
        let (address, connections, shutdown) = (
            listener.address(),
            listener.connections(),
            CancellationToken::new(),
        );
        let task =
            tokio::spawn(listener.serve(routes, tls, shutdown.clone(), Duration::from_secs(5)));
        let mut certificates =
            reqwest::Certificate::from_pem_bundle(self.authority.certificate_pem().as_bytes())
                .expect("a certificate");
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([certificates.remove(0)])
            .timeout(DEADLINE)
            .build()
            .expect("a valid configuration");
        Server {
            address,
            connections,
            shutdown,
            task,
            client,
            config: self.client_config(None),
        }
    }
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Connections,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), ServeError>>,
    pub(crate) client: reqwest::Client,
    config: Arc<rustls::ClientConfig>,
}

/// Serves `edge` with default limits.
pub(crate) fn serve(edge: Edge) -> Server {
    serve_with(edge, ListenerOptions::api())
}

pub(crate) fn serve_with(edge: Edge, options: ListenerOptions) -> Server {
    let certified = Certified::new();
    let tls = certified.tls.api();
    certified.serve(edge.into_router(), tls, options)
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A request with the token `secret`.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        secret: &str,
    ) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        self.client
            .request(method, self.url(path))
            .bearer_auth(secret)
    }

    /// A bare TLS connection.
    pub(crate) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        connect(self.address, Arc::clone(&self.config)).await
    }
}

pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(config)
        .connect(ServerName::IpAddress(address.ip().into()), stream)
        .await
}

/// The status and the error body of an answer, with what every answer must have.
pub(crate) async fn error_of(response: reqwest::Response) -> (u16, ErrorBody) {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.expect("a body");
    let body: ErrorBody =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {text}: {error}"));
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-request-id"], body.request_id.as_str());
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(body.code.status(), status);
    (status, body)
}

#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("no holder panics")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static LOG: OnceLock<LogBuffer> = OnceLock::new();

/// Starts to record what all tests of this process log at info level and above.
pub(crate) fn record_log() {
    LOG.get_or_init(|| {
        let buffer = LogBuffer::default();
        let writer = buffer.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        buffer
    });
}

/// The recorded lines that contain `text`.
pub(crate) fn log_lines(text: &str) -> Vec<String> {
    let bytes = LOG
        .get()
        .expect("recording")
        .0
        .lock()
        .expect("no holder panics")
        .clone();
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter(|line| line.contains(text))
        .map(str::to_owned)
        .collect()
}
