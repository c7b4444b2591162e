//! Programs of the system that have to succeed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program is, if it is installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file())
}

/// Runs a program that has to succeed; answers what it printed.
pub(super) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let path = find(program).with_context(|| format!("{program} is not installed"))?;
    let output = Command::new(path)
        .args(arguments)
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}: {}", output.status, why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
