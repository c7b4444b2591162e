//! Where everything is that a virtual machine is made of. What is missing makes a test say that it is skipped, and why.

use std::path::{Path, PathBuf};

/// Programs of this host that the guest's system is made of.
pub(crate) const GUEST_PROGRAMS: &[&str] = &[
    "lsblk",
    "findmnt",
    "sfdisk",
    "partx",
    "losetup",
    "growpart",
    "flock",
    "lvm",
    "resize2fs",
    "e2fsck",
    "xfs_growfs",
    "btrfs",
];
/// Programs that make and check file systems; they do not stay in the guest.
pub(crate) const MAKING_PROGRAMS: &[&str] = &[
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "xfs_repair",
    "e2fsck",
    "btrfs",
    "sfdisk",
    "lvm",
];

#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Where QEMU, its files, the kernel and busybox were unpacked.
    pub(crate) root: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) modules: PathBuf,
    /// Where images are kept between runs.
    pub(crate) cache: PathBuf,
}

impl Tools {
    /// `None`, and a line on the terminal, where virtual machines cannot be made.
    pub(crate) fn find() -> Option<Self> {
        match Self::try_find() {
            Ok(tools) => Some(tools),
            Err(missing) => {
                eprintln!("SKIPPED: {missing}; `cargo xtask ci --only setup` brings it on Debian");
                None
            }
        }
    }

    fn try_find() -> Result<Self, String> {
        let binary = Path::new(env!("CARGO_BIN_EXE_supernode"));
        let target = binary.ancestors().nth(2).expect("target/PROFILE/supernode");
        let cache = target.join("virtual-machine");
        let root = cache.join("root");
        if !cache.join("complete").exists() {
            return Err("qemu-system-x86_64 is not installed".to_owned());
        }
        let programs = GUEST_PROGRAMS.iter().chain(MAKING_PROGRAMS);
        if let Some(missing) = programs.into_iter().find(|name| program(name).is_none()) {
            return Err(format!("{missing} is not installed"));
        }
        let only = |directory: PathBuf, prefix: &str| {
            let entries = std::fs::read_dir(&directory).ok()?;
            let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            paths.find(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(prefix))
            })
        };
        Ok(Self {
            kernel: only(root.join("boot"), "vmlinuz-").ok_or("the kernel is missing")?,
            modules: only(root.join("lib/modules"), "")
                .ok_or("the kernel's modules are missing")?,
            root,
            cache,
        })
    }
}

/// A program of this host.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}
