//! What the tests need beside Rust and a C compiler. Looks for the programs and not for packages, so that a machine that got them
//! another way is left alone. Root on Debian installs only what is missing; anybody else gets one line to paste.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Outcome, python, run_command, virtual_machine};
use crate::metadata::cargo;
use crate::processes::output_within;

/// A Debian package and the program of it that the tests start.
#[derive(Clone, Copy)]
struct Need {
    package: &'static str,
    program: &'static str,
}

const NEEDS: &[Need] = &[
    // The store's tests start a private server of their own; the program lies outside PATH on Debian.
    Need {
        package: "postgresql",
        program: "initdb",
    },
    Need {
        package: "python3",
        program: "python3",
    },
    // What notifications are delivered to.
    Need {
        package: "prometheus-alertmanager",
        program: "prometheus-alertmanager",
    },
];

/// What tests of real disks need. They run as root only, so nobody else is asked for it.
const DISK_NEEDS: &[Need] = &[
    Need {
        package: "cloud-guest-utils",
        program: "growpart",
    },
    Need {
        package: "fdisk",
        program: "sfdisk",
    },
    Need {
        package: "e2fsprogs",
        program: "resize2fs",
    },
    Need {
        package: "xfsprogs",
        program: "xfs_growfs",
    },
    Need {
        package: "btrfs-progs",
        program: "btrfs",
    },
    Need {
        package: "lvm2",
        program: "lvm",
    },
];

/// What tests of broken links need. They run as root only, too.
const LINK_NEEDS: &[Need] = &[
    Need {
        package: "iproute2",
        program: "ip",
    },
    Need {
        package: "nftables",
        program: "nft",
    },
];

pub(super) fn run() -> Result<Outcome> {
    rust_components()?;
    let may_install = may_install()?;
    let as_root = if may_install {
        [DISK_NEEDS, LINK_NEEDS].concat()
    } else {
        Vec::new()
    };
    let missing: Vec<&str> = NEEDS
        .iter()
        .chain(&as_root)
        .filter(|need| find_program(need.program).is_none())
        .map(|need| need.package)
        .chain(python::with("torch").is_none().then_some("python3-torch"))
        .chain(
            python::with("aiosmtpd")
                .is_none()
                .then_some("python3-aiosmtpd"),
        )
        .collect();
    if !missing.is_empty() && !may_install {
        return Ok(Outcome::NeedsPerson(format!(
            "missing: {}. On Debian or Ubuntu paste:\n{}",
            missing.join(", "),
            install_line(&missing)
        )));
    }
    let mut notes = Vec::new();
    if !missing.is_empty() {
        apt_install(&missing)?;
        notes.push(format!("installed {}", missing.join(", ")));
    }
    notes.extend(virtual_machine::install(may_install)?);
    if notes.is_empty() {
        notes.push("nothing is missing".to_owned());
    }
    Ok(Outcome::Note(notes.join("\n")))
}

/// The line that a person pastes.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Whether this process is root on a machine with apt.
pub(crate) fn may_install() -> Result<bool> {
    let user = output_within(Command::new("id").arg("-u"), Duration::from_secs(10))?;
    Ok(user.stdout.trim_ascii() == b"0" && find_program("apt-get").is_some())
}

/// Installs Debian packages without asking. The caller has checked `may_install`.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null());
        run_command(command, Duration::from_mins(10))
    };
    apt(&["-q", "update"])?;
    let mut arguments = vec!["-q", "install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)?;
    Ok(())
}

/// The first match on PATH, in the administrator's directories or among Debian's versioned PostgreSQL programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        directories.extend(versions.filter_map(|version| Some(version.ok()?.path().join("bin"))));
    }
    find_in(name, &directories)
}

fn find_in(name: &str, directories: &[impl AsRef<Path>]) -> Option<PathBuf> {
    directories
        .iter()
        .map(|directory| directory.as_ref().join(name))
        .find(|path| path.is_file())
}

/// A minimal Rust installation has neither formatter nor linter.
fn rust_components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let found = output_within(
            cargo().args([subcommand, "--version"]),
            Duration::from_mins(1),
        )?;
        if found.status.success() {
            continue;
        }
        if find_program("rustup").is_none() {
            bail!("cargo {subcommand} is missing: install the component {component} of your Rust");
        }
        let mut command = Command::new("rustup");
        command
            .args(["component", "add", component])
            .stdin(std::process::Stdio::null());
        run_command(command, Duration::from_mins(10))
            .with_context(|| format!("cannot install {component}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_files_in_the_given_directories() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("tool"), "").expect("write");
        std::fs::create_dir(directory.path().join("folder")).expect("create");
        let directories = [Path::new("/nonexistent"), directory.path()];
        assert_eq!(
            find_in("tool", &directories),
            Some(directory.path().join("tool"))
        );
        assert_eq!(find_in("folder", &directories), None);
        assert_eq!(find_in("other", &directories), None);
    }

    #[test]
    fn one_line_to_paste() {
        let line = install_line(&["postgresql", "python3"]);
        assert!(!line.contains('\n'));
        assert!(line.ends_with("--no-install-recommends postgresql python3"));
    }
}
