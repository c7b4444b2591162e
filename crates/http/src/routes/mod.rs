//! What the operations of the contract mean: each handler turns wire types into a call of `control` and the result into a view.
//!
//! One file per resource, named as in the contract, in `control` and in the command line. A handler that changes something does it in
//! one transaction with its audit record and its answer ([`Context::change`]).

mod audit;
mod channel;
mod context;
mod disk;
mod environment;
mod event;
mod job;
mod join_token;
mod log;
mod node;
mod operation;
mod retry_policy;
mod secret;
mod spec;
mod stress;
mod stress_plan;
mod super_node;
mod system;
mod token;

pub(crate) use context::failure;
pub use context::{Context, TokenAuthenticator};
pub(crate) use secret::hash_secret;
pub use secret::new_secret;
pub use token::ensure_admin;

use crate::Edge;

/// Mounts every operation of the contract.
#[must_use]
pub fn mount(edge: Edge, context: &Context) -> Edge {
    let edge = system::mount(edge, context);
    let edge = node::mount(edge, context);
    let edge = spec::mount(edge, context);
    let edge = super_node::mount(edge, context);
    let edge = disk::mount(edge, context);
    let edge = stress::mount(edge, context);
    let edge = stress_plan::mount(edge, context);
    let edge = channel::mount(edge, context);
    let edge = environment::mount(edge, context);
    let edge = retry_policy::mount(edge, context);
    let edge = job::mount(edge, context);
    let edge = operation::mount(edge, context);
    let edge = event::mount(edge, context);
    let edge = audit::mount(edge, context);
    let edge = token::mount(edge, context);
    join_token::mount(edge, context)
}
