//! The real control plane and the real agent core in one process, with simulated time, network, nodes and operator.
//!
//! A [`World`] takes one event after the other from a queue. What is real: every request, the loop, the planner, the store (`SQLite` in
//! memory), what each node is told, the core of each agent, and the wire types, which go through JSON. What is simulated: clocks, the
//! network, processes that are killed, halted and restarted at any step, disks that are slow or full, supervisors with their programs,
//! environments, and an operator who loses answers and repeats requests. After every step the world checks what must always hold, and
//! some time after the last fault that everything has come to rest.
//!
//! A seed is a whole run. [`run_seed`] answers with everything that is needed to repeat and to read a failure.
//!
//! It refuses to read a clock, to draw from another source of chance than the seed, and to look into the code that it tests.

mod agent;
mod chance;
mod check;
mod client;
mod clock;
mod cloud;
mod event;
mod executor;
mod fault;
mod machine;
mod network;
mod operator;
mod options;
mod ranks;
mod request;
mod scenario;
mod seeds;
mod server;
mod session;
mod story;
mod world;

pub use options::{Defect, FaultKind, Faults, Options};
pub use scenario::{ScenarioError, replay};
pub use seeds::{Summary, run_seeds};
pub use story::{Ending, run_story};
pub use world::{Outcome, Violation, World};

/// A seed under which something does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}\nseed {seed}: {violation}\nrepeat with: SUPERNODE_SIM_SEED={seed} cargo test -p supernode-sim seeds", .violation.trace.join("\n"))]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What does not hold.
    pub violation: Box<Violation>,
}

/// How many lines of what led to a violation are kept.
const TRACE_LINES: usize = 250;

/// Runs the world of a seed. On a violation it is run once more, to write down what led to it.
pub fn run_seed(seed: u64) -> Result<Outcome, Box<Failure>> {
    run_seed_with(seed, Options::of_seed(seed))
}

/// Runs a seed in another world than its own.
pub fn run_seed_with(seed: u64, options: Options) -> Result<Outcome, Box<Failure>> {
    World::new(seed, options.clone()).run().map_err(|first| {
        let again = traced(seed, options, TRACE_LINES);
        again.err().unwrap_or_else(|| {
            let violation = first;
            Box::new(Failure { seed, violation })
        })
    })
}

/// Runs the world of a seed and writes everything down.
pub fn trace_seed(seed: u64) -> Result<Outcome, Box<Failure>> {
    traced(seed, Options::of_seed(seed), usize::MAX)
}

fn traced(seed: u64, options: Options, lines: usize) -> Result<Outcome, Box<Failure>> {
    let outcome = World::new(seed, options).traced(lines).run();
    outcome.map_err(|violation| Box::new(Failure { seed, violation }))
}
