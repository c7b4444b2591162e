//! Collective communication that survives broken links, with results that are equal to the last bit.
//!
//! ```text
//!   operator, element     what is asked for
//!   schedule              who sends what when: pure, checked mechanically      kernels   combine bytes
//!   engine                one rank's share of all operators      bytes in, bytes out
//!   stream                one directed edge: numbered bytes, acknowledgements, replay window
//!   node, handshake       connections, lanes, failure detection                bytes and time in, bytes out
//!   recovery              what becomes of a lost stream: pure, from what all ranks say
//!   group                 real processes: sockets, shared memory, threads, rendezvous
//! ```
//!
//! A link that breaks in the middle of an operator costs a reconnection: each directed edge is one endless numbered stream that goes on at the
//! right byte, on the same lane or another. Nothing is computed again, and ranks may be in different operators. `schedule` says why that is safe, and
//! proves it for every schedule. Only when bytes are lost for good, the ranks agree to execute operators again; `recovery` says when.
//!
//! Everything in the list above except `group` does no I/O and reads no clock. There is no async runtime, and no knowledge of the control plane.

pub mod c;
pub mod drill;
pub mod element;
pub mod engine;
pub mod failure;
pub mod group;
pub mod handshake;
mod header;
pub mod kernels;
pub mod measure;
pub mod memory;
pub mod node;
pub mod operator;
pub mod oracle;
pub mod recovery;
pub mod schedule;
mod stream;
mod system;
pub mod trial;
