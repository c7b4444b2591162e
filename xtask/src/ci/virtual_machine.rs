//! What the tests in virtual machines need: QEMU, a kernel with its modules, and a busybox for the guest.
//!
//! The packages are unpacked below `target/virtual-machine/` and not installed. So nothing of the system changes, no
//! rights are needed, and a newer `qemu-utils` of the host stays: installing Debian's QEMU would remove it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::setup::find_program;
use crate::processes::text_within;
use crate::workspace;

const EMULATOR: &str = "qemu-system-x86";
/// A package without content that depends on the newest kernel made for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
/// Everything is there; the names of the packages are its content.
const COMPLETE_FILE: &str = "complete";
const PATIENCE: Duration = Duration::from_mins(10);

/// Unpacks what is missing; answers a line about it, or `None` if it was there or cannot be had here. Where packages cannot be
/// refreshed a failure is a line, too: the tests say that they are skipped.
pub(super) fn install(may_install: bool) -> Result<Option<String>> {
    let directory = workspace::target_directory().join("virtual-machine");
    let tools = ["apt-get", "apt-cache", "dpkg-deb"];
    let debian = tools.iter().all(|tool| find_program(tool).is_some());
    if directory.join(COMPLETE_FILE).exists() || !debian || std::env::consts::ARCH != "x86_64" {
        return Ok(None);
    }
    let what = "what virtual machines need";
    match unpack_all(&directory, may_install) {
        Ok(count) => Ok(Some(format!("unpacked {what}, {count} packages"))),
        Err(error) if may_install => Err(error.context(format!("cannot get {what}"))),
        Err(error) => Ok(Some(format!("cannot get {what}: {error:#}"))),
    }
}

fn unpack_all(directory: &Path, may_install: bool) -> Result<usize> {
    let downloads = directory.join("packages");
    let root = directory.join("root");
    for stale in [&downloads, &root] {
        if stale.exists() {
            fs::remove_dir_all(stale)
                .with_context(|| format!("cannot remove {}", stale.display()))?;
        }
        fs::create_dir_all(stale)?;
    }
    if may_install {
        text_within(
            Command::new("apt-get")
                .args(["-q", "update"])
                .stdin(Stdio::null()),
            PATIENCE,
        )?;
    }
    let mut packages = emulator_packages()?;
    packages.push(kernel_package()?);
    packages.push(BUSYBOX.to_owned());
    text_within(
        Command::new("apt-get")
            .args(["-q", "download"])
            .args(&packages)
            .current_dir(&downloads),
        PATIENCE,
    )?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&downloads)? {
        files.push(entry?.path());
    }
    for file in &files {
        text_within(
            Command::new("dpkg-deb").arg("-x").args([file, &root]),
            PATIENCE,
        )?;
    }
    fs::remove_dir_all(&downloads)?;
    fs::write(directory.join(COMPLETE_FILE), packages.join("\n"))?;
    Ok(files.len())
}

/// The emulator, and what it needs that this host has not: exactly what apt would install.
fn emulator_packages() -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--simulate", "--no-install-recommends", EMULATOR])
        .env("LC_ALL", "C");
    let mut packages = to_install(&text_within(&mut command, PATIENCE)?);
    // Installed here already: its files are taken all the same, so that all are of one version.
    if !packages.iter().any(|package| package == EMULATOR) {
        packages.extend(
            [
                EMULATOR,
                "qemu-system-common",
                "qemu-system-data",
                "seabios",
            ]
            .map(str::to_owned),
        );
    }
    Ok(packages)
}

fn to_install(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn kernel_package() -> Result<String> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", KERNEL]).env("LC_ALL", "C");
    let text = text_within(&mut command, PATIENCE)?;
    match dependency(&text) {
        Some(package) => Ok(package.to_owned()),
        None => bail!("apt knows no kernel behind {KERNEL}: run `apt-get update`"),
    }
}

fn dependency(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_from_what_apt_says() {
        let simulation = "Remv qemu-utils [1:10.0.2]\nInst libfdt1 (1.6.1 Debian:12 [amd64])\nInst qemu-system-x86 (1:7.2 Debian)\nConf libfdt1\n";
        assert_eq!(to_install(simulation), ["libfdt1", "qemu-system-x86"]);
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            dependency(depends),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(dependency("N: no such package"), None);
    }
}
