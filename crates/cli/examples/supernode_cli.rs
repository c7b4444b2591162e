//! The command line alone, without server and agent: what the tests start as a process.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use supernode_cli::{Command, EXIT_CODES, Options};

#[derive(Debug, Parser)]
#[command(name = "supernode", version, after_help = EXIT_CODES)]
struct Binary {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Binary { options, command } = Binary::parse();
    supernode_cli::run_blocking(command, &options, Binary::command)
}
