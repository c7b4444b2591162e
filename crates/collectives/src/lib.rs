//! Collective communication that survives broken links, with results that are equal to the last bit.
pub mod element;
pub mod engine;
pub mod failure;
mod header;
pub mod kernels;
pub mod memory;
pub mod operator;
pub mod oracle;
pub mod schedule;
mod stream;
