//! Random worlds. `SUPERNODE_SIM_SEED` repeats one, `SUPERNODE_SIM_SEEDS` says how many, `SUPERNODE_SIM_FIRST` where to begin.

use supernode_sim::{run_seed, run_seeds};

/// How many seeds are run when nobody says.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, which is not a number")))
}

#[test]
fn seeds_hold_what_is_promised() {
    if let Some(seed) = number("SUPERNODE_SIM_SEED") {
        let outcome = run_seed(seed).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {outcome:?}");
        return;
    }
    let (first, count) = (number("SUPERNODE_SIM_FIRST").unwrap_or(1), number("SUPERNODE_SIM_SEEDS").unwrap_or(SEEDS));
    let summary = run_seeds(first, count);
    println!("{summary}");
    for failure in summary.failures.iter().skip(1) {
        println!("also seed {}: {}", failure.seed, failure.violation);
    }
    if let Some(first) = summary.failures.first() {
        panic!("{first}\n\n{summary}");
    }
}

#[test]
fn a_seed_is_a_whole_run() {
    let outcomes: Vec<_> = (0..2).map(|_| run_seed(7)).collect();
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(outcomes[0].as_ref().is_ok_and(|outcome| outcome.steps > 100), "{outcomes:?}");
}
