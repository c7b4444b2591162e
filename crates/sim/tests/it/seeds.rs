//! Random worlds. `SUPERNODE_SIM_SEED` repeats one, `SUPERNODE_SIM_SEEDS` says how many, `SUPERNODE_SIM_FIRST` where to begin.

use std::io::Write;

use supernode_sim::{run_seed, run_seeds};

/// What has to happen somewhere in a hundred seeds.
const REACHED: [&str; 16] = [
    "job.cancelled",
    "job.failed",
    "job.node_lost",
    "job.requeued",
    "job.succeeded",
    "job.timed_out",
    "node.degraded",
    "node.left",
    "node.lost",
    "node.removed",
    "node.restarted",
    "node.returned",
    "operation.cancelled",
    "operation.failed",
    "operation.succeeded",
    "super_node.deleted",
];
/// How many seeds are run when nobody says.
const SEEDS: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is `{text}`, which is not a number")),
    )
}

#[test]
fn seeds_hold_what_is_promised() {
    if let Some(seed) = number("SUPERNODE_SIM_SEED") {
        let outcome = run_seed(seed).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {outcome:?}");
        return;
    }
    let (first, count) = (
        number("SUPERNODE_SIM_FIRST").unwrap_or(1),
        number("SUPERNODE_SIM_SEEDS").unwrap_or(SEEDS),
    );
    let summary = run_seeds(first, count);
    // Past the capture of the test harness: a run should say what it tried.
    let line = format!(
        "{}\none of them again: SUPERNODE_SIM_SEED={first} cargo test -p supernode-sim seeds\n",
        summary.line()
    );
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("the standard error is open");
    println!("{summary}");
    for failure in summary.failures.iter().skip(1) {
        println!("also seed {}: {}", failure.seed, failure.violation);
    }
    if let Some(first) = summary.failures.first() {
        panic!("{first}\n\n{summary}");
    }
    // A simulation that never gets to the hard cases proves nothing.
    let missing: Vec<_> = REACHED
        .iter()
        .filter(|kind| !summary.sum.events.contains_key(**kind))
        .collect();
    assert!(
        count < 100 || missing.is_empty(),
        "nothing of this happened in {count} seeds: {missing:?}"
    );
}

#[test]
fn a_seed_is_a_whole_run() {
    let outcomes: Vec<_> = (0..2).map(|_| run_seed(7)).collect();
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(
        outcomes[0]
            .as_ref()
            .is_ok_and(|outcome| outcome.steps > 100),
        "{outcomes:?}"
    );
}
