//! `cargo xtask ci`: every check of the repository, in order, on a laptop and on the build server alike. Stops at the first failure
//! and says how to repeat just that step. Never reads standard input; with `CI` set the lock file may not change either.

pub(crate) mod generated;
pub(crate) mod python;
pub(crate) mod setup;
mod suites;
mod virtual_machine;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bench::supernode::{Trials, run_trials};
use crate::metadata::cargo;
use crate::processes::{describe, wait_within};
use crate::{tidy, workspace};

/// How a step that did not fail ended.
pub(crate) enum Outcome {
    Passed,
    /// Passed, with something worth a line.
    Note(String),
    /// Only a person can go on; the line says how. Exit code 2.
    NeedsPerson(String),
}

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> Result<Outcome>,
}

const STEPS: &[Step] = &[
    Step {
        name: "setup",
        about: "what the tests need from the system",
        run: setup::run,
    },
    Step {
        name: "format",
        about: "cargo fmt --all --check",
        run: format,
    },
    Step {
        name: "tidy",
        about: "imports, headers, sizes, licences, links",
        run: tidy_step,
    },
    Step {
        name: "build",
        about: "every crate, every target; warnings of rustc and clippy are errors",
        run: build,
    },
    Step {
        name: "test",
        about: "every test of every crate and example",
        run: suites::run,
    },
    Step {
        name: "generated",
        about: "generated files are up to date",
        run: generated::check_all,
    },
    Step {
        name: "acknowledged",
        about: "kill -9 of the server just after acknowledged changes",
        run: acknowledged,
    },
    Step {
        name: "demo",
        about: "the demo, with the binary of the build step",
        run: demo,
    },
];

/// Steps that take too long for every change: they run when they are named.
const LONG_STEPS: &[Step] = &[
    Step {
        name: "vm-matrix",
        about: "power cuts at every step of growing every layout of a system disk, in virtual machines",
        run: vm_matrix,
    },
    Step {
        name: "outages",
        about: "training in PyTorch while no link works for a minute",
        run: outages,
    },
];

pub(crate) fn main(arguments: &[String]) -> Result<ExitCode> {
    let all = || STEPS.iter().chain(LONG_STEPS);
    let mut only: Vec<&str> = Vec::new();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--list" => {
                for step in STEPS {
                    println!("{:<10} {}", step.name, step.about);
                }
                for step in LONG_STEPS {
                    println!("{:<10} {} (only when named)", step.name, step.about);
                }
                return Ok(ExitCode::SUCCESS);
            }
            "--only" => match words.next() {
                Some(name) if all().any(|step| step.name == name) => only.push(name),
                Some(name) => bail!("no step `{name}`: `cargo xtask ci --list` names them"),
                None => bail!("--only needs the name of a step"),
            },
            other => bail!("unknown argument `{other}`: --only STEP and --list are known"),
        }
    }
    let steps: Vec<&Step> = if only.is_empty() {
        STEPS.iter().collect()
    } else {
        all().filter(|step| only.contains(&step.name)).collect()
    };
    Ok(run_steps(&steps))
}

fn run_steps(steps: &[&Step]) -> ExitCode {
    let mut summary = Vec::new();
    let mut failed = None;
    for step in steps {
        println!("==> {}: {}", step.name, step.about);
        let start = Instant::now();
        let result = (step.run)();
        let seconds = start.elapsed().as_secs_f64();
        let (word, code) = match &result {
            Ok(Outcome::Passed) => ("passed", None),
            Ok(Outcome::Note(note)) => {
                println!("{note}");
                ("passed", None)
            }
            Ok(Outcome::NeedsPerson(line)) => {
                println!("{line}");
                ("failed", Some(2))
            }
            Err(error) => {
                println!("{error:#}");
                ("failed", Some(1))
            }
        };
        println!("<== {} {word} in {seconds:.1} s", step.name);
        summary.push((step.name, word, seconds));
        if let Some(code) = code {
            failed = Some((step.name, code));
            break;
        }
    }
    println!("\n{:<10} {:<7} {:>8}", "step", "result", "seconds");
    for (name, word, seconds) in &summary {
        println!("{name:<10} {word:<7} {seconds:>8.1}");
    }
    let failures = usize::from(failed.is_some());
    if let Some((name, _)) = failed {
        println!("repeat with: cargo xtask ci --only {name}");
    }
    println!("{} passed, {failures} failed", summary.len() - failures);
    failed.map_or(ExitCode::SUCCESS, |(_, code)| ExitCode::from(code))
}

/// Runs a command with the terminal's output, calm and bounded.
fn run_command(mut command: Command, deadline: Duration) -> Result<Outcome> {
    let name = describe(&command);
    println!("    {name}");
    let mut child = command.spawn()?;
    let status = wait_within(&mut child, &name, deadline)?;
    if !status.success() {
        bail!("failed ({status}); repeat with: {name}");
    }
    Ok(Outcome::Passed)
}

const fn minutes(count: u64) -> Duration {
    Duration::from_mins(count)
}

const BUILD_LIMIT: Duration = minutes(30);

/// A cargo command for a step: no progress bars, colours only as asked for, and with `CI` set an unchanged lock file.
fn cargo_step(arguments: &[&str]) -> Command {
    let mut command = cargo();
    let (before, after) = arguments
        .iter()
        .position(|argument| *argument == "--")
        .map_or((arguments, &[][..]), |position| {
            arguments.split_at(position)
        });
    command.args(before);
    if is_ci() && before.first() != Some(&"fmt") {
        command.arg("--locked");
    }
    command
        .args(after)
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .env("RUST_BACKTRACE", "1");
    if is_ci() && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "never");
    }
    if is_ci() {
        // A checkout that is built once has no use for the first two, and takes less of the processors in a few large parts.
        command
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "none")
            .env("CARGO_PROFILE_DEV_CODEGEN_UNITS", "4");
    }
    // One compilation for lints and for programs, as `cargo clippy` would do it for lints alone; two take half as long again.
    command.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver").env(
        "CLIPPY_ARGS",
        "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
    );
    command
}

fn is_ci() -> bool {
    std::env::var_os("CI")
        .is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

fn format() -> Result<Outcome> {
    run_command(cargo_step(&["fmt", "--all", "--check"]), minutes(2))
}

fn tidy_step() -> Result<Outcome> {
    let problems = tidy::check_repository()?;
    for problem in &problems {
        println!("{}: {}", problem.place, problem.message);
    }
    if problems.is_empty() {
        Ok(Outcome::Passed)
    } else {
        bail!("{} problems", problems.len())
    }
}

/// Builds everything that any step runs. With `CI` set, tests that do not compute themselves are not optimized.
fn build_command() -> Command {
    // Not `--all-targets`: that would build tests for libraries that have none, too.
    let targets = ["--lib", "--bins", "--tests", "--examples"];
    let mut command = cargo_step(&[&["build", "--workspace"][..], &targets].concat());
    if is_ci() {
        let level = |of: &str, level: u8| format!("profile.test.{of}opt-level={level}");
        command.args(["--config", &level("", 0)]);
        for package in ["collectives", "probe", "verdict"] {
            let of = format!("package.supernode-{package}.");
            command.args(["--config", &level(&of, 1)]);
        }
    }
    command
}

fn build() -> Result<Outcome> {
    run_command(build_command(), BUILD_LIMIT)
}

/// Its tests are in the ordinary binary of tests in virtual machines, and ignored there.
fn vm_matrix() -> Result<Outcome> {
    let arguments = ["test", "--workspace", "--test", "virtual_machine"];
    let ignored = ["--", "--ignored", "--nocapture", "--test-threads=2"];
    run_command(
        cargo_step(&[&arguments[..], &ignored].concat()),
        minutes(90),
    )
}

/// Its tests are in the ordinary binary of end-to-end tests, and ignored there.
fn outages() -> Result<Outcome> {
    let arguments = ["test", "--workspace", "--test", "it", "outage::"];
    let ignored = ["--", "--ignored", "--nocapture", "--test-threads=1"];
    run_command(
        cargo_step(&[&arguments[..], &ignored].concat()),
        minutes(20),
    )
}

/// A short form of the benchmark's trial, with the binary that the step `build` made.
fn acknowledged() -> Result<Outcome> {
    match run_trials(&built_binary()?, &Trials::short(10))? {
        0 => Ok(Outcome::Passed),
        lost => bail!("{lost} acknowledged changes were lost"),
    }
}

/// The same story as `cargo run --release -- demo`, without the ten minutes of a release build.
fn demo() -> Result<Outcome> {
    let mut command = Command::new(built_binary()?);
    command.arg("demo");
    run_command(command, minutes(5))
}

/// The product as the build step made it. The whole workspace: building one package alone would choose other features and compile
/// everything again.
fn built_binary() -> Result<PathBuf> {
    build()?;
    Ok(workspace::target_directory().join("debug/supernode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(run: fn() -> Result<Outcome>) -> Step {
        Step {
            name: "name",
            about: "about",
            run,
        }
    }

    #[test]
    fn first_failure_stops_with_its_exit_code() {
        let code = |runs: &[fn() -> Result<Outcome>]| {
            let steps: Vec<Step> = runs.iter().map(|run| step(*run)).collect();
            format!("{:?}", run_steps(&steps.iter().collect::<Vec<_>>()))
        };
        let passing = || Ok(Outcome::Passed);
        let failing = || bail!("broken");
        let waiting = || Ok(Outcome::NeedsPerson("sudo something".to_owned()));
        let forbidden = || panic!("a step ran after a failure");
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(&[passing, passing]), expected(0));
        assert_eq!(code(&[passing, failing, forbidden]), expected(1));
        assert_eq!(code(&[waiting, forbidden]), expected(2));
    }

    #[test]
    fn unknown_steps_and_arguments_are_refused() {
        for arguments in [&["--only", "magic"][..], &["--only"], &["--fast"]] {
            let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
            assert!(main(&arguments).is_err(), "{arguments:?}");
        }
    }
}
