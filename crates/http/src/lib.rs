//! The HTTP edge: mounts the contract on real sockets and lets nothing through that the contract does not allow.
//!
//! [`Edge`] turns an [`Operation`](supernode_api::Operation) and an `async fn` into a route: it authenticates, checks the role, reads
//! path, query, headers and body, runs the handler in a task of its own and writes the answer or an `ErrorBody`. [`AgentEdge`] does the
//! same for the agent protocol over mutual TLS. [`Authority`] is the server's own certificate authority, [`tls`] holds every type of the
//! TLS library, [`Listener`] the sockets. Nothing here knows what an operation means: that is the caller's handler.

pub mod agent_port;
mod agent_socket;
pub mod agents;
pub mod authority;
pub mod caller;
mod certificate;
pub mod failure;
mod guard;
mod identity;
mod json;
mod layer;
pub mod mount;
mod plain;
mod query;
mod rate_limit;
pub mod request;
pub mod routes;
pub mod server;
pub mod sse;
pub mod tls;

pub use agent_port::{
    AgentConnection, AgentEdge, AgentOptions, AgentPort, AgentSession, AgentSockets,
};
pub use authority::{Authority, AuthorityError, IssueError};
pub use caller::{Authenticator, Caller};
pub use certificate::ServerCertificate;
pub use failure::Failure;
pub use identity::{IdentityError, NodeIdentity, node_identity};
pub use mount::{Edge, EdgeOptions, Observation};
pub use plain::MetricsAccess;
pub use request::Request;
pub use server::{Connections, Listener, ListenerOptions, ServeError};
pub use sse::{EventStream, EventSubscription};
pub use tls::{ListenerTls, ServerTls, TlsError};

/// A future behind a pointer, as the traits at this crate's edge return it.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;
