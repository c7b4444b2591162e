//! `supernode demo`: a fresh `supernode dev` and the whole story on it, step by step; exit code 0 only if every step held.
//!
//! Everything is real: separate processes, mutual TLS, a database on disk, programs with exit codes, `kill -9`. The demo is an ordinary
//! client of the API; what it knows beyond that is only where `dev` keeps process ids.

mod disk;
mod link;
mod ring;
mod stage;
mod story;

use std::process::ExitCode;

pub(crate) use ring::{RingArguments, run as run_ring};

/// What `supernode demo` takes
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// Keep the directory with state and logs
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Tells the story.
pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut stage = stage::Stage::build(arguments.keep)?;
        let told = story::tell(&mut stage).await;
        let closed = stage.close().await;
        match told.and(closed) {
            Ok(()) => {
                println!("\nevery step held, in {:.1} s", stage.seconds());
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                println!("\nNOT as promised: {error:#}");
                println!("state and logs are in {}", stage.keep().display());
                Ok(ExitCode::FAILURE)
            }
        }
    })
}
