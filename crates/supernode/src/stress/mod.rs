//! `supernode stress local`: tests this host without a server, and says what was measured, what may have disturbed it, and what could not
//! run. It judges only what needs no history: wrong results and errors. And the hidden command that is one kernel.

mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use supernode_cli::Format;
use supernode_probe::stress::child::Launcher;
use supernode_probe::stress::report::{self, Report};
use supernode_probe::stress::sample::Ended;
use supernode_probe::stress::suite::{self, Item, Parts, Tier};
use supernode_probe::stress::vendor::{self, VendorResult};
use supernode_types::Clock as _;
use supernode_types::time::SystemClock;

/// The sub-command by which a kernel's child process is started.
pub(crate) const KERNEL: &str = "stress-kernel";

/// Test hardware
#[derive(Debug, Subcommand)]
pub(crate) enum StressCommand {
    /// Test this host, without a server
    Local(LocalArguments),
    #[command(flatten)]
    Nodes(supernode_cli::StressCommand),
}

/// What to test on this host.
#[derive(Debug, Args)]
pub(crate) struct LocalArguments {
    /// Components to test: compute, memory, links, storage
    #[arg(long, value_name = "ITEM,…", value_delimiter = ',', default_values = ["compute", "memory", "links", "storage"], value_parser = own_item)]
    items: Vec<Item>,
    /// How much: quick takes up to two minutes, standard up to twenty, deep hours
    #[arg(long, value_enum, default_value_t = TierName::Quick)]
    tier: TierName,
    /// A directory on each disk to test; at most a hundredth of its free space is used for a while
    #[arg(long = "directory", value_name = "DIR", default_value = "/var/tmp")]
    directories: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TierName {
    Quick,
    Standard,
    Deep,
}

/// One host has no partner to test the network with.
fn own_item(text: &str) -> Result<Item, String> {
    let known = |item: &Item| Item::OF_ONE_NODE.contains(item);
    text.parse().ok().filter(known).ok_or_else(|| {
        let names = Item::OF_ONE_NODE.map(Item::name).join(", ");
        format!("`{text}` is nothing that one host tests by itself; known are {names}; for the network, use `supernode stress run`")
    })
}

pub(crate) fn run(arguments: &LocalArguments, format: Format) -> anyhow::Result<ExitCode> {
    if format == Format::SuperbenchJsonl {
        eprintln!(
            "error: this format is for `supernode stress report`; use --output table, json or html"
        );
        return Ok(ExitCode::from(supernode_cli::Exit::USAGE.0));
    }
    let told = interrupts()?;
    let report = test(arguments, &told)?;
    let text = match format {
        Format::Table | Format::SuperbenchJsonl => table::table(&report),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Html => report::html(&report),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(error).context("the result cannot be written");
        }
        _ => {}
    }
    Ok(if told.load(Ordering::Relaxed) {
        ExitCode::from(supernode_cli::Exit::INTERRUPTED.0)
    } else if failed(&report) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Whether something is plainly wrong. What could not run is not.
fn failed(report: &Report) -> bool {
    let by_tool = report.vendor.iter().any(|answer| match &answer.result {
        VendorResult::Checks(checks) => checks
            .iter()
            .any(|check| check.state == vendor::CheckState::Fail),
        VendorResult::NotPresent | VendorResult::CouldNotRun(_) => false,
    });
    by_tool
        || report
            .records
            .iter()
            .any(|record| !record.failures.is_empty())
}

fn test(arguments: &LocalArguments, told: &Arc<AtomicBool>) -> anyhow::Result<Report> {
    let launcher = Launcher {
        program: std::env::current_exe().context("this program cannot be found")?,
        arguments: vec![KERNEL.to_owned()],
    };
    let tier = match arguments.tier {
        TierName::Quick => Tier::Quick,
        TierName::Standard => Tier::Standard,
        TierName::Deep => Tier::Deep,
    };
    let root = Path::new("/");
    let begun = SystemClock.now();
    let mut records = Vec::new();
    let parts = Parts::of_this_machine(arguments.directories.clone());
    for step in suite::steps(&arguments.items, tier, &parts) {
        eprintln!(
            "testing {}: {} ({} s)",
            step.item.name(),
            step.name,
            step.seconds()
        );
        let record = suite::run(&launcher, step, root, &SystemClock, || {
            told.load(Ordering::Relaxed)
        });
        let stopped = matches!(record.outcome.ended, Ended::Incomplete(_));
        records.push(record);
        if stopped && told.load(Ordering::Relaxed) {
            break;
        }
    }
    let mut answers = Vec::new();
    for command in vendor::quick_checks() {
        if !told.load(Ordering::Relaxed) {
            answers.push(vendor::run(&command));
        }
    }
    Ok(Report {
        host: std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        begun,
        tier,
        records,
        vendor: answers,
    })
}

/// Ctrl-C ends the test in good order: the kernel stops, and what was measured is shown.
fn interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let heard = Arc::clone(&told);
    std::thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                heard.store(true, Ordering::Relaxed);
                eprintln!("stopping");
            }
        });
    });
    Ok(told)
}
