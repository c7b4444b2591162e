//! Runs seeds outside of the tests:
//!
//! ```text
//! cargo run --release -p supernode-sim --example seeds -- 17            one seed, with all that happened
//! cargo run --release -p supernode-sim --example seeds -- 1 100000      many, on all processors
//! cargo run --release -p supernode-sim --example seeds -- 1 100000 --first   until one fails
//! ```
//! Failures are printed with their last events as soon as their block of seeds is done. The exit code is 1 when one failed.

use std::process::ExitCode;

use supernode_sim::{run_seeds, trace_seed};
use supernode_types::Clock;
use supernode_types::time::SystemClock;

/// So many seeds are run before failures are printed.
const BLOCK: u64 = 200;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let first_only = words.pop_if(|word| word == "--first").is_some();
    let numbers: Result<Vec<u64>, _> = words.iter().map(|word| word.parse()).collect();
    match numbers.as_deref() {
        Ok([seed]) => one(*seed),
        Ok([first, count]) => many(*first, *count, first_only),
        _ => {
            eprintln!("give a seed, or the first seed and how many: seeds 1 10000");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64) -> ExitCode {
    match trace_seed(seed) {
        Ok(outcome) => {
            for line in &outcome.trace {
                println!("{line}");
            }
            println!("seed {seed} holds: {} steps", outcome.steps);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(first: u64, count: u64, first_only: bool) -> ExitCode {
    let begun = SystemClock.monotonic();
    let mut failed = 0;
    let step = usize::try_from(BLOCK).expect("a block is small");
    for block in (first..first + count).step_by(step) {
        let summary = run_seeds(block, BLOCK.min(first + count - block));
        for failure in &summary.failures {
            println!("{failure}\n");
        }
        failed += summary.failures.len();
        let took = SystemClock.monotonic().saturating_sub(begun);
        println!(
            "from seed {block}, after {:.1} s: {summary}",
            took.as_secs_f64()
        );
        if first_only && failed > 0 {
            break;
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
