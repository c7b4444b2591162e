//! The control plane: requests become intent, one loop makes observed state follow it.
//!
//! A request ([`Control::change`]) validates, writes intent, audit and answer in one transaction and wakes the loop. The loop
//! ([`service`]) reads a snapshot, asks the pure planner what to do and applies it, in one write transaction too ([`round`]). What
//! lies outside the database (provisioners, agents) is told afterwards, level-triggered: losing a message costs time, never truth.
//!
//! This crate knows neither HTTP nor SQL. It refuses to keep state in memory that matters: only when each node was heard of last
//! ([`hub`]), and after a restart every node counts as heard of just now.

mod agent;
pub mod channel;
mod control;
pub mod delivery;
mod desired;
pub mod disk_expand;
mod enrolment;
pub mod environment;
pub mod hub;
mod intent;
pub mod job;
pub mod metrics;
pub mod node;
pub mod node_replace;
mod notify;
pub mod operation;
pub mod provisioner;
pub mod query;
mod rank_table;
mod refusal;
mod retry_evidence;
pub mod retry_policy;
mod round;
pub mod scale_down;
pub mod scale_up;
pub mod service;
mod settings;
mod snapshot;
pub mod spec;
mod stress_judge;
pub mod stress_network;
mod stress_pair_judge;
pub mod stress_plan;
pub mod stress_run;
pub mod super_node;
pub mod token;

pub use agent::{SyncOutcome, sync};
pub use control::{ChangeRequest, Control, IdempotencyKey};
pub use desired::desired;
pub use enrolment::{Enrolment, check_certificate, enrol, renew};
pub use intent::Intent;
pub use refusal::Refusal;
pub use round::{Changed, reconcile};
pub use settings::Settings;
pub use supernode_store::{Store, StoreError, Tx};
