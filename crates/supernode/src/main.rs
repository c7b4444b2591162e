//! One binary with roles: `server`, `agent`, `dev`, `demo`, and the command line. Wiring only; what each does stands in the crates.

mod agent;
mod collective;
mod demo;
mod dev;
mod logging;
mod server;
mod stress;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Manage super nodes: groups of servers of one specification, used as one machine for large distributed training
#[derive(Debug, Parser)]
#[command(
    name = "supernode",
    about = "Manage super nodes: groups of servers of one specification, used as one machine for large distributed training",
    long_about = None,
    version, max_term_width = 120, after_help = supernode_cli::EXIT_CODES, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    options: supernode_cli::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane
    Server(server::ServerArguments),
    /// Run the agent of this node
    Agent(agent::AgentArguments),
    /// Run a server and local agents on this machine until Ctrl-C
    Dev(dev::DevArguments),
    /// See the whole story on this machine, step by step
    Demo(demo::DemoArguments),
    /// Test hardware: compute, memory, links, network, storage
    #[command(subcommand)]
    Stress(stress::StressCommand),
    /// One kernel of a stress test, told by its standard input
    #[command(hide = true, name = stress::KERNEL)]
    StressKernel,
    /// Check and measure collective communication on processes of this machine
    #[command(subcommand)]
    Collective(collective::CollectiveCommand),
    /// Keeps the ranks of jobs running that the agent asks for on standard input
    #[command(hide = true)]
    RankSupervisor {
        /// The directory with the ranks
        ranks: PathBuf,
        /// The file with the moment until which the rank may run
        #[arg(long)]
        lease: PathBuf,
    },
    /// The switch between local nodes, told by its standard input
    #[command(hide = true, name = dev::network::COMMAND)]
    DevSwitch {
        /// Where nodes reach the server
        port: u16,
    },
    /// The distributed program of the demo
    #[command(hide = true)]
    DemoRing(demo::RingArguments),
    /// Print the OpenAPI document
    #[command(hide = true)]
    Openapi,
    #[command(flatten)]
    Client(supernode_cli::Command),
}

fn main() -> ExitCode {
    let Arguments { options, command } = Arguments::parse();
    // First of all and without threads: it forks.
    if let Command::RankSupervisor { ranks, lease } = &command {
        return supernode_agent::supervisor::main(ranks, lease);
    }
    if let Command::StressKernel = command {
        return supernode_probe::stress::kernel::main();
    }
    if let Command::DevSwitch { port } = command {
        return dev::network::switch_main(port);
    }
    // Fails only when a provider is installed already, which serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match command {
        Command::Server(arguments) => server::run(&arguments),
        Command::Agent(arguments) => agent::run(arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoRing(arguments) => demo::run_ring(&arguments),
        Command::Stress(stress::StressCommand::Local(arguments)) => {
            stress::run(&arguments, options.output)
        }
        Command::Stress(stress::StressCommand::Nodes(command)) => {
            let command = supernode_cli::Command::Stress(command);
            return supernode_cli::run_blocking(command, &options, Arguments::command);
        }
        Command::Collective(command) => collective::run(command, options.output),
        Command::Openapi => openapi(),
        Command::RankSupervisor { .. } | Command::StressKernel | Command::DevSwitch { .. } => {
            unreachable!("handled above")
        }
        Command::Client(command) => {
            return supernode_cli::run_blocking(command, &options, Arguments::command);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn openapi() -> anyhow::Result<ExitCode> {
    println!(
        "{}",
        serde_json::to_string_pretty(&supernode_api::openapi::document())?
    );
    Ok(ExitCode::SUCCESS)
}
