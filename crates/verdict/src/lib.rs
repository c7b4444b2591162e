//! Verdicts: pure functions over stored samples. No clock, no randomness, no machine; the same samples give the same verdict for ever.
//!
//! In this order: may the samples be judged at all ([`validity`]); is something plainly wrong ([`hard`]); is the part worse than its own past ([`history`]), than
//! its peers if it has no past ([`history::accept`]), or slowly getting worse ([`trend`]); and for the network, which of all explanations
//! explains the flows ([`network`]). Nothing bad is said of a part before it was tested again:
//! [`node`] takes everything that one run says of one node together.

pub mod change;
pub mod hard;
pub mod histogram;
pub mod history;
pub mod network;
pub mod node;
pub mod number;
pub mod observation;
pub mod outcome;
pub mod sample;
pub mod statistics;
pub mod trend;
pub mod validity;
