//! Load on a server, for benchmarks: many submits at once, and thousands of simulated agents in one process.
//!
//! A package of its own beside `xtask`: it speaks the product's protocols and so needs its libraries, while `cargo xtask` itself is to
//! compile in seconds on a clean machine. It starts no server and ends none; `xtask` does. Answers go to standard output as one JSON
//! object per line. The server comes from `SUPERNODE_SERVER`, `SUPERNODE_TOKEN` and `SUPERNODE_CA_FILE`, as for the command line.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures real time; nothing here is simulated but the agents"
)]

mod agents;
mod enrolment;
mod gang;
mod latency;
mod messages;
mod submit;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use supernode_client::Context;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Submit jobs over many connections, wait for every answer, and cancel them
    Submit(submit::SubmitArguments),
    /// Submit one job and wait until all its ranks were reported running
    Gang(gang::GangArguments),
    /// Be many agents until standard input closes
    Agents(agents::AgentsArguments),
}

fn main() -> ExitCode {
    // Fails only when a provider is installed already, which serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = run(Arguments::parse().command);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match command {
        Command::Submit(arguments) => runtime.block_on(submit::run(arguments)),
        Command::Gang(arguments) => runtime.block_on(gang::run(arguments)),
        Command::Agents(arguments) => runtime.block_on(agents::run(arguments)),
    }
}

/// The server and the right to use it, from the environment.
fn context() -> Result<Context> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let ca_file = variable("SUPERNODE_CA_FILE")?;
    Ok(Context {
        server: variable("SUPERNODE_SERVER")?,
        token: variable("SUPERNODE_TOKEN")?,
        ca: std::fs::read_to_string(&ca_file).with_context(|| format!("cannot read {ca_file}"))?,
    })
}

/// One line of the answer.
fn say(value: &serde_json::Value) {
    println!("{value}");
}
