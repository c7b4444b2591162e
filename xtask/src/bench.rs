//! `cargo xtask bench`: measures this project beside its peers, on the same machine in the same run, and prints one table.
//!
//! Contenders run one after the other, never at the same time, so that neither pays for the other's idle daemons. Each figure is the
//! median of several runs; configuration and machine are printed with it, because a figure without them says nothing. A suite that
//! fails is shown as failed and makes the exit code 1; the others still run.

mod collectives;
mod machine;
mod ports;
mod report;
mod slurm;
mod stamps;
mod stress;
mod suites;
pub(crate) mod supernode;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace;
use machine::Machine;
use report::{Answer, Report};
use suites::{SUITES, Scale, Suite};

/// One side of the comparison, running. Ends everything it started when dropped.
pub(crate) trait Contender {
    /// What it runs with, as a reader would have to configure it.
    fn configuration(&self) -> String;
    /// One run of one measurement, in the base unit of the suite (seconds, per second, bytes). `None`: it has no such thing.
    fn measure(&mut self, question: suites::Question) -> Result<Option<f64>>;
    /// Waits until nothing runs and every node is free again.
    fn settle(&mut self) -> Result<()>;
}

/// How to get a contender. `Err` of `start` means that it should be there and is not.
struct Entrant {
    name: &'static str,
    /// Why it takes no part today; asked before anything is started.
    absent: fn() -> Result<Option<String>>,
    start: fn(&Options) -> Result<Box<dyn Contender>>,
}

/// The project first: the table's ratio is its advantage over the second.
const ENTRANTS: [Entrant; 2] = [
    Entrant {
        name: supernode::NAME,
        absent: || Ok(None),
        start: |options| {
            let binary = options.binary.as_deref();
            Ok(Box::new(supernode::Supernode::new(options.nodes, binary)?))
        },
    },
    Entrant {
        name: slurm::NAME,
        absent: slurm::absent,
        start: |options| Ok(Box::new(slurm::Slurm::start(options.nodes)?)),
    },
];

#[derive(Debug, PartialEq, Eq)]
struct Options {
    only: Vec<String>,
    contenders: Vec<String>,
    quick: bool,
    nodes: u32,
    trials: Option<u32>,
    /// Measured instead of a fresh build.
    binary: Option<PathBuf>,
    json: Option<PathBuf>,
    list: bool,
}

impl Options {
    fn scale(&self) -> Scale {
        Scale {
            quick: self.quick,
            nodes: self.nodes,
            trials: self.trials,
        }
    }
}

pub(crate) fn main(arguments: &[String]) -> Result<ExitCode> {
    // Their peers are other programs, and their figures are ratios: tables of their own.
    match arguments.split_first() {
        Some((first, rest)) if first == "stress" => return stress::main(rest),
        Some((first, rest)) if first == "collectives" => return collectives::main(rest),
        _ => {}
    }
    let options = parse(arguments)?;
    if options.list {
        for suite in SUITES {
            println!("{:<22} {}", suite.name, suite.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let suites: Vec<&Suite> = SUITES
        .iter()
        .filter(|suite| {
            if options.only.is_empty() {
                suite.runs(options.quick) > 0
            } else {
                options.only.iter().any(|name| suite.is_named(name))
            }
        })
        .collect();
    let mut report = Report::new(Machine::here()?, options.nodes, &suites);
    println!("{}", report.machine());
    // The project's own side runs last: its figures are the ones one waits for at the end of the output.
    for entrant in ENTRANTS.iter().rev() {
        let wanted = options.contenders.is_empty()
            || options.contenders.iter().any(|name| name == entrant.name);
        if !wanted {
            continue;
        }
        if let Some(reason) = (entrant.absent)()? {
            println!("{}: not measured: {reason}", entrant.name);
            continue;
        }
        measure_entrant(entrant, &suites, &options, &mut report);
    }
    report.finish()?;
    println!("\n{}", report.table());
    if let Some(path) = &options.json {
        let path = write_json(path, &report)?;
        println!("written to {}", path.display());
    }
    Ok(if report.has_failures() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Every suite on one contender. After a failure it is started anew, so that one suite cannot spoil the next.
fn measure_entrant(entrant: &Entrant, suites: &[&Suite], options: &Options, report: &mut Report) {
    let mut running: Option<Box<dyn Contender>> = None;
    for suite in suites {
        let start = Instant::now();
        let answer = measure_suite(entrant, suite, options, &mut running, report);
        if let Answer::Failed(_) = answer {
            running = None;
        }
        if !matches!(answer, Answer::Nothing) {
            println!(
                "{:<10} {:<22} {}  [{:.1} s]",
                entrant.name,
                suite.name,
                answer.describe(suite.unit),
                start.elapsed().as_secs_f64()
            );
        }
        report.record(entrant.name, suite, answer);
    }
}

fn measure_suite(
    entrant: &Entrant,
    suite: &Suite,
    options: &Options,
    running: &mut Option<Box<dyn Contender>>,
    report: &mut Report,
) -> Answer {
    let mut measure = || -> Result<Vec<f64>> {
        let contender = if let Some(contender) = running {
            contender
        } else {
            let started = (entrant.start)(options)
                .with_context(|| format!("cannot start {}", entrant.name))?;
            report.configured(entrant.name, &started.configuration());
            running.insert(started)
        };
        let mut figures = Vec::new();
        for _ in 0..suite.runs(options.quick).max(1) {
            match contender.measure(suite.question(options.scale()))? {
                Some(figure) => figures.push(figure),
                None => break,
            }
            contender.settle()?;
        }
        Ok(figures)
    };
    match measure() {
        Ok(figures) if figures.is_empty() => Answer::Nothing,
        Ok(figures) => Answer::Figures(figures),
        Err(error) => Answer::Failed(format!("{error:#}")),
    }
}

/// Relative paths lie under the target directory: a benchmark writes nothing into the repository.
fn write_json(path: &Path, report: &Report) -> Result<PathBuf> {
    let path = workspace::target_directory().join("bench").join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        only: Vec::new(),
        contenders: Vec::new(),
        quick: false,
        nodes: 32,
        trials: None,
        binary: None,
        json: None,
        list: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .cloned()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--quick" => options.quick = true,
            "--list" => options.list = true,
            "--json" => options.json = Some(value()?.into()),
            "--binary" => options.binary = Some(value()?.into()),
            "--nodes" => {
                let text = value()?;
                options.nodes = match text.parse() {
                    Ok(nodes @ 1..=256) => nodes,
                    _ => bail!("--nodes {text}: expected 1 to 256"),
                };
            }
            "--trials" => {
                let text = value()?;
                options.trials = match text.parse() {
                    Ok(trials @ 1..=100_000) => Some(trials),
                    _ => bail!("--trials {text}: expected 1 to 100000"),
                };
            }
            "--only" => {
                let name = value()?;
                if !SUITES.iter().any(|suite| suite.is_named(&name)) {
                    bail!("no suite `{name}`: `cargo xtask bench --list` names them");
                }
                options.only.push(name);
            }
            "--contender" => {
                let name = value()?;
                if !ENTRANTS.iter().any(|entrant| entrant.name == name) {
                    bail!(
                        "no contender `{name}`: known are {}",
                        ENTRANTS.map(|entrant| entrant.name).join(", ")
                    );
                }
                options.contenders.push(name);
            }
            other => bail!("unknown argument `{other}`"),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Options> {
        parse(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn arguments() {
        let options = parse_words(&[
            "--only", "gang-run", "--quick", "--nodes", "4", "--json", "a.json", "--trials", "9",
        ])
        .expect("valid");
        assert_eq!(options.only, ["gang-run"]);
        assert!(options.quick);
        assert_eq!(options.nodes, 4);
        assert_eq!(options.scale().trials, Some(9));
        assert_eq!(options.json, Some("a.json".into()));
        for wrong in [
            &["--only", "magic"][..],
            &["--nodes", "0"],
            &["--nodes", "many"],
            &["--trials", "0"],
            &["--contender", "abacus"],
            &["--json"],
            &["fast"],
        ] {
            assert!(parse_words(wrong).is_err(), "{wrong:?}");
        }
    }
}
