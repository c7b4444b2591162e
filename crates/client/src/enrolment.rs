//! How an agent gets its first certificate and the next ones. The sync connection is the agent's own.

use serde::Serialize;
use serde::de::DeserializeOwned;
use supernode_api::agent::{ENROL_PATH, EnrolRequest, EnrolResponse, RENEW_PATH, RenewRequest};

use crate::{ClientError, Limits, http};

/// Asks `server` (`https://host:port` of the agent port) for a first certificate. Sent once: a join token counts its uses.
pub async fn enrol(
    server: &str,
    ca_pem: &str,
    request: &EnrolRequest,
) -> Result<EnrolResponse, ClientError> {
    post(server, ca_pem, None, ENROL_PATH, request).await
}

/// Asks `server` for the next certificate; `identity_pem` is the present certificate followed by its key.
pub async fn renew(
    server: &str,
    ca_pem: &str,
    identity_pem: &str,
    request: &RenewRequest,
) -> Result<EnrolResponse, ClientError> {
    post(server, ca_pem, Some(identity_pem), RENEW_PATH, request).await
}

async fn post<T: DeserializeOwned>(
    server: &str,
    ca_pem: &str,
    identity_pem: Option<&str>,
    path: &str,
    request: &(impl Serialize + std::marker::Sync),
) -> Result<T, ClientError> {
    let limits = Limits::default();
    let transport = http::transport(ca_pem, identity_pem, &limits)?;
    let url = http::address(&http::base(server)?, path, &[])?;
    let failed = |error: reqwest::Error| {
        ClientError::transport(server, &error, limits.total.as_secs(), None)
    };
    let mut response = transport
        .post(url)
        .timeout(limits.total)
        .json(request)
        .send()
        .await
        .map_err(failed)?;
    let status = response.status().as_u16();
    let body = http::read(server, &mut response, &limits, None).await?;
    if !(200..300).contains(&status) {
        return Err(http::refusal(server, status, &body));
    }
    serde_json::from_slice(&body).map_err(|error| ClientError::Protocol {
        server: server.to_owned(),
        what: format!("{path}: {error}"),
    })
}
