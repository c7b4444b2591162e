//! The queries of the product, on the product's own schema.

mod attempt;
mod audit;
mod certificate;
mod channel;
mod environment;
mod event;
mod idempotency;
mod job;
mod node;
mod operation;
mod provision;
mod retry_evidence;
mod sample;
mod schema;
mod spec;
mod stress;
mod stress_network;
mod super_node;
mod token;
