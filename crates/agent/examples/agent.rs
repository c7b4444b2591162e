//! An agent as a process of its own, which tests can kill and measure.
//!
//! `agent SERVER CA_FILE TOKEN NAME DATA_DIRECTORY` runs one until SIGTERM; `agent rank-supervisor RANKS --lease FILE` supervises ranks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use supernode_agent::options::{AgentOptions, JoinToken};
use supernode_agent::service;
use supernode_types::entropy::SystemEntropy;
use supernode_types::time::SystemClock;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["rank-supervisor", ranks, "--lease", lease] => {
            supernode_agent::supervisor::main(Path::new(ranks), Path::new(lease))
        }
        [server, ca_file, token, name, data_directory] => {
            let data_directory = PathBuf::from(data_directory);
            let name = name.parse().expect("a name for the node");
            let mut options = AgentOptions::new(
                (*server).to_owned(),
                ca_file.into(),
                name,
                "127.0.0.1".into(),
                data_directory.clone(),
            );
            options.join_token = JoinToken::Secret((*token).to_owned());
            options.system_root = data_directory.join("root");
            agent(options)
        }
        _ => {
            eprintln!(
                "usage: agent SERVER CA_FILE TOKEN NAME DATA_DIRECTORY | agent rank-supervisor RANKS --lease FILE"
            );
            ExitCode::from(2)
        }
    }
}

fn agent(options: AgentOptions) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let shutdown = async {
        let mut terminated = signal(SignalKind::terminate()).expect("signals can be received");
        terminated.recv().await;
    };
    match service::run_to_end(
        options,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        shutdown,
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", supernode_agent::files::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
