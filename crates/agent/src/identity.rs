//! Who the node is: its key and certificate on the disk, how it gets the first and the next ones, and TLS with them.
//!
//! Certificate and key are one file, so that they always belong together; each certificate has a key of its own, which never leaves
//! the node. The node's id is read from the certificate. A certificate is renewed after two thirds of its life, not at the same moment
//! on all nodes; one that has ended can only be replaced by enrolling again, which the same machine may do under its name.
//!
//! It refuses any authority but the one that it was given, and to enrol with a token that the server refused once.

mod keeper;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use supernode_client::ClientError;
use supernode_types::{Clock, Entropy, NodeId, Timestamp};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::FileError;
pub(crate) use keeper::{Keeper, jittered};

/// What a node's name in its certificate begins with.
const NODE_URI_PREFIX: &str = "supernode:node:";

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
        source: Box<ClientError>,
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
        formatter
            .debug_struct("Identity")
            .field("node", &self.node)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a certificate followed by its key; the text says what is wrong.
    pub fn parse(pem: String) -> Result<Self, String> {
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it has no certificate")?;
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it has no private key")?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| "its certificate cannot be read")?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| "its certificate cannot be read")?;
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
    pub fn tls(
        &self,
        authority: &Authority,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<ClientConfig>, IdentityError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let unusable =
            || IdentityError::Tls(rustls::Error::General("the identity is no PEM".into()));
        let chain = CertificateDer::pem_slice_iter(self.pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unusable())?;
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
        let jitter = i64::try_from(entropy.next_u64() % u64::try_from(spread.max(1)).unwrap_or(1))
            .unwrap_or(0);
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
        let unreadable = |why: String| IdentityError::Unreadable {
            path: path.to_owned(),
            why,
        };
        let pem = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| unreadable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("it has no certificate in PEM".into()));
        }
        Ok(Self {
            pem,
            roots: Arc::new(roots),
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::entropy::SeededEntropy;

    #[test]
    fn a_certificate_is_renewed_around_two_thirds_of_its_life() {
        let node = NodeId::new(Timestamp(0), &SeededEntropy::new(1));
        let hours = |hours: i64| Timestamp(hours * 3_600_000_000);
        let identity = Identity {
            node,
            not_before: hours(0),
            not_after: hours(30),
            pem: String::new(),
        };
        let entropy = SeededEntropy::new(1);
        let moments: Vec<Timestamp> = (0..100)
            .map(|_| identity.renew_at(identity.not_before, &entropy))
            .collect();
        assert!(
            moments
                .iter()
                .all(|moment| (hours(18)..hours(22)).contains(moment)),
            "{moments:?}"
        );
        assert!(moments.iter().any(|moment| *moment != moments[0]));
    }
}
