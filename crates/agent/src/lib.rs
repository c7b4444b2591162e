//! The node agent: what runs on every node and does there what the control plane decided.
//!
//! [`core`] decides, without input or output; [`executor`] does it with [`ranks`], [`environment`] and [`disk`]; `session` talks to the
//! server; [`service`] puts them together. [`supervisor`] is a program of its own, one process for each rank, which outlives the agent.

pub mod core;
pub mod disk;
pub mod environment;
pub mod executor;
pub mod files;
pub mod identity;
pub mod ledger;
pub mod options;
pub mod ranks;
pub mod service;
mod session;
pub mod stress;
pub mod supervisor;
