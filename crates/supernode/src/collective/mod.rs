//! `supernode collective`: checks and measures the collectives of this binary on processes of this host. Needs no server.
//!
//! The command starts one process for each rank (this binary again, with the hidden command `rank`) and gives them what `supernode run`
//! gives to the ranks of a job: their places and a key, as environment variables.

mod ranks;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use supernode_cli::Format;
use supernode_collectives::element::Reduction;
use supernode_collectives::group::{Environment, Group};
use supernode_collectives::operator::{Algorithm, Kind};
use supernode_collectives::{drill, measure, trial};

pub(crate) use report::Drill;

/// How long ranks wait for each other.
const WAIT: Duration = Duration::from_mins(1);

/// What `supernode collective` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum CollectiveCommand {
    /// Run every operator on local processes and compare it with a sequential oracle, bit for bit
    Check(CheckArguments),
    /// Measure an operator on local processes: latency, bus bandwidth, reconnections
    Bench(BenchArguments),
    /// Cut real connections in the middle of all-reduces, and see that every bit is right
    Drill(DrillArguments),
    /// One rank of the other commands
    #[command(hide = true)]
    Rank {
        /// What to do, as JSON
        task: String,
    },
}

/// How many processes, and how they talk
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct RankOptions {
    /// How many processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    ranks: u16,
    /// How they talk
    #[arg(long, value_enum, default_value_t = Transport::SharedMemory)]
    transport: Transport,
}

/// What carries the bytes between processes of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Memory that both see
    SharedMemory,
    /// Sockets over loopback
    Tcp,
}

/// What `check` takes
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    options: RankOptions,
    /// Where the random inputs begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What `bench` takes
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    options: RankOptions,
    /// The operator
    #[arg(long, value_enum, default_value_t = OperatorName::AllReduce)]
    operator: OperatorName,
    /// Bytes of the larger buffer; several with commas, `K` and `M` for KiB and MiB
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "4,1K,64K,1M,16M", value_parser = size)]
    sizes: Vec<usize>,
    /// How the bytes travel [default: the usual way for the size]
    #[arg(long, value_enum)]
    algorithm: Option<AlgorithmName>,
    /// Runs of each size [default: 1000 for small sizes, fewer for large ones]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    iterations: Option<u32>,
}

/// What `drill` takes
#[derive(Debug, clap::Args)]
pub(crate) struct DrillArguments {
    /// How many processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=64))]
    ranks: u16,
    /// Bytes of each all-reduce; `K` and `M` for KiB and MiB
    #[arg(long, default_value = "16M", value_parser = size)]
    size: usize,
    /// How many cuts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OperatorName {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
    Reduce,
    AllToAll,
}

impl OperatorName {
    const fn kind(self) -> Kind {
        let reduction = Reduction::Sum;
        match self {
            Self::AllReduce => Kind::AllReduce { reduction },
            Self::ReduceScatter => Kind::ReduceScatter { reduction },
            Self::AllGather => Kind::AllGather,
            Self::Broadcast => Kind::Broadcast { root: 0 },
            Self::Reduce => Kind::Reduce { root: 0, reduction },
            Self::AllToAll => Kind::AllToAll {
                send: Vec::new(),
                receive: Vec::new(),
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AlgorithmName {
    Ring,
    Doubling,
    Tree,
    Chain,
    Direct,
}

impl AlgorithmName {
    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Ring => Algorithm::Ring,
            Self::Doubling => Algorithm::Doubling,
            Self::Tree => Algorithm::Tree,
            Self::Chain => Algorithm::Chain,
            Self::Direct => Algorithm::Direct,
        }
    }
}

/// What a rank is told to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    Drill {
        bytes: usize,
        cuts: u32,
    },
    Check {
        seed: u64,
    },
    Bench {
        operator: OperatorName,
        algorithm: Option<AlgorithmName>,
        /// Bytes and runs.
        sizes: Vec<(usize, usize)>,
    },
}

/// Runs the command.
pub(crate) fn run(command: CollectiveCommand, format: Format) -> anyhow::Result<ExitCode> {
    if let Err(why) = format.of_everything() {
        eprintln!("error: {why}");
        return Ok(ExitCode::from(2));
    }
    match command {
        CollectiveCommand::Check(CheckArguments { options, seed }) => {
            let answers = ranks::run(options, &Task::Check { seed })?;
            report::verdicts(&answers, options.ranks, format)
        }
        CollectiveCommand::Bench(arguments) => {
            let BenchArguments {
                options,
                operator,
                sizes,
                algorithm,
                iterations,
            } = arguments;
            if let Some(algorithm) = algorithm {
                let possible = Algorithm::of(&operator.kind());
                anyhow::ensure!(
                    possible.contains(&algorithm.algorithm()),
                    "the algorithm {} cannot do that; possible: {}",
                    algorithm.algorithm(),
                    possible
                        .iter()
                        .map(Algorithm::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                );
            }
            let runs = |bytes: usize| {
                iterations.map_or_else(|| usual_iterations(bytes), |runs| runs as usize)
            };
            let sizes = sizes
                .into_iter()
                .map(|bytes| (bytes, runs(bytes)))
                .collect();
            let task = Task::Bench {
                operator,
                algorithm,
                sizes,
            };
            let answers = ranks::run(options, &task)?;
            report::measurements(&answers, options.ranks, format)
        }
        CollectiveCommand::Drill(DrillArguments { ranks, size, cuts }) => {
            let transport = Transport::Tcp;
            let task = Task::Drill { bytes: size, cuts };
            let answers = ranks::run(RankOptions { ranks, transport }, &task)?;
            report::drills(&answers, cuts, format)
        }
        CollectiveCommand::Rank { task } => {
            let task =
                serde_json::from_str(&task).context("a rank is started by another command")?;
            let environment = Environment::read(|name| std::env::var(name).ok())?;
            let group = environment.join(WAIT)?;
            rank(&group, &task)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// About 256 MiB of traffic for large sizes.
fn usual_iterations(bytes: usize) -> usize {
    ((256 << 20) / bytes.max(1)).clamp(5, 1000)
}

fn rank(group: &Group, task: &Task) -> anyhow::Result<()> {
    match task {
        Task::Drill { bytes, cuts } => {
            let plan = drill::Plan {
                bytes: *bytes,
                cuts: *cuts,
            };
            let outcome = drill::run(group, &plan)?;
            report::answer(&report::Drill::new(group.rank(), &outcome))?;
        }
        Task::Check { seed } => {
            let trial::Verdict { operators, wrong } = trial::run(group, *seed)?;
            report::answer(&report::Verdict {
                rank: group.rank(),
                operators,
                wrong,
            })?;
        }
        Task::Bench {
            operator,
            algorithm,
            sizes,
        } => {
            for (bytes, iterations) in sizes {
                let plan = measure::Plan {
                    kind: operator.kind(),
                    algorithm: algorithm.map(AlgorithmName::algorithm),
                    bytes: *bytes,
                    iterations: *iterations,
                };
                let found = measure::run(group, &plan)?;
                if group.rank() == 0 {
                    report::answer(&report::Measurement::new(
                        *operator,
                        group.world(),
                        *iterations,
                        &found,
                    ))?;
                }
            }
        }
    }
    Ok(())
}

/// `4`, `64K`, `16M`.
fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text
        .trim()
        .split_at_checked(text.trim().len().saturating_sub(1))
    {
        Some((digits, "K")) => (digits, 1 << 10),
        Some((digits, "M")) => (digits, 1 << 20),
        _ => (text.trim(), 1),
    };
    let number = digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    number
        .filter(|bytes| (4..=1 << 30).contains(bytes))
        .ok_or_else(|| "a size is 4 to 1024M bytes, such as 4, 64K or 16M".to_owned())
}
