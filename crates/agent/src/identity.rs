//! Who the node is: its key and certificate on the disk, how it gets the first and the next ones, and TLS with them.
//!
//! Certificate and key are one file, so that they always belong together; each certificate has a key of its own, which never leaves
//! the node. The node's id is read from the certificate. A certificate is renewed after two thirds of its life, not at the same moment
//! on all nodes; one that has ended can only be replaced by enrolling again, which the same machine may do under its name.
//!
//! It refuses any authority but the one that it was given, and to enrol with a token that the server refused once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use supernode_api::agent::{EnrolRequest, EnrolResponse, RenewRequest};
use supernode_client::{ClientError, enrolment};
use supernode_types::{Clock, Entropy, NodeId, Timestamp};
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{Directory, Durability, FileError, Permissions, one_line};
use crate::options::{AgentOptions, JoinToken};

const FILE: &str = "identity.pem";
const MACHINE_ID_FILE: &str = "machine-id";
const LIMIT_BYTES: u64 = 1024 * 1024;
/// What a node's name in its certificate begins with.
const NODE_URI_PREFIX: &str = "supernode:node:";
/// The longest time between two tries while the server is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two tries that the server refuses, and between two looks at the wall clock, which may jump.
const SLOW_PAUSE: Duration = Duration::from_secs(60);

/// Why an agent has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file of the data directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authority's certificate, or a token file, cannot be read.
    #[error("{}: cannot be read: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Key and certificate are not what was written.
    #[error("{}: {why}; remove the file and enrol the node again with a new join token", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no certificate, and no right to get one.
    #[error("{why}; make a join token with: supernode join-token create, and give it to the agent")]
    NoToken {
        /// Why one is needed.
        why: String,
    },
    /// The server does not let the node in.
    #[error("{server} refuses the node {name}")]
    Refused {
        /// The server.
        server: String,
        /// The node's name.
        name: String,
        /// What it said.
        source: ClientError,
    },
    /// What the server answered is no certificate for us.
    #[error("{server} answered a certificate that cannot be used: {why}")]
    Unusable {
        /// The server.
        server: String,
        /// What is wrong.
        why: String,
    },
    /// The cryptographic library refused.
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    /// Key, certificate and authority do not make a TLS client.
    #[error("cannot use the node's certificate and key for TLS")]
    Tls(#[source] rustls::Error),
}

/// A node's certificate and key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node that the certificate names.
    pub node: NodeId,
    /// When the certificate begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("node", &self.node).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a certificate followed by its key; the text says what is wrong.
    pub fn parse(pem: String) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it has no certificate")?;
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it has no private key")?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| "its certificate cannot be read")?;
        let names = certificate.subject_alternative_name().map_err(|_| "its certificate cannot be read")?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        let node = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(NODE_URI_PREFIX)?.parse().ok(),
            _ => None,
        });
        let micros = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000));
        let validity = certificate.validity();
        Ok(Self {
            node: node.ok_or("its certificate does not name a node")?,
            not_before: micros(validity.not_before.timestamp()),
            not_after: micros(validity.not_after.timestamp()),
            pem,
        })
    }

    /// TLS 1.3 as this node; only `authority` is trusted, and `clock` says what has ended.
    pub fn tls(&self, authority: &Authority, clock: Arc<dyn Clock>) -> Result<Arc<ClientConfig>, IdentityError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let unusable = || IdentityError::Tls(rustls::Error::General("the identity is no PEM".into()));
        let chain = CertificateDer::pem_slice_iter(self.pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| unusable())?;
        let key = PrivateKeyDer::from_pem_slice(self.pem.as_bytes()).map_err(|_| unusable())?;
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::Tls)?
            .with_root_certificates(Arc::clone(&authority.roots))
            .with_client_auth_cert(chain, key)
            .map_err(IdentityError::Tls)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each connection shows the certificate anew.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The moment after which it should be renewed if its life began at `begin`: two thirds of it, a little sooner or later.
    fn renew_at(&self, begin: Timestamp, entropy: &dyn Entropy) -> Timestamp {
        let life = self.not_after.0.saturating_sub(begin.0).max(0);
        let spread = life / 10;
        let jitter = i64::try_from(entropy.next_u64() % u64::try_from(spread.max(1)).unwrap_or(1)).unwrap_or(0);
        Timestamp(begin.0 + life / 3 * 2 - spread / 2 + jitter)
    }
}

/// The server's authority.
#[derive(Debug, Clone)]
pub struct Authority {
    pem: String,
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// Reads its certificate.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        let unreadable = |why: String| IdentityError::Unreadable { path: path.to_owned(), why };
        let pem = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("it has no certificate in PEM".into()));
        }
        Ok(Self { pem, roots: Arc::new(roots) })
    }
}

/// Wall time for the verification of certificates.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let micros = u64::try_from(self.0.now().0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_micros(micros)))
    }
}

/// Gets and keeps the identity of one agent.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) directory: Arc<Directory>,
    pub(crate) authority: Authority,
    pub(crate) options: Arc<AgentOptions>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Keeper {
    /// The identity on the disk if it has not ended, else a new one.
    pub(crate) async fn obtain(&self) -> Result<Identity, IdentityError> {
        match self.load()? {
            Some(identity) if identity.not_after > self.clock.now() => Ok(identity),
            Some(identity) => {
                let why = format!("the certificate of {} ended at {}", identity.node, identity.not_after);
                tracing::warn!(node = %identity.node, not_after = %identity.not_after, "the node's certificate has ended; enrolling again");
                self.enrol(why).await
            }
            None => self.enrol(format!("{} has no certificate yet", self.options.name)).await,
        }
    }

    fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let Some(bytes) = self.directory.read(FILE, LIMIT_BYTES)? else { return Ok(None) };
        let damaged = |why: String| IdentityError::Damaged { path: self.directory.path().join(FILE), why };
        let pem = String::from_utf8(bytes).map_err(|_| damaged("it is not text".into()))?;
        Identity::parse(pem).map(Some).map_err(damaged)
    }

    /// Enrols; tries again while the server is away, and gives up when it refuses.
    async fn enrol(&self, why: String) -> Result<Identity, IdentityError> {
        let join_token = match &self.options.join_token {
            JoinToken::None => return Err(IdentityError::NoToken { why }),
            JoinToken::Secret(secret) => secret.trim().to_owned(),
            JoinToken::File(path) => std::fs::read_to_string(path)
                .map_err(|error| IdentityError::Unreadable { path: path.clone(), why: error.to_string() })?
                .trim()
                .to_owned(),
        };
        let options = &self.options;
        let (key, certificate_request) = certificate_request()?;
        let request = EnrolRequest {
            join_token,
            certificate_request,
            name: options.name.to_string(),
            address: options.address.clone(),
            labels: options.labels.clone(),
            position: options.position.clone(),
            machine_id: self.machine_id()?,
        };
        let server = self.server();
        let mut pause = Duration::from_millis(100);
        loop {
            match enrolment::enrol(&server, &self.authority.pem, &request).await {
                Ok(response) => {
                    let identity = self.keep(&response, &key)?;
                    tracing::info!(node = %identity.node, name = %options.name, "enrolled");
                    return Ok(identity);
                }
                Err(source) if refused(&source) => {
                    return Err(IdentityError::Refused { server, name: options.name.to_string(), source });
                }
                Err(error) => {
                    tracing::info!(%error, "cannot enrol yet; trying again");
                    tokio::time::sleep(jittered(pause, &*self.entropy)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Renews the certificate whenever it is time, and says so in `tls`. Never ends.
    pub(crate) async fn renew_for_ever(&self, mut identity: Identity, tls: watch::Sender<Arc<ClientConfig>>) {
        let mut due = identity.renew_at(identity.not_before, &*self.entropy);
        let mut pause = Duration::from_millis(500);
        loop {
            let now = self.clock.now();
            if now < due {
                tokio::time::sleep(due.since(now).min(SLOW_PAUSE)).await;
                continue;
            }
            let renewed = if now < identity.not_after { self.renew(&identity).await } else { self.obtain().await };
            match renewed.and_then(|renewed| Ok((renewed.tls(&self.authority, Arc::clone(&self.clock))?, renewed))) {
                Ok((config, renewed)) => {
                    tracing::info!(node = %renewed.node, not_after = %renewed.not_after, "the node has a new certificate");
                    // Certificates begin in the past, and a clock that is ahead must not make each one due at once.
                    let now = self.clock.now();
                    due = renewed.renew_at(now, &*self.entropy).max(now.plus(Duration::from_secs(1)));
                    identity = renewed;
                    pause = Duration::from_millis(500);
                    tls.send_replace(config);
                }
                Err(error) => {
                    tracing::warn!(error = one_line(&error), not_after = %identity.not_after, "cannot renew the node's certificate; trying again");
                    tokio::time::sleep(jittered(pause, &*self.entropy)).await;
                    pause = (pause * 2).min(SLOW_PAUSE);
                }
            }
        }
    }

    async fn renew(&self, present: &Identity) -> Result<Identity, IdentityError> {
        let (key, certificate_request) = certificate_request()?;
        let server = self.server();
        let request = RenewRequest { certificate_request };
        let refused = |source| IdentityError::Refused { server: server.clone(), name: self.options.name.to_string(), source };
        let response = enrolment::renew(&server, &self.authority.pem, &present.pem, &request).await.map_err(refused)?;
        self.keep(&response, &key)
    }

    /// Checks and stores what the server answered.
    fn keep(&self, response: &EnrolResponse, key: &KeyPair) -> Result<Identity, IdentityError> {
        let unusable = |why: String| IdentityError::Unusable { server: self.options.server.clone(), why };
        let separator = if response.certificate.ends_with('\n') { "" } else { "\n" };
        let identity = Identity::parse(format!("{}{separator}{}", response.certificate, key.serialize_pem())).map_err(unusable)?;
        if identity.node != response.node {
            return Err(unusable(format!("it is for {} instead of {}", identity.node, response.node)));
        }
        identity.tls(&self.authority, Arc::clone(&self.clock)).map_err(|error| unusable(one_line(&error)))?;
        self.directory.write_atomic(FILE, identity.pem.as_bytes(), Permissions::mode(0o600), Durability::Power)?;
        Ok(identity)
    }

    /// A random id of this data directory: several agents of one host are several machines.
    fn machine_id(&self) -> Result<String, IdentityError> {
        let read = || Ok::<_, IdentityError>(self.directory.read(MACHINE_ID_FILE, LIMIT_BYTES)?);
        if let Some(bytes) = read()? {
            let id = String::from_utf8_lossy(&bytes).trim().to_owned();
            if !id.is_empty() {
                return Ok(id);
            }
        }
        let id = format!("{:016x}{:016x}", self.entropy.next_u64(), self.entropy.next_u64());
        self.directory.write_atomic(MACHINE_ID_FILE, id.as_bytes(), Permissions::mode(0o600), Durability::Power)?;
        Ok(id)
    }

    fn server(&self) -> String {
        format!("https://{}", self.options.server)
    }
}

/// A new key, and the request for its certificate.
fn certificate_request() -> Result<(KeyPair, String), IdentityError> {
    let key = KeyPair::generate().map_err(IdentityError::Key)?;
    let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem()).map_err(IdentityError::Key)?;
    Ok((key, request))
}

/// Whether asking again would get the same answer.
fn refused(error: &ClientError) -> bool {
    match error {
        ClientError::Settings(_) | ClientError::Argument(_) | ClientError::Untrusted { .. } => true,
        ClientError::Api(body) => {
            let status = body.code.status();
            (400..500).contains(&status) && status != 429
        }
        ClientError::NotReachable { .. } | ClientError::Protocol { .. } | ClientError::Timeout { .. } => false,
    }
}

/// Between half and all of a pause, so that many agents do not come back at the same moment.
pub(crate) fn jittered(pause: Duration, entropy: &dyn Entropy) -> Duration {
    let half = pause / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(entropy.next_u64() % spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::entropy::SeededEntropy;

    #[test]
    fn a_certificate_is_renewed_around_two_thirds_of_its_life() {
        let node = NodeId::new(Timestamp(0), &SeededEntropy::new(1));
        let hours = |hours: i64| Timestamp(hours * 3_600_000_000);
        let identity = Identity { node, not_before: hours(0), not_after: hours(30), pem: String::new() };
        let entropy = SeededEntropy::new(1);
        let moments: Vec<Timestamp> = (0..100).map(|_| identity.renew_at(identity.not_before, &entropy)).collect();
        assert!(moments.iter().all(|moment| (hours(18)..hours(22)).contains(moment)), "{moments:?}");
        assert!(moments.iter().any(|moment| *moment != moments[0]));
    }

    #[test]
    fn only_answers_that_will_not_change_end_an_enrolment() {
        let away = ClientError::NotReachable { server: "s".into(), why: "refused".into(), idempotency_key: None };
        assert!(!refused(&away));
        assert!(refused(&ClientError::Untrusted { server: "s".into(), why: "other".into() }));
        let api = |code| ClientError::Api(supernode_api::ErrorBody { code, message: String::new(), details: None, request_id: String::new() });
        assert!(refused(&api(supernode_api::ErrorCode::Forbidden)));
        assert!(!refused(&api(supernode_api::ErrorCode::Unavailable)));
    }

    #[test]
    fn jitter_stays_within_the_pause() {
        let entropy = SeededEntropy::new(1);
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100), &entropy);
            assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&pause), "{pause:?}");
        }
    }
}
