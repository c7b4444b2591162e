//! What all requests have in common: the transport, addresses, and reading answers within their bounds.

use reqwest::{Response, Url};
use supernode_api::{ErrorBody, ErrorCode};

use crate::{ClientError, Context, Limits};

/// A transport that trusts `ca` and nothing else, with a client certificate where `identity` (certificate and key, PEM) is given.
pub(crate) fn transport(
    ca: &str,
    identity: Option<&str>,
    limits: &Limits,
) -> Result<reqwest::Client, ClientError> {
    let authorities = reqwest::Certificate::from_pem_bundle(ca.as_bytes()).map_err(|error| {
        ClientError::Settings(format!("the CA certificate cannot be read: {error}"))
    })?;
    if authorities.is_empty() {
        return Err(ClientError::Settings(
            "the CA certificate is empty; it must be one or more certificates in PEM".into(),
        ));
    }
    let mut builder = reqwest::Client::builder()
        .tls_certs_only(authorities)
        .tls_version_min(reqwest::tls::Version::TLS_1_3)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits.connect)
        .user_agent(concat!("supernode/", env!("CARGO_PKG_VERSION")));
    if let Some(identity) = identity {
        let identity = reqwest::Identity::from_pem(identity.as_bytes()).map_err(|error| {
            ClientError::Settings(format!(
                "the client certificate and key cannot be read: {error}"
            ))
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| {
        ClientError::Settings(format!("the CA certificate cannot be used: {error}"))
    })
}

/// Reads the address of a server.
pub(crate) fn base(server: &str) -> Result<Url, ClientError> {
    let refused = |why: &str| {
        ClientError::Settings(format!(
            "`{server}` is not the address of a server: {why}; write https://host:port"
        ))
    };
    let url = Url::parse(server).map_err(|error| refused(&error.to_string()))?;
    if url.scheme() != "https" || !url.has_host() {
        return Err(refused("it does not begin with https://"));
    }
    Ok(url)
}

/// Puts `parameters` into the `{places}` of `path`, in order.
///
/// # Panics
/// If there are more or fewer of them than places: the caller named the wrong operation.
pub(crate) fn address(base: &Url, path: &str, parameters: &[&str]) -> Result<Url, ClientError> {
    let mut url = base.clone();
    let mut rest = parameters.iter();
    {
        let mut segments = url
            .path_segments_mut()
            .expect("an https address has a path");
        segments.pop_if_empty();
        for part in path.split('/').skip(1) {
            if part.starts_with('{') {
                let parameter = rest
                    .next()
                    .expect("the caller gives one parameter for each place in the path");
                if matches!(*parameter, "" | "." | "..") {
                    return Err(ClientError::Argument((*parameter).to_owned()));
                }
                segments.push(parameter);
            } else {
                segments.push(part);
            }
        }
    }
    assert!(
        rest.next().is_none(),
        "the caller gives one parameter for each place in the path"
    );
    Ok(url)
}

/// Reads a body up to the limit.
pub(crate) async fn read(
    server: &str,
    response: &mut Response,
    limits: &Limits,
    key: Option<&str>,
) -> Result<Vec<u8>, ClientError> {
    let too_large = || ClientError::Protocol {
        server: server.to_owned(),
        what: format!(
            "it is larger than {} bytes; ask for less, for example with a filter",
            limits.answer_bytes
        ),
    };
    let announced = response
        .content_length()
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(0);
    if announced > limits.answer_bytes {
        return Err(too_large());
    }
    let mut body = Vec::with_capacity(announced);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| ClientError::transport(server, &error, limits.total.as_secs(), key))?
    {
        if body.len() + chunk.len() > limits.answer_bytes {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads the body of an answer that is not a success. A code that this version does not know becomes one of the same status.
pub(crate) fn refusal(server: &str, status: u16, body: &[u8]) -> ClientError {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        return ClientError::Api(body);
    }
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let known = ErrorCode::ALL.iter().find(|code| code.status() == status);
    if let (Some(code), Some(message)) = (known, value["message"].as_str()) {
        return ClientError::Api(ErrorBody {
            code: *code,
            message: message.to_owned(),
            details: value
                .get("details")
                .filter(|details| !details.is_null())
                .cloned(),
            request_id: value["request_id"].as_str().unwrap_or_default().to_owned(),
        });
    }
    if status == 503 {
        return ClientError::NotReachable {
            server: server.to_owned(),
            why: "it answers 503, as while it starts".into(),
            idempotency_key: None,
        };
    }
    let beginning: String = String::from_utf8_lossy(body)
        .chars()
        .filter(|letter| !letter.is_control())
        .take(120)
        .collect();
    ClientError::Protocol {
        server: server.to_owned(),
        what: format!("status {status} with `{beginning}`"),
    }
}

/// A context whose parts were checked.
pub(crate) fn open(
    context: &Context,
    limits: &Limits,
) -> Result<(reqwest::Client, Url, reqwest::header::HeaderValue), ClientError> {
    let mut token = reqwest::header::HeaderValue::from_str(&format!("Bearer {}", context.token))
        .map_err(|_| {
            ClientError::Settings(
                "the token has characters that no token has; copy it again".into(),
            )
        })?;
    token.set_sensitive(true);
    Ok((
        transport(&context.ca, None, limits)?,
        base(&context.server)?,
        token,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_cannot_leave_their_place() {
        let base = base("https://127.0.0.1:1").expect("valid");
        let path = |name: &str| {
            address(&base, "/api/v1/nodes/{node}/cordon", &[name]).map(|url| url.path().to_owned())
        };
        assert_eq!(path("n1").as_deref(), Ok("/api/v1/nodes/n1/cordon"));
        assert_eq!(
            path("a/../b?c#d%2e é").as_deref(),
            Ok("/api/v1/nodes/a%2F..%2Fb%3Fc%23d%252e%20%C3%A9/cordon")
        );
        for bad in ["", ".", ".."] {
            assert_eq!(path(bad), Err(ClientError::Argument(bad.into())));
        }
    }

    #[test]
    fn only_https_addresses_are_accepted() {
        for bad in ["http://127.0.0.1:1", "127.0.0.1:1", "", "https://"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_code_of_a_newer_server_keeps_its_meaning() {
        let error = refusal(
            "s",
            409,
            br#"{"code":"too_hot","message":"wait","request_id":"r1","details":{"a":1}}"#,
        );
        let ClientError::Api(body) = error else {
            panic!("{error}")
        };
        assert_eq!(
            (body.code, body.message.as_str(), body.request_id.as_str()),
            (ErrorCode::Conflict, "wait", "r1")
        );
        assert!(matches!(
            refusal("s", 502, b"<html>"),
            ClientError::Protocol { .. }
        ));
        assert!(refusal("s", 503, b"").transient());
    }
}
