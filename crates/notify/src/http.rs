//! One request by HTTP to an address that was looked at.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response, Url};
use supernode_types::channel::{ChannelTerms, Delivered, Delivery, PrivateAddresses, Target};

use crate::address::{is_public, literal, refusal, resolve};
use crate::{body, ca_pem, chain, later, signature};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const TOTAL_LIMIT: Duration = Duration::from_secs(15);
/// What is read of an answer.
const MOST_ANSWER_BYTES: usize = 16 * 1024;

/// Whether a target could be used, and what may be shown of it.
pub(crate) fn check(target: &Target, terms: &ChannelTerms) -> Result<String, String> {
    let url = body::address(target)?;
    if let Target::Webhook { key, .. } = target {
        signature::webhook_key(&key.0)?;
    }
    let host = url.host_str().unwrap_or_default();
    if terms.private_addresses == PrivateAddresses::Refused {
        if url.scheme() == "http" {
            return Err("http:// protects nothing and is only spoken to private addresses; write https://, or let an admin allow private addresses (--allow-private-addresses)".into());
        }
        if let Some(address) = literal(host).filter(|address| !is_public(*address)) {
            return Err(refusal(host, address));
        }
    }
    client(&url, &[], terms.ca_pem.as_deref())?;
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    Ok(format!("{}://{host}{port}/…", url.scheme()))
}

pub(crate) async fn deliver(delivery: &Delivery) -> Delivered {
    attempt(delivery).await.unwrap_or_else(later)
}

async fn attempt(delivery: &Delivery) -> Result<Delivered, String> {
    let request = body::request(delivery)?;
    let host = request.url.host_str().unwrap_or_default();
    let port = request.url.port_or_known_default().unwrap_or(443);
    let private = delivery.channel.terms.private_addresses;
    let mut addresses = resolve(host, port, private).await?;
    if request.url.scheme() == "http" {
        addresses.retain(|address| !is_public(address.ip()));
        if addresses.is_empty() {
            return Err(format!(
                "{host} is a public address, and http:// is only spoken to private ones"
            ));
        }
    }
    let client = client(&request.url, &addresses, ca_pem(&delivery.channel))?;
    let mut call = client
        .post(request.url)
        .header(CONTENT_TYPE, "application/json")
        .body(request.body);
    for (name, value) in request.headers {
        call = call.header(name, value);
    }
    let mut response = call.send().await.map_err(words)?;
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let answer = read(&mut response).await.map_err(words)?;
    Ok(body::answer(&delivery.target, status, retry_after, &answer))
}

/// A client that connects to `addresses`, whatever the name stands for by then.
fn client(
    url: &Url,
    addresses: &[std::net::SocketAddr],
    ca_pem: Option<&str>,
) -> Result<Client, String> {
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .timeout(TOTAL_LIMIT)
        .user_agent(concat!("supernode/", env!("CARGO_PKG_VERSION")));
    // An address in the place of a name is connected to as it stands.
    if let Some(host) = url.host_str().filter(|host| literal(host).is_none()) {
        builder = builder.resolve_to_addrs(host, addresses);
    }
    if let Some(pem) = ca_pem {
        let authorities = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| {
            format!(
                "the certificates of the authorities cannot be read: {}",
                chain(&error)
            )
        })?;
        if authorities.is_empty() {
            return Err("there is no certificate of an authority in PEM".into());
        }
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| {
        format!(
            "the certificates of the authorities cannot be used: {}",
            chain(&error)
        )
    })
}

/// The beginning of an answer; nobody needs more.
async fn read(response: &mut Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() >= MOST_ANSWER_BYTES {
            body.truncate(MOST_ANSWER_BYTES);
            break;
        }
    }
    Ok(body)
}

/// What went wrong, without the address: it may hold a token.
fn words(error: reqwest::Error) -> String {
    chain(&error.without_url())
}

#[cfg(test)]
mod tests;
