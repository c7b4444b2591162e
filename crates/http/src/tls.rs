//! Every type of the TLS library that this crate uses, and nothing of it outside.
//!
//! TLS 1.3 only. The API listener authenticates the server alone; the agent listener asks for a client certificate of our authority and
//! lets a connection without one in, because enrolment has none yet: its routes demand one. Sessions of agents are never resumed, so
//! each connection shows its certificate anew. The server's certificate can be replaced while listening.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::Extensions;
use axum_server::tls::TlsInfo;
use axum_server::tls_rustls::RustlsConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use supernode_types::Clock;

use crate::{Authority, ServerCertificate};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate or its key cannot be used.
    #[error("the server certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// The text is not PEM with a certificate and a key.
    #[error("the server certificate cannot be read")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The authority cannot verify clients.
    #[error("the certificate authority cannot be used to verify agents: {0}")]
    Verifier(String),
}

/// TLS for both listeners of a server.
#[derive(Debug)]
pub struct ServerTls {
    provider: Arc<CryptoProvider>,
    certificate: Arc<CurrentCertificate>,
    api: ListenerTls,
    agents: ListenerTls,
}

/// TLS for one listener.
#[derive(Clone)]
pub struct ListenerTls(pub(crate) RustlsConfig);

impl fmt::Debug for ListenerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ListenerTls")
    }
}

impl ServerTls {
    /// TLS with this certificate; agents are those that `authority` signed. `clock` decides which certificates have ended.
    pub fn new(
        authority: &Authority,
        certificate: &ServerCertificate,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate = Arc::new(CurrentCertificate(RwLock::new(certified_key(
            &provider,
            certificate,
        )?)));
        let time: Arc<dyn TimeProvider> = Arc::new(ClockTime(clock));
        let builder = || {
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time))
                .with_protocol_versions(&[&rustls::version::TLS13])
        };
        let resolver: Arc<dyn ResolvesServerCert> = certificate.clone();
        let mut api = builder()
            .map_err(TlsError::Certificate)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver));
        api.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(authority.certificate_der()))
            .map_err(|error| TlsError::Verifier(error.to_string()))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Verifier(error.to_string()))?;
        let mut agents = builder()
            .map_err(TlsError::Certificate)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        agents.alpn_protocols = vec![b"http/1.1".to_vec()];
        agents.session_storage = Arc::new(NoServerSessionStorage {});
        agents.send_tls13_tickets = 0;

        let listener = |config| ListenerTls(RustlsConfig::from_config(Arc::new(config)));
        Ok(Self {
            provider,
            certificate,
            api: listener(api),
            agents: listener(agents),
        })
    }

    /// For the API listener: server authentication only, HTTP/2 and HTTP/1.1.
    pub fn api(&self) -> ListenerTls {
        self.api.clone()
    }

    /// For the agent listener: client certificates of our authority, HTTP/1.1 (which `WebSocket` needs).
    pub fn agents(&self) -> ListenerTls {
        self.agents.clone()
    }

    /// New connections of both listeners get this certificate; present ones go on.
    pub fn replace_certificate(&self, certificate: &ServerCertificate) -> Result<(), TlsError> {
        let key = certified_key(&self.provider, certificate)?;
        *self
            .certificate
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }
}

fn certified_key(
    provider: &CryptoProvider,
    certificate: &ServerCertificate,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate.pem().as_bytes())
        .collect::<Result<_, _>>()
        .map_err(TlsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.pem().as_bytes()).map_err(TlsError::Pem)?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(TlsError::Certificate)
}

/// The certificate that new connections get.
#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let micros = u64::try_from(self.0.now().0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_micros(micros)))
    }
}

/// The certificate that the peer of this request's connection showed, verified in the handshake.
pub(crate) fn peer_certificate(extensions: &Extensions) -> Option<&[u8]> {
    extensions
        .get::<Arc<TlsInfo>>()?
        .peer_certificates
        .first()
        .map(Vec::as_slice)
}
