//! The node agent: what runs on every node and does there what the control plane decided.

pub mod environment;
pub mod files;
pub mod ranks;
pub mod supervisor;
