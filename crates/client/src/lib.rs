//! Typed calls over the contract: [`Client::call`] takes an operation of `supernode-api` and answers its response type.
//!
//! A call is safe to repeat: reads by nature, changes because each carries an idempotency key (the caller's, or a random one). So a
//! connection that breaks, or a server that restarts, is bridged by repeating for some seconds ([`Limits::retry_for`]); what remains
//! is a [`ClientError`] that says which of server, trust, request and time was the problem.
//!
//! What it refuses: any certificate authority but the one in the [`Context`], proxies and other settings from the environment,
//! redirects, plain HTTP, answers without bound. It knows nothing of the agent's sync protocol, only its [`enrolment`].

mod client;
mod context;
pub mod enrolment;
mod error;
mod events;
mod http;
mod list;
mod log;
mod sse;
mod watch;

pub use client::{CallOptions, Client};
pub use context::{Context, Limits};
pub use error::ClientError;
pub use events::EventReader;
pub use list::PagedQuery;
pub use log::LogFollower;
pub use watch::{JobWatch, LONGEST_WAIT};
