//! Runs many seeds on all processors: `cargo run --release -p supernode-sim --example long_run -- FIRST COUNT`.
//!
//! Prints each failure with its last events as soon as its block of seeds is done, and in the end what the seeds were like. The exit
//! code is 1 when one failed.

use std::process::ExitCode;

use supernode_sim::run_seeds;
use supernode_types::Clock;
use supernode_types::time::SystemClock;

/// So many seeds are run before failures are printed.
const BLOCK: u64 = 1000;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        eprintln!("give the first seed and how many: long_run 1 10000");
        return ExitCode::from(2);
    };
    let begun = SystemClock.monotonic();
    let mut failed = 0;
    for block in (first..first + count).step_by(1000) {
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
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
