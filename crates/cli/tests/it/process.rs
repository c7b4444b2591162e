//! The command line as a process.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::server::Server;

/// How long a process may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The command line with these arguments, and with nothing of this process's environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().expect("this test has a path");
    let program: PathBuf = test
        .parent()
        .and_then(std::path::Path::parent)
        .expect("it is in target/…/deps")
        .join("examples/supernode_cli");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Where a process finds a server.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    server: String,
}

impl Place {
    pub(crate) fn of(server: &Server) -> Self {
        Self::with_ca(server, &server.ca)
    }

    pub(crate) fn with_ca(server: &Server, ca: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("ca.pem"), ca).expect("writes");
        Self {
            directory,
            server: server.address.clone(),
        }
    }

    /// [`command`] that talks to the server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command
            .env("SUPERNODE_SERVER", &self.server)
            .env("SUPERNODE_TOKEN", "secret")
            .env("SUPERNODE_CA_FILE", self.directory.path().join("ca.pem"))
            .current_dir(self.directory.path());
        command
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments)).await
    }
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

pub(crate) async fn finish(mut command: Command) -> Ended {
    let child = command.spawn().expect("it starts");
    // The command holds our ends of what it passed on; a closed pipe is closed only without them.
    drop(command);
    tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("it ends in time")
        .expect("it ran")
        .into()
}
