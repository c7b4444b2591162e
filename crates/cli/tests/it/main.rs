//! The command line as a whole: what it accepts, the context file, and whole commands against a real TLS server.

mod arguments;
mod commands;
mod context_file;
mod manual;
mod process;
#[expect(dead_code, reason = "the client's tests use more of it")]
#[path = "../../../client/tests/it/server.rs"]
mod server;

use clap::{Parser, Subcommand};
use supernode_cli::{Command, EXIT_CODES, Options};

/// The command line as the binary embeds it.
#[derive(Debug, Parser)]
#[command(name = "supernode", version, after_help = EXIT_CODES)]
pub(crate) struct Binary {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Top,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Top {
    /// A command of the binary itself
    Server,
    #[command(flatten)]
    Cli(Command),
}

/// Reads a line as a shell would split it at spaces.
pub(crate) fn parse(line: &str) -> Result<Binary, clap::Error> {
    Binary::try_parse_from(line.split(' '))
}
