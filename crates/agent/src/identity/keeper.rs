//! Gets the first identity of a node, and the next ones.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use supernode_api::agent::{EnrolRequest, EnrolResponse, RenewRequest};
use supernode_client::{ClientError, enrolment};
use supernode_types::{Clock, Entropy};
use tokio::sync::watch;

use super::{Authority, Identity, IdentityError};
use crate::files::{Directory, Durability, Permissions, one_line};
use crate::options::{AgentOptions, JoinToken};

const FILE: &str = "identity.pem";
const MACHINE_ID_FILE: &str = "machine-id";
const LIMIT_BYTES: u64 = 1024 * 1024;
/// The longest time between two tries while the server is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two tries that the server refuses, and between two looks at the wall clock, which may jump.
const SLOW_PAUSE: Duration = Duration::from_mins(1);

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
                let why = format!(
                    "the certificate of {} ended at {}",
                    identity.node, identity.not_after
                );
                tracing::warn!(node = %identity.node, not_after = %identity.not_after, "the node's certificate has ended; enrolling again");
                self.enrol(why).await
            }
            None => {
                self.enrol(format!("{} has no certificate yet", self.options.name))
                    .await
            }
        }
    }

    fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let Some(bytes) = self.directory.read(FILE, LIMIT_BYTES)? else {
            return Ok(None);
        };
        let damaged = |why: String| IdentityError::Damaged {
            path: self.directory.path().join(FILE),
            why,
        };
        let pem = String::from_utf8(bytes).map_err(|_| damaged("it is not text".into()))?;
        Identity::parse(pem).map(Some).map_err(damaged)
    }

    /// Enrols; tries again while the server is away, and gives up when it refuses.
    async fn enrol(&self, why: String) -> Result<Identity, IdentityError> {
        let join_token = match &self.options.join_token {
            JoinToken::None => return Err(IdentityError::NoToken { why }),
            JoinToken::Secret(secret) => secret.trim().to_owned(),
            JoinToken::File(path) => std::fs::read_to_string(path)
                .map_err(|error| IdentityError::Unreadable {
                    path: path.clone(),
                    why: error.to_string(),
                })?
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
                    return Err(IdentityError::Refused {
                        server,
                        name: options.name.to_string(),
                        source: Box::new(source),
                    });
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
    pub(crate) async fn renew_for_ever(
        &self,
        mut identity: Identity,
        tls: watch::Sender<Arc<ClientConfig>>,
    ) {
        let mut due = identity.renew_at(identity.not_before, &*self.entropy);
        let mut pause = Duration::from_millis(500);
        let mut complaint = None;
        loop {
            let now = self.clock.now();
            if now < due {
                tokio::time::sleep(due.since(now).min(SLOW_PAUSE)).await;
                continue;
            }
            let renewed = if now < identity.not_after {
                self.renew(&identity).await
            } else {
                self.obtain().await
            };
            match renewed.and_then(|renewed| {
                Ok((
                    renewed.tls(&self.authority, Arc::clone(&self.clock))?,
                    renewed,
                ))
            }) {
                Ok((config, renewed)) => {
                    tracing::info!(node = %renewed.node, not_after = %renewed.not_after, "the node has a new certificate");
                    // Certificates begin in the past, and a clock that is ahead must not make each one due at once.
                    let now = self.clock.now();
                    due = renewed
                        .renew_at(now, &*self.entropy)
                        .max(now.plus(Duration::from_secs(1)));
                    identity = renewed;
                    complaint = None;
                    pause = Duration::from_millis(500);
                    tls.send_replace(config);
                }
                Err(error) => {
                    let why = one_line(&error);
                    if complaint.as_ref() != Some(&why) {
                        tracing::warn!(why, not_after = %identity.not_after, "cannot renew the node's certificate; trying again");
                        complaint = Some(why);
                    }
                    tokio::time::sleep(jittered(pause, &*self.entropy)).await;
                    pause = (pause * 2).min(SLOW_PAUSE);
                }
            }
        }
    }

    async fn renew(&self, present: &Identity) -> Result<Identity, IdentityError> {
        let (key, certificate_request) = certificate_request()?;
        let server = self.server();
        let request = RenewRequest {
            certificate_request,
        };
        let refused = |source| IdentityError::Refused {
            server: server.clone(),
            name: self.options.name.to_string(),
            source: Box::new(source),
        };
        let response = enrolment::renew(&server, &self.authority.pem, &present.pem, &request)
            .await
            .map_err(refused)?;
        self.keep(&response, &key)
    }

    /// Checks and stores what the server answered.
    fn keep(&self, response: &EnrolResponse, key: &KeyPair) -> Result<Identity, IdentityError> {
        let unusable = |why: String| IdentityError::Unusable {
            server: self.options.server.clone(),
            why,
        };
        let separator = if response.certificate.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let identity = Identity::parse(format!(
            "{}{separator}{}",
            response.certificate,
            key.serialize_pem()
        ))
        .map_err(unusable)?;
        if identity.node != response.node {
            return Err(unusable(format!(
                "it is for {} instead of {}",
                identity.node, response.node
            )));
        }
        identity
            .tls(&self.authority, Arc::clone(&self.clock))
            .map_err(|error| unusable(one_line(&error)))?;
        self.directory.write_atomic(
            FILE,
            identity.pem.as_bytes(),
            Permissions::mode(0o600),
            Durability::Power,
        )?;
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
        let id = format!(
            "{:016x}{:016x}",
            self.entropy.next_u64(),
            self.entropy.next_u64()
        );
        self.directory.write_atomic(
            MACHINE_ID_FILE,
            id.as_bytes(),
            Permissions::mode(0o600),
            Durability::Power,
        )?;
        Ok(id)
    }

    fn server(&self) -> String {
        format!("https://{}", self.options.server)
    }
}

/// A new key, and the request for its certificate.
fn certificate_request() -> Result<(KeyPair, String), IdentityError> {
    let key = KeyPair::generate().map_err(IdentityError::Key)?;
    let request = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(IdentityError::Key)?;
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
        ClientError::NotReachable { .. }
        | ClientError::Protocol { .. }
        | ClientError::Timeout { .. } => false,
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
    fn only_answers_that_will_not_change_end_an_enrolment() {
        let away = ClientError::NotReachable {
            server: "s".into(),
            why: "refused".into(),
            idempotency_key: None,
        };
        assert!(!refused(&away));
        assert!(refused(&ClientError::Untrusted {
            server: "s".into(),
            why: "other".into()
        }));
        let api = |code| {
            ClientError::Api(supernode_api::ErrorBody {
                code,
                message: String::new(),
                details: None,
                request_id: String::new(),
            })
        };
        assert!(refused(&api(supernode_api::ErrorCode::Forbidden)));
        assert!(!refused(&api(supernode_api::ErrorCode::Unavailable)));
    }

    #[test]
    fn jitter_stays_within_the_pause() {
        let entropy = SeededEntropy::new(1);
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100), &entropy);
            assert!(
                (Duration::from_millis(50)..=Duration::from_millis(100)).contains(&pause),
                "{pause:?}"
            );
        }
    }
}
