//! Where a server is, how it is trusted, and how long its answers may take.

use std::time::Duration;

/// A server and the right to use it.
#[derive(Clone, PartialEq, Eq)]
pub struct Context {
    /// `https://host:port`.
    pub server: String,
    /// The authority that signed the server's certificate, PEM; the only one that is trusted.
    pub ca: String,
    /// The API token's secret.
    pub token: String,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// How long to wait and how much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// For a whole answer, on top of the time that the request itself asks the server to wait.
    pub total: Duration,
    /// For how long, from the first failure, a call is repeated while the server cannot be reached or says that it is not available.
    pub retry_for: Duration,
    /// The most bytes in one answer.
    pub answer_bytes: usize,
}

impl Default for Limits {
    /// What suits a person at a terminal: a restarting server is bridged, a dead one is reported after 5 s.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            total: Duration::from_secs(30),
            retry_for: Duration::from_secs(5),
            answer_bytes: 64 * 1024 * 1024,
        }
    }
}
