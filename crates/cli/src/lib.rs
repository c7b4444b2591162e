//! The command line: commands over the contract, and how their results look.
//!
//! The binary embeds [`Command`] and [`Options`] in its own parser, adds the commands that are not calls (`server`, `agent`, `dev`,
//! `demo`) and hands the rest to [`run_blocking`]. One file per resource. Results go to standard output, as a table or as the API's
//! own JSON; progress, hints and errors go to standard error. A closed pipe ends a command quietly.
//!
//! What it refuses: to guess (a missing context is an error that says how to get one), to print control characters that came from
//! elsewhere, and to hold a thread pool: one thread is enough for a terminal, and starting is instant.

mod audit;
mod change;
mod channel;
pub mod context;
mod context_command;
mod disk;
mod doctor;
mod document;
mod environment;
mod event;
mod failure;
mod job;
mod join_token;
mod log_output;
mod manual;
mod node;
mod operation;
mod output;
mod progress;
mod retry_policy;
mod run;
#[cfg(test)]
mod sample;
mod session;
mod spec;
mod stress;
mod stress_plan;
mod super_node;
mod token;

pub use failure::{EXIT_CODES, Exit};
pub use output::Format;
pub use stress::StressCommand;

use std::process::ExitCode;

use crate::session::Session;

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Use this context of the context file, whatever the environment says
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Options of every command"
    )]
    pub context: Option<String>,
    /// How results look
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table, help_heading = "Options of every command")]
    pub output: Format,
}

/// The commands that are calls to a server, and those that help using them.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Servers that run an agent
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Declared hardware specifications
    #[command(subcommand)]
    Spec(spec::SpecCommand),
    /// Groups of nodes of one spec: create, scale, delete
    #[command(subcommand, visible_alias = "sn")]
    SuperNode(super_node::SuperNodeCommand),
    /// System disks of nodes: look, and grow them
    #[command(subcommand)]
    Disk(disk::DiskCommand),
    /// Tests of nodes; the binary adds the one that needs no server, and its own place in the command line
    #[command(skip)]
    Stress(stress::StressCommand),
    /// Where people are told what went wrong
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// The network and software configuration of a super node's members
    #[command(subcommand, visible_alias = "env")]
    Environment(environment::EnvironmentCommand),
    /// What becomes of a job's operators when a link breaks
    #[command(subcommand)]
    RetryPolicy(retry_policy::RetryPolicyCommand),
    /// Distributed programs: submit, look, cancel
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Run a program on a super node, show its output, end with its exit code
    Run(Box<run::RunArguments>),
    /// Long-running changes: look, wait, cancel
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// What happened
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Who asked for what
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// API tokens of people and programs
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Tokens that let new nodes enrol
    #[command(subcommand)]
    JoinToken(join_token::JoinTokenCommand),
    /// Which server to talk to
    #[command(subcommand)]
    Context(context_command::ContextCommand),
    /// Check everything between here and the nodes, and say what to do
    Doctor,
    /// Print the completion script of a shell
    Completion(manual::CompletionArguments),
    /// Print the manual page of a command, or write all of them
    Man(manual::ManArguments),
}

/// Runs a command on the calling thread. `root` builds the whole command line of the binary, for completion and manual pages.
pub fn run_blocking(command: Command, options: &Options, root: fn() -> clap::Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(&format!("error: this process cannot be set up: {error}"));
            return ExitCode::from(Exit::FAILED.0);
        }
    };
    let exit = runtime.block_on(run(command, options, root));
    // A task that still talks to the server (a second Ctrl-C left it) must not hold the terminal.
    runtime.shutdown_background();
    ExitCode::from(exit.0)
}

/// Runs a command; everything it has to say, errors too, has been said when it returns.
pub async fn run(command: Command, options: &Options, root: fn() -> clap::Command) -> Exit {
    let is_report = matches!(&command, Command::Stress(command) if command.is_report());
    if let Err(why) = options.output.of_everything()
        && !is_report
    {
        output::say(&format!("error: {why}"));
        return Exit::USAGE;
    }
    let session = Session::new(options);
    let result = match command {
        Command::Node(command) => node::run(&session, command).await,
        Command::Spec(command) => spec::run(&session, command).await,
        Command::SuperNode(command) => super_node::run(&session, command).await,
        Command::Disk(command) => disk::run(&session, command).await,
        Command::Stress(command) => stress::run(&session, command).await,
        Command::Channel(command) => channel::run(&session, command).await,
        Command::Environment(command) => environment::run(&session, command).await,
        Command::RetryPolicy(command) => retry_policy::run(&session, command).await,
        Command::Job(command) => job::run(&session, command).await,
        Command::Run(arguments) => run::run(&session, *arguments).await,
        Command::Operation(command) => operation::run(&session, command).await,
        Command::Event(command) => event::run(&session, command).await,
        Command::Audit(command) => audit::run(&session, command).await,
        Command::Token(command) => token::run(&session, command).await,
        Command::JoinToken(command) => join_token::run(&session, command).await,
        Command::Context(command) => context_command::run(&session, &command),
        Command::Doctor => doctor::run(&session).await,
        Command::Completion(arguments) => manual::completion(&arguments, root()),
        Command::Man(arguments) => manual::man(&arguments, root()),
    };
    result.map_or_else(|failure| failure.report(), |()| Exit::OK)
}
