//! What ranks say to the command that started them (a line of JSON each), and how it looks.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use supernode_cli::Format;
use supernode_collectives::{drill, measure};

use super::OperatorName;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) rank: usize,
    pub(super) operators: usize,
    pub(super) wrong: Vec<String>,
}

/// What a rank of a drill saw.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Drill {
    pub(crate) rank: usize,
    pub(crate) rounds: u32,
    pub(crate) wrong: u32,
    /// In the middle of an operator, by whichever rank.
    pub(crate) cuts: u32,
    pub(crate) resumed: u64,
    pub(crate) resent_bytes: u64,
    pub(crate) longest_recovery_microseconds: u64,
}

impl Drill {
    pub(super) fn new(rank: usize, outcome: &drill::Outcome) -> Self {
        Self {
            rank,
            rounds: outcome.rounds,
            wrong: outcome.wrong,
            cuts: outcome.cuts,
            resumed: outcome.resumed,
            resent_bytes: outcome.resent_bytes,
            longest_recovery_microseconds: u64::try_from(outcome.longest_recovery.as_micros())
                .unwrap_or(u64::MAX),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measurement {
    operator: OperatorName,
    ranks: usize,
    bytes: usize,
    algorithm: String,
    iterations: usize,
    median_microseconds: f64,
    p90_microseconds: f64,
    p99_microseconds: f64,
    bus_bandwidth_gbytes_per_second: f64,
    /// Streams that went on over a new connection, on rank 0.
    resumed: u64,
}

impl Measurement {
    pub(super) fn new(
        operator: OperatorName,
        ranks: usize,
        iterations: usize,
        found: &measure::Measurement,
    ) -> Self {
        let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6;
        Self {
            operator,
            ranks,
            bytes: found.bytes,
            algorithm: found.algorithm.to_string(),
            iterations,
            median_microseconds: micros(found.median),
            p90_microseconds: micros(found.p90),
            p99_microseconds: micros(found.p99),
            bus_bandwidth_gbytes_per_second: found.bus_bytes_per_second / 1e9,
            resumed: found.resumed,
        }
    }
}

/// A rank says something.
pub(super) fn answer(answer: &impl Serialize) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(answer)?)?;
    Ok(())
}

fn parse<T: DeserializeOwned>(answers: &[String]) -> anyhow::Result<Vec<T>> {
    let lines = answers.iter().flat_map(|answer| answer.lines());
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("a rank said `{line}`")))
        .collect()
}

pub(super) fn verdicts(answers: &[String], ranks: u16, format: Format) -> anyhow::Result<ExitCode> {
    let verdicts: Vec<Verdict> = parse(answers)?;
    anyhow::ensure!(verdicts.len() == usize::from(ranks), "a rank said nothing");
    let is_right = verdicts.iter().all(|verdict| verdict.wrong.is_empty());
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&verdicts)?);
    } else {
        for Verdict { rank, wrong, .. } in &verdicts {
            for operator in wrong {
                println!("rank {rank}: {operator} has other bits than the oracle");
            }
        }
        let operators = verdicts.iter().map(|verdict| verdict.operators).min();
        if is_right {
            let operators = operators.unwrap_or(0);
            println!("{operators} operators on {ranks} ranks: every bit as the oracle says");
        }
    }
    Ok(if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) fn drills(answers: &[String], cuts: u32, format: Format) -> anyhow::Result<ExitCode> {
    let drills: Vec<Drill> = parse(answers)?;
    let found = drills.iter().map(|drill| drill.cuts).min().unwrap_or(0);
    anyhow::ensure!(
        found >= cuts,
        "only {found} of {cuts} cuts fell into an operator; take a larger --size"
    );
    let is_right = drills.iter().all(|drill| drill.wrong == 0);
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&drills)?);
    } else {
        println!(
            "{:>6} {:>8} {:>6} {:>8} {:>14} {:>20} {:>6}",
            "rank", "rounds", "cuts", "resumed", "resent bytes", "longest recovery us", "wrong"
        );
        for one in &drills {
            println!(
                "{:>6} {:>8} {:>6} {:>8} {:>14} {:>20} {:>6}",
                one.rank,
                one.rounds,
                one.cuts,
                one.resumed,
                one.resent_bytes,
                one.longest_recovery_microseconds,
                one.wrong
            );
        }
    }
    Ok(if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) fn measurements(
    answers: &[String],
    ranks: u16,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let measurements: Vec<Measurement> = parse(answers)?;
    anyhow::ensure!(
        !measurements.is_empty(),
        "no rank of {ranks} measured anything"
    );
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&measurements)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:>12} {:>6} {:>10} {:>12} {:>12} {:>12} {:>12} {:>8}",
        "bytes", "ranks", "algorithm", "median us", "p90 us", "p99 us", "bus GB/s", "resumed"
    );
    for one in &measurements {
        println!(
            "{:>12} {:>6} {:>10} {:>12.1} {:>12.1} {:>12.1} {:>12.3} {:>8}",
            one.bytes,
            one.ranks,
            one.algorithm,
            one.median_microseconds,
            one.p90_microseconds,
            one.p99_microseconds,
            one.bus_bandwidth_gbytes_per_second,
            one.resumed
        );
    }
    Ok(ExitCode::SUCCESS)
}
