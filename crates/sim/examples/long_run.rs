//! Runs many seeds on all processors: `cargo run --release -p supernode-sim --example long_run -- FIRST COUNT`.
//!
//! Prints each failure with its last events, and in the end how many seeds passed and what they were like. The exit code is 1 when
//! one failed.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use supernode_sim::{Outcome, run_seed};
use supernode_types::Clock;
use supernode_types::time::SystemClock;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        eprintln!("give the first seed and how many: long_run 1 10000");
        return ExitCode::from(2);
    };
    let begun = SystemClock.monotonic();
    let next = AtomicU64::new(first);
    let failures = AtomicU64::new(0);
    let sum = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return;
                }
                match run_seed(seed) {
                    Ok(outcome) => add(&mut sum.lock().expect("no holder of this lock panics"), outcome),
                    Err(failure) => {
                        failures.fetch_add(1, Ordering::Relaxed);
                        println!("{failure}\n");
                    }
                }
            });
        }
    });
    let took = SystemClock.monotonic().saturating_sub(begun);
    let failed = failures.load(Ordering::Relaxed);
    let sum = sum.lock().expect("no holder of this lock panics");
    let passed = (count - failed).max(1);
    println!(
        "{} seeds in {:.1} s, {failed} failed; a seed has {} steps, {} s, {} accepted requests, {} jobs, {} server processes",
        count,
        took.as_secs_f64(),
        sum.steps / passed,
        sum.time.as_secs() / passed,
        sum.accepted as u64 / passed,
        sum.jobs as u64 / passed,
        sum.server_processes / passed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(sum: &mut Outcome, one: Outcome) {
    sum.steps += one.steps;
    sum.time += one.time;
    sum.accepted += one.accepted;
    sum.jobs += one.jobs;
    sum.server_processes += one.server_processes;
}
