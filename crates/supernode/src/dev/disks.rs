//! System disks of local nodes: a file each, with a file system on a loop device, mounted where the node's agent has its root.
//!
//! So a node on a laptop has a disk that can run full and can grow, as a server has. It needs root, because loop devices and mounts do;
//! without `--node-disk` nothing of this happens, and a node shares the disk of its host. What is found mounted or attached, because a
//! former `dev` was killed, is used as it is. The file system is the first of XFS, btrfs and ext4 for which the tools are installed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use supernode_control::provisioner::local::DISK_FILE;
use supernode_types::disk::{GIB, size_words};

use super::programs::{find, run};

/// What makes a file system, and what grows it.
const FILE_SYSTEMS: [(&str, &str); 3] = [
    ("mkfs.xfs", "xfs_growfs"),
    ("mkfs.btrfs", "btrfs"),
    ("mkfs.ext4", "resize2fs"),
];

/// Gives a node a disk of its own, if it has none, and mounts it. The size counts for a new disk only.
pub(crate) fn mount(node: &Path, size_bytes: u64) -> anyhow::Result<()> {
    ensure!(
        size_bytes > 0 && size_bytes.is_multiple_of(GIB),
        "--node-disk is {}; give a whole number of GiB",
        size_words(size_bytes)
    );
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a disk of a node's own needs root: loop devices and mounts do"
    );
    let (image, root) = (node.join(DISK_FILE), node.join("root"));
    fs::create_dir_all(&root)?;
    if is_mounted(&root)? {
        return Ok(());
    }
    if !image.exists() {
        make(&image, size_bytes)?;
    }
    let device = match attached(&image)? {
        Some(device) => device,
        None => run("losetup", &["--find", "--show", text(&image)?])?,
    };
    run("mount", &[&device, text(&root)?])?;
    // Jobs' unprivileged user may pass, as on a real root.
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// Takes the disk of a node out of use; the file with all its content stays.
pub(crate) fn unmount(node: &Path) -> anyhow::Result<()> {
    let (image, root) = (node.join(DISK_FILE), node.join("root"));
    if !image.exists() {
        return Ok(());
    }
    if is_mounted(&root)? {
        let root = text(&root)?;
        // A rank that has outlived its agent may still look at it; it goes when the rank does.
        run("umount", &[root]).or_else(|_| run("umount", &["--lazy", root]))?;
    }
    if let Some(device) = attached(&image)? {
        run("losetup", &["--detach", &device])?;
    }
    Ok(())
}

/// Whether this machine lets nodes have disks of their own: one is made, mounted and taken away in `directory`.
pub(crate) fn try_out(directory: &Path) -> anyhow::Result<()> {
    let node = directory.join("disk-trial");
    let tried = mount(&node, GIB);
    let left = unmount(&node);
    let removed = fs::remove_dir_all(&node);
    tried.and(left)?;
    Ok(removed?)
}

/// A file system in a file, under its name only when it is whole.
fn make(image: &Path, size_bytes: u64) -> anyhow::Result<()> {
    let Some((maker, _)) = FILE_SYSTEMS
        .into_iter()
        .find(|(maker, grower)| find(maker).is_some() && find(grower).is_some())
    else {
        bail!("no file system can be made: install xfsprogs, btrfs-progs or e2fsprogs");
    };
    let unfinished = image.with_extension("unfinished");
    let file = fs::File::create(&unfinished)
        .with_context(|| format!("cannot create {}", unfinished.display()))?;
    file.set_len(size_bytes)?;
    run(maker, &["-q", text(&unfinished)?])?;
    file.sync_all()?;
    Ok(fs::rename(&unfinished, image)?)
}

fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let path = path.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let wanted = text(&path)?.replace(' ', "\\040");
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(wanted.as_str())))
}

/// The loop device of a file.
fn attached(image: &Path) -> anyhow::Result<Option<String>> {
    let arguments = [
        "--noheadings",
        "--output",
        "NAME",
        "--associated",
        text(image)?,
    ];
    let found = run("losetup", &arguments)?;
    Ok(found.lines().next().map(|line| line.trim().to_owned()))
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
