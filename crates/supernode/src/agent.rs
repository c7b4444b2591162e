//! `supernode agent`: what runs on every node.

use std::process::ExitCode;

/// What `supernode agent` takes
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArguments {}

/// Runs the agent until a signal ends it.
pub(crate) fn run(_arguments: AgentArguments) -> anyhow::Result<ExitCode> {
    anyhow::bail!("being written")
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).expect("a signal handler can be installed");
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler can be installed");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
