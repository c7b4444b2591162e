//! The only crate that knows SQL: SQLite and PostgreSQL behind one driver.
//!
//! [`db`] is the driver (one SQL text for both engines, transactions as closures, group commit); [`migrations`] is the
//! schema; every other module holds the queries of one resource as plain functions over [`Tx`]. Nothing here decides
//! anything: what may happen is decided by the callers, inside the same transaction.

pub mod db;
pub mod migrations;
pub mod testing;

// ---- resources: one module per resource, in alphabetical order; each is a list of `noun_verb` functions over `&mut Tx`

pub mod attempt;
pub mod audit;
pub mod certificate;
pub mod channel;
pub mod environment;
pub mod event;
pub mod idempotency;
pub mod job;
pub mod message;
pub mod node;
pub mod operation;
pub mod provision;
mod record;
pub mod retry_evidence;
mod sequence;
pub mod spec;
pub mod stress;
pub mod stress_network;
pub mod stress_plan;
pub mod super_node;
pub mod token;
pub mod told;

// ---- end of resources

pub use db::{
    CheckReport, ConflictKind, DatabaseUrl, DatabaseUrlError, FromValue, Migration, Options, Row,
    Sharing, Store, StoreError, StoreMetrics, Tx, Value,
};
