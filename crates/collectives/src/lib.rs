//! Collective communication that survives broken links, with results that are equal to the last bit.
pub mod element;
pub mod kernels;
pub mod operator;
pub mod schedule;
