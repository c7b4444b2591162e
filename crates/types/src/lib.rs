//! The words of the product as types: ids, names, quantities, states and their transitions, clock and entropy.
//!
//! Every other crate speaks in these types, so a word means the same in the database, on the wire, in the planner and on the
//! screen. Nothing here does I/O; the only two places that touch the machine are [`time::SystemClock`] and [`entropy::SystemEntropy`].

pub mod agent;
pub mod channel;
pub mod disk;
pub mod entropy;
pub mod environment;
pub mod event;
pub mod id;
pub mod inventory;
pub mod job;
pub mod message;
pub mod name;
pub mod node;
pub mod operation;
pub mod retry_policy;
pub mod spec;
pub mod stress;
pub mod super_node;
pub mod time;

pub use entropy::Entropy;
pub use id::{
    AttemptId, CertificateSerial, ChannelId, JobId, JoinTokenId, NodeId, OperationId, ProvisionId,
    SpecId, StressPlanId, SuperNodeId, TokenId,
};
pub use name::Name;
pub use time::{Clock, Timestamp};

/// Counts the versions of a mutable thing; compared before every change, never decreasing.
pub type Generation = i64;
