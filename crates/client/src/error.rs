//! Why a call gave no result.

use std::error::Error;

use supernode_api::{ErrorBody, ErrorCode};

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// The context itself is unusable; nothing was sent.
    #[error("{0}")]
    Settings(String),
    /// A name or id that no path can hold; nothing was sent.
    #[error("`{0}` is not a name or an id")]
    Argument(String),
    /// No connection, or it broke and did not come back.
    #[error("cannot reach {server}: {why}{}", repeat_hint(.idempotency_key.as_deref()))]
    NotReachable {
        /// The server.
        server: String,
        /// The cause.
        why: String,
        /// The key of a change that may have been made before the connection broke: asking again with it has the effect once.
        idempotency_key: Option<String>,
    },
    /// The server's certificate was not signed by the context's authority, has ended, or is for another name.
    #[error("the certificate of {server} is not trusted: {why}")]
    Untrusted {
        /// The server.
        server: String,
        /// The cause.
        why: String,
    },
    /// The server refused the request.
    #[error("{}", .0.message)]
    Api(ErrorBody),
    /// The answer is not one of this API.
    #[error("unexpected answer from {server}: {what}")]
    Protocol {
        /// The server.
        server: String,
        /// What is wrong with it.
        what: String,
    },
    /// The answer did not come in time; a change may or may not have been made.
    #[error("no answer from {server} within {seconds} s{}", repeat_hint(.idempotency_key.as_deref()))]
    Timeout {
        /// The server.
        server: String,
        /// How long it was waited for.
        seconds: u64,
        /// The key of the change: asking again with it has the effect once.
        idempotency_key: Option<String>,
    },
}

fn repeat_hint(key: Option<&str>) -> String {
    key.map(|key| {
        format!("; the change may have been made, repeat it safely with the idempotency key {key}")
    })
    .unwrap_or_default()
}

impl ClientError {
    /// Whether the same call may succeed soon: the server is away or says that it cannot take requests now.
    pub fn transient(&self) -> bool {
        match self {
            Self::NotReachable { .. } => true,
            Self::Api(body) => body.code.status() == 503,
            Self::Settings(_)
            | Self::Argument(_)
            | Self::Untrusted { .. }
            | Self::Protocol { .. }
            | Self::Timeout { .. } => false,
        }
    }

    /// The code that the server gave, if it answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api(body) => Some(body.code),
            _ => None,
        }
    }

    /// Sorts a transport failure by what the caller can do about it.
    pub(crate) fn transport(
        server: &str,
        error: &reqwest::Error,
        seconds: u64,
        idempotency_key: Option<&str>,
    ) -> Self {
        let server = server.to_owned();
        match tls_failure(error) {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                return Self::Untrusted {
                    server,
                    why: certificate_reason(reason),
                };
            }
            Some(rustls::Error::NoCertificatesPresented) => {
                return Self::Untrusted {
                    server,
                    why: "it sent none".into(),
                };
            }
            Some(other) => {
                return Self::Protocol {
                    server,
                    what: format!("TLS failed: {other}"),
                };
            }
            None => {}
        }
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout {
                server,
                seconds,
                idempotency_key: idempotency_key.map(ToOwned::to_owned),
            };
        }
        if error.is_builder() || error.is_redirect() {
            return Self::Protocol {
                server,
                what: error.to_string(),
            };
        }
        let idempotency_key = idempotency_key
            .filter(|_| !error.is_connect())
            .map(ToOwned::to_owned);
        let why = if error.is_timeout() {
            "no answer to the connection request".into()
        } else {
            innermost(error)
        };
        Self::NotReachable {
            server,
            why,
            idempotency_key,
        }
    }
}

fn certificate_reason(reason: &rustls::CertificateError) -> String {
    match reason {
        rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature => {
            "it was signed by another authority than the one in this context".into()
        }
        rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. } => {
            "it has ended".into()
        }
        rustls::CertificateError::NotValidYet
        | rustls::CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; compare the clocks of both machines".into()
        }
        other => other.to_string(),
    }
}

fn tls_failure<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error shows the source of what it carries, not what it carries.
        let carried: Option<&'a (dyn Error + 'static)> = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|carried| carried as _);
        next = carried.or_else(|| error.source());
    }
    None
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
