//! Stress testing of one node: kernels that make load and yield raw samples, what the machine says by itself meanwhile, drivers of
//! vendor tools, and pure functions that judge what was stored.
//!
//! Measuring and judging are apart. A kernel never says good or bad; a verdict never reads the machine. So a verdict can be taken
//! again from what was stored, and says the same. What could not run is neither a pass nor a failure ([`sample::Ended`]).
//!
//! Kernels run as child processes ([`child`], [`kernel`]), stop when told, and need no software on the host.

mod aligned;
pub mod child;
pub mod compute;
pub mod context;
pub mod evidence;
pub mod fault;
pub mod kernel;
pub mod link;
pub mod memory;
pub mod network;
pub mod nvidia;
pub mod passive;
pub(crate) mod processor;
pub mod report;
mod series;
pub mod storage;
pub mod suite;
pub mod vendor;

pub use supernode_verdict as verdict;
pub use supernode_verdict::{histogram, sample};

pub(crate) use supernode_verdict::number;
