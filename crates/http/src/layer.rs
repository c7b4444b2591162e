//! What every answer has in common: a request id, security headers, and an `ErrorBody` also for paths that do not exist.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use supernode_api::ErrorCode;
use supernode_types::Entropy;

use crate::Failure;

/// The header that carries a request's id in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAXIMUM_REQUEST_ID_LENGTH: usize = 64;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The id under which a request stands in the log, the audit log and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// The client's id if it is short and harmless, else a new one.
    fn choose(headers: &HeaderMap, entropy: &dyn Entropy) -> Self {
        let given = headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok());
        let harmless = |text: &&str| {
            (1..=MAXIMUM_REQUEST_ID_LENGTH).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        match given.filter(harmless) {
            Some(text) => Self(text.into()),
            None => Self::random(entropy),
        }
    }

    fn random(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        let body: String = bytes
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
            .collect();
        Self(format!("req-{body}").into())
    }

    /// The id that the layer gave to a request.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self("unknown".into()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Puts ids, headers and JSON errors around all routes of `router`.
pub(crate) fn wrap(router: Router, entropy: Arc<dyn Entropy>) -> Router {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn(move |request: Request, next: Next| {
            around(request, next, Arc::clone(&entropy))
        }))
}

async fn around(mut request: Request, next: Next, entropy: Arc<dyn Entropy>) -> Response {
    let id = RequestId::choose(request.headers(), entropy.as_ref());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        REQUEST_ID,
        HeaderValue::from_str(&id.0).expect("a request id is visible ASCII"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response
}

async fn unknown_path(request: Request) -> Response {
    let message = format!(
        "there is no path `{}`; `/api/v1/openapi.json` lists all operations",
        shortened(request.uri().path())
    );
    Failure::not_found(message).respond(&RequestId::of(request.extensions()))
}

async fn unknown_method(request: Request) -> Response {
    let message = format!(
        "`{}` cannot be used on `{}`; the `Allow` header lists what can",
        request.method(),
        shortened(request.uri().path())
    );
    Failure::new(ErrorCode::MethodNotAllowed, message).respond(&RequestId::of(request.extensions()))
}

fn shortened(path: &str) -> String {
    path.chars().take(200).collect()
}
