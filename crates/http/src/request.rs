//! A request that has passed every check that does not need to know what the operation means.
//!
//! Reading stops at the first limit: a body is never held beyond its limit, and one that trickles in is given up after a while.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use supernode_api::{ErrorCode, Operation};

use crate::layer::RequestId;
use crate::{Caller, EdgeOptions, Failure, json};

/// The header that makes a repeated request have one effect.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How many times the limit is read and thrown away of a body that is too long.
const DISCARDED_BODIES: usize = 8;
const MAXIMUM_IDEMPOTENCY_KEY_LENGTH: usize = 128;

/// One request for the operation `O`.
#[derive(Debug)]
pub struct Request<O: Operation> {
    /// Who asks; the role is enough.
    pub caller: Caller,
    /// The values of the path's `{parameters}`.
    pub path: PathParameters,
    /// The query.
    pub query: O::Query,
    /// The body.
    pub body: O::Request,
    /// Finds the request in the log and in the audit log.
    pub request_id: String,
    /// The client's `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// The generation in `If-Match`.
    pub if_match: Option<i64>,
    /// SHA-256 (hexadecimal) of method, path with query, `If-Match` and body: two requests with one idempotency key are the same
    /// request exactly when their digests are equal.
    pub digest: String,
}

/// The values of a path's `{parameters}`, percent-decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathParameters(Vec<(String, String)>);

impl PathParameters {
    /// The value of the parameter `name`, which must stand in the operation's path.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .expect("the handler asks only for parameters of its own operation's path")
    }
}

/// What stands before the body, whatever the operation is.
pub(crate) struct Head {
    parts: Parts,
    caller: Caller,
    path: PathParameters,
    idempotency_key: Option<String>,
    if_match: Option<i64>,
}

impl Head {
    pub(crate) async fn read(mut parts: Parts, caller: Caller) -> Result<Self, Failure> {
        Ok(Self {
            caller,
            idempotency_key: idempotency_key(&parts.headers)?,
            if_match: if_match(&parts.headers)?,
            path: path_parameters(&mut parts).await?,
            parts,
        })
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    pub(crate) async fn with_body(
        self,
        body: Body,
        options: &EdgeOptions,
    ) -> Result<Arrived, Failure> {
        let body = read_body(
            &self.parts.headers,
            body,
            options.maximum_body_bytes,
            options.body_timeout,
        )
        .await?;
        Ok(Arrived { head: self, body })
    }
}

/// A whole request, not yet understood.
pub(crate) struct Arrived {
    head: Head,
    body: Bytes,
}

impl Arrived {
    /// The request as one for the operation `O`. Without `has_body` the body may be missing.
    pub(crate) fn into_request<O: Operation>(
        self,
        query: O::Query,
        has_body: bool,
    ) -> Result<Request<O>, Failure> {
        let (head, bytes) = (self.head, self.body);
        let parts = &head.parts;
        let body = match (has_body, bytes.is_empty()) {
            (true, true) => Err(Failure::invalid_request(format!(
                "`{}` needs a JSON body",
                O::NAME
            ))),
            (false, true) => parse_body(b"{}"),
            (_, false) => require_json(&parts.headers).and_then(|()| parse_body(&bytes)),
        }?;
        Ok(Request {
            query,
            body,
            request_id: RequestId::of(&parts.extensions).to_string(),
            digest: digest(parts.method.as_str(), &parts.uri, head.if_match, &bytes),
            caller: head.caller,
            path: head.path,
            idempotency_key: head.idempotency_key,
            if_match: head.if_match,
        })
    }
}

/// A JSON body as a `T`.
pub(crate) fn parse_body<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // The decoder would also take a list for an object, field by field: a client's mistake must not become a request.
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if matches!(first, Some(b'[')) {
        return Err(Failure::invalid_request(
            "request body: expected an object, found a list",
        ));
    }
    json::parse(bytes)
        .map_err(|problem| Failure::invalid_request(format!("request body: {problem}")))
}

/// Refuses a body that does not say that it is JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Failure> {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found = if given.is_empty() {
        "none was sent".to_owned()
    } else {
        format!("`{}` was sent", given.chars().take(80).collect::<String>())
    };
    Err(Failure::new(
        ErrorCode::UnsupportedMediaType,
        format!("the body must have the content type `application/json`; {found}"),
    ))
}

/// The whole body, if it is not too long and arrives in time.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    maximum_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, Failure> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let reading = async {
        let mut chunks = body.into_data_stream();
        let collected = if announced.is_some_and(|length| length > maximum_bytes as u64) {
            Err(too_large(maximum_bytes))
        } else {
            collect(&mut chunks, maximum_bytes).await
        };
        if collected.is_err() {
            // A client that is still sending would see a broken connection instead of the answer.
            discard(&mut chunks, DISCARDED_BODIES * maximum_bytes).await;
        }
        collected
    };
    tokio::time::timeout(timeout, reading)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::invalid_request(format!(
                "the body did not arrive within {} s; send it faster",
                timeout.as_secs_f64()
            )))
        })
}

async fn discard(chunks: &mut BodyDataStream, mut most: usize) {
    while let Some(Ok(chunk)) = chunks.next().await {
        most = most.saturating_sub(chunk.len());
        if most == 0 {
            return;
        }
    }
}

async fn collect(chunks: &mut BodyDataStream, maximum_bytes: usize) -> Result<Bytes, Failure> {
    let mut all = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| Failure::invalid_request(format!("the body broke off: {error}")))?;
        if all.len() + chunk.len() > maximum_bytes {
            return Err(too_large(maximum_bytes));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

fn too_large(maximum_bytes: usize) -> Failure {
    Failure::new(
        ErrorCode::TooLarge,
        format!("the body is larger than {maximum_bytes} bytes"),
    )
}

async fn path_parameters(parts: &mut Parts) -> Result<PathParameters, Failure> {
    let raw = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|rejection| {
            Failure::invalid_request(format!("the path is malformed: {}", rejection.body_text()))
        })?;
    Ok(PathParameters(
        raw.iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    ))
}

fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    expectation: &str,
) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => Err(Failure::invalid_request(format!(
            "the header `{name}` must be {expectation}"
        ))),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let expectation = "given once, with 1 to 128 visible ASCII characters";
    let Some(key) = single(headers, &IDEMPOTENCY_KEY, expectation)? else {
        return Ok(None);
    };
    if (1..=MAXIMUM_IDEMPOTENCY_KEY_LENGTH).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        Ok(Some(key.to_owned()))
    } else {
        Err(Failure::invalid_request(format!(
            "the header `{IDEMPOTENCY_KEY}` must be {expectation}"
        )))
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Failure> {
    let expectation = "one generation in quotes, as in the `ETag` of the object, for example \"5\"";
    let Some(text) = single(headers, &IF_MATCH, expectation)? else {
        return Ok(None);
    };
    let number = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|body| body.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|body| body.parse().ok()) {
        Some(generation) => Ok(Some(generation)),
        None => Err(Failure::invalid_request(format!(
            "the header `if-match` must be {expectation}"
        ))),
    }
}

fn digest(method: &str, uri: &Uri, if_match: Option<i64>, body: &[u8]) -> String {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let precondition = if_match
        .map(|generation| generation.to_string())
        .unwrap_or_default();
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    // Each part is preceded by its length, so that no two different requests run into the same bytes.
    for part in [
        method.as_bytes(),
        target.as_bytes(),
        precondition.as_bytes(),
        body,
    ] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    hexadecimal(context.finish().as_ref())
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn if_match_is_one_generation_in_quotes() {
        assert_eq!(if_match(&HeaderMap::new()), Ok(None));
        assert_eq!(if_match(&headers(&IF_MATCH, &["\"5\""])), Ok(Some(5)));
        for bad in [
            "5",
            "*",
            "\"\"",
            "\"+5\"",
            "\"x\"",
            "W/\"5\"",
            "\"5\", \"6\"",
            "\"99999999999999999999\"",
        ] {
            assert_eq!(
                if_match(&headers(&IF_MATCH, &[bad])).expect_err(bad).code,
                ErrorCode::InvalidRequest
            );
        }
        if_match(&headers(&IF_MATCH, &["\"5\"", "\"5\""])).expect_err("twice");
    }

    #[test]
    fn idempotency_keys_are_short_and_visible() {
        assert_eq!(
            idempotency_key(&headers(&IDEMPOTENCY_KEY, &["a-1"])),
            Ok(Some("a-1".to_owned()))
        );
        for bad in ["", " ", "a b", "a\tb"] {
            idempotency_key(&headers(&IDEMPOTENCY_KEY, &[bad])).expect_err(bad);
        }
        let mut long = HeaderMap::new();
        long.insert(
            IDEMPOTENCY_KEY,
            HeaderValue::from_str(&"k".repeat(128)).expect("valid"),
        );
        idempotency_key(&long).expect("128 are allowed");
        long.insert(
            IDEMPOTENCY_KEY,
            HeaderValue::from_str(&"k".repeat(129)).expect("valid"),
        );
        idempotency_key(&long).expect_err("129 are not");
        idempotency_key(&headers(&IDEMPOTENCY_KEY, &["a", "b"])).expect_err("twice");
    }

    #[test]
    fn digests_differ_where_requests_differ() {
        let of = |method: &str, uri: &'static str, precondition, body: &[u8]| {
            digest(method, &Uri::from_static(uri), precondition, body)
        };
        let base = of("POST", "/a?b=1", None, b"{}");
        assert_eq!(base, of("POST", "/a?b=1", None, b"{}"));
        for other in [
            of("PUT", "/a?b=1", None, b"{}"),
            of("POST", "/a?b=2", None, b"{}"),
            of("POST", "/a?b=1", Some(1), b"{}"),
            of("POST", "/a?b=1", None, b"{ }"),
        ] {
            assert_ne!(base, other);
        }
    }
}
