//! Certificates for thousands of agents. All have the same key, so that one request signed once does for all: the server signs a
//! certificate for each nevertheless, and every connection is a full handshake of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use supernode_api::agent::{ENROL_PATH, EnrolRequest, EnrolResponse};

/// The server forgives so many failures at once of one address, and counts those under way.
const AT_ONCE: usize = 64;

/// What all agents of this process have in common.
pub(crate) struct Identities {
    server: String,
    join_token: String,
    roots: Arc<RootCertStore>,
    key_pem: String,
    request_pem: String,
    transport: reqwest::Client,
}

impl Identities {
    pub(crate) fn new(server: &str, ca_pem: &str, join_token: &str) -> Result<Self> {
        let key = rcgen::KeyPair::generate().context("cannot make a key")?;
        let request = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .context("cannot sign a certificate request")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.context("the CA file cannot be read")?)?;
        }
        let authorities = reqwest::Certificate::from_pem_bundle(ca_pem.as_bytes())?;
        let transport = reqwest::Client::builder()
            .tls_certs_only(authorities)
            .no_proxy()
            .timeout(Duration::from_mins(1))
            .build()?;
        Ok(Self {
            server: server.to_owned(),
            join_token: join_token.trim().to_owned(),
            roots: Arc::new(roots),
            key_pem: key.serialize_pem(),
            request_pem: request.pem().context("cannot write the request as PEM")?,
            transport,
        })
    }

    /// A certificate for each name, in order.
    pub(crate) async fn enrol(&self, names: Vec<(String, String)>) -> Result<Vec<EnrolResponse>> {
        let answers: Vec<Result<EnrolResponse>> = futures::stream::iter(names)
            .map(|(name, address)| self.enrol_one(name, address))
            .buffered(AT_ONCE)
            .collect()
            .await;
        answers.into_iter().collect()
    }

    async fn enrol_one(&self, name: String, address: String) -> Result<EnrolResponse> {
        let request = EnrolRequest {
            join_token: self.join_token.clone(),
            certificate_request: self.request_pem.clone(),
            machine_id: format!("machine-of-{name}"),
            name,
            address,
            labels: std::collections::BTreeMap::new(),
            position: supernode_types::node::Position::default(),
        };
        let response = self
            .transport
            .post(format!("https://{}{ENROL_PATH}", self.server))
            .json(&request)
            .send()
            .await?;
        let status = response.status();
        let body = response.bytes().await?;
        if !status.is_success() {
            bail!(
                "enrolment: status {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        serde_json::from_slice(&body).context("the answer to an enrolment cannot be read")
    }

    /// TLS with the certificate of one agent. Nothing of it is kept for the next connection: each is a full handshake.
    pub(crate) fn tls(&self, certificate_pem: &str) -> Result<ClientConfig> {
        let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("a certificate cannot be read")?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?;
        let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(chain, key)?;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
