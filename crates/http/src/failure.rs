//! Why a request was not done, as a handler says it and as the client sees it.
//!
//! A failure becomes an [`ErrorBody`] with the status that belongs to its code. What only operators may see (the cause of an internal
//! error) goes to the log under the request id and never to the client. It is logged here, once, and nowhere else.

use std::fmt::Display;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::Value;
use supernode_api::{ErrorBody, ErrorCode};

use crate::layer::RequestId;

/// A request that was not done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// For programs; the HTTP status comes from it.
    pub code: ErrorCode,
    /// For people: what is wrong, with which object, and what to do.
    pub message: String,
    /// More for programs.
    pub details: Option<Value>,
    cause: Option<String>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with any code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            cause: None,
            retry_after: None,
        }
    }

    /// Adds something for programs to read.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Adds a `Retry-After` header, in whole seconds and at least one.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The request is malformed.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// No valid credentials.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unauthenticated, message)
    }

    /// Valid credentials that are not enough.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// There is no such object.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// The object's state does not allow the change.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// Too many requests; `wait` goes into `Retry-After`.
    pub fn too_many_requests(message: impl Into<String>, wait: Duration) -> Self {
        Self::new(ErrorCode::TooManyRequests, message).with_retry_after(wait)
    }

    /// The database cannot take the request now; nothing was changed.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message).with_retry_after(Duration::from_secs(1))
    }

    /// A bug. `cause` goes to the log, never to the client.
    pub fn internal(cause: impl Display) -> Self {
        let mut failure = Self::new(ErrorCode::Internal, "the server met a bug");
        failure.cause = Some(cause.to_string());
        failure
    }

    /// What the log should say about it.
    pub(crate) fn cause(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.message)
    }

    /// The body of the answer, logged if it is the server's fault.
    pub(crate) fn into_body(self, request_id: &RequestId) -> ErrorBody {
        let cause = self.cause();
        let message = match self.code {
            ErrorCode::Internal => {
                tracing::error!(%request_id, cause, "request failed");
                format!("the server met a bug; its log has more under request id {request_id}")
            }
            ErrorCode::Unavailable | ErrorCode::UnknownOutcome => {
                tracing::warn!(%request_id, cause, "request failed");
                self.message
            }
            _ => self.message,
        };
        ErrorBody {
            code: self.code,
            message,
            details: self.details,
            request_id: request_id.to_string(),
        }
    }

    /// The answer, logged if it is the server's fault.
    pub(crate) fn respond(self, request_id: &RequestId) -> Response {
        let (code, retry_after) = (self.code, self.retry_after);
        let body = self.into_body(request_id);
        let bytes =
            serde_json::to_vec(&body).expect("an error body has only strings and JSON values");
        let mut response = Response::new(axum::body::Body::from(bytes));
        *response.status_mut() =
            StatusCode::from_u16(code.status()).expect("the contract has only real status codes");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if code == ErrorCode::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from_str(&seconds.to_string())
                    .expect("digits are a valid header value"),
            );
        }
        response
    }
}
