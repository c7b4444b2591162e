//! One layer each: how large it is, and how it is grown with the system's own tool. Growing what is large enough changes nothing.

use std::path::Path;
use std::time::Duration;

use supernode_probe::system_disk::file_system_bytes;
use supernode_probe::{SystemTools, Tools as _};
use supernode_types::disk::{DiskBus, DiskStep, FileSystemKind};

use super::Trouble;
use super::tool::{Output, Toolbox};

/// The kernel counts sectors of this size, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;
/// What a partition table leaves unused at the end of a disk.
const TABLE_SLACK_BYTES: u64 = 4 << 20;
/// For tools that change a few sectors.
const SHORT: Duration = Duration::from_mins(1);
/// For tools that may write to all of a disk.
const LONG: Duration = Duration::from_mins(15);
/// `growpart` has nothing to do.
const NO_CHANGE_CODE: i32 = 1;

/// The size of a block device as the kernel sees it.
pub(super) fn block_bytes(name: &str) -> Option<u64> {
    number(name, "size")?.checked_mul(SECTOR_BYTES)
}

fn number(name: &str, file: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/class/block/{name}/{file}")).ok()?;
    text.trim().parse().ok()
}

/// The size of a layer now; `None` if it cannot be told.
pub(super) fn measure(toolbox: &Toolbox, step: &DiskStep) -> Option<u64> {
    match step {
        DiskStep::Device { disk: name, .. }
        | DiskStep::Partition { name, .. }
        | DiskStep::LogicalVolume { name, .. } => block_bytes(name),
        DiskStep::PhysicalVolume { name } => {
            let device = format!("/dev/{name}");
            let arguments = [
                "pvs",
                "--noheadings",
                "--units",
                "b",
                "--nosuffix",
                "--options",
                "pv_size",
                &device,
            ];
            let output = toolbox.run("lvm", &arguments, SHORT).ok()?;
            output.text.split_whitespace().last()?.parse().ok()
        }
        DiskStep::FileSystem {
            kind,
            name,
            mount_point,
        } => {
            let space = SystemTools::default().space(Path::new(mount_point));
            file_system_bytes(kind.word(), Path::new(&format!("/dev/{name}")), space)
        }
        DiskStep::Verify => None,
    }
}

/// Asks the kernel to look how large a device is. virtio and most others tell by themselves.
pub(super) fn rescan(toolbox: &Toolbox, disk: &str, bus: DiskBus) -> Result<(), String> {
    let write =
        |file: String| std::fs::write(&file, "1").map_err(|error| format!("{file}: {error}"));
    match bus {
        DiskBus::Scsi => write(format!("/sys/class/block/{disk}/device/rescan")),
        DiskBus::Nvme => write(format!("/sys/class/block/{disk}/device/rescan_controller")),
        DiskBus::Loop => {
            let device = format!("/dev/{disk}");
            let output = toolbox.run("losetup", &["--set-capacity", &device], SHORT)?;
            if output.success() {
                Ok(())
            } else {
                Err(output.line())
            }
        }
        DiskBus::Virtio | DiskBus::Other => Ok(()),
    }
}

/// Grows one layer; answers what its tool said.
pub(super) fn perform(toolbox: &Toolbox, step: &DiskStep) -> Result<String, Trouble> {
    match step {
        DiskStep::Partition {
            disk, name, number, ..
        } => partition(toolbox, disk, name, *number),
        DiskStep::PhysicalVolume { name } => run(
            toolbox,
            "lvm",
            &["pvresize", &format!("/dev/{name}")],
            SHORT,
        ),
        DiskStep::LogicalVolume { group, volume, .. } => logical_volume(toolbox, group, volume),
        DiskStep::FileSystem {
            kind,
            name,
            mount_point,
        } => file_system(toolbox, *kind, name, mount_point),
        DiskStep::Device { .. } | DiskStep::Verify => Ok(String::new()),
    }
}

/// Runs a tool that has to succeed.
fn run(
    toolbox: &Toolbox,
    name: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, Trouble> {
    let output = toolbox
        .run(name, arguments, limit)
        .map_err(Trouble::Failed)?;
    if output.success() {
        Ok(output.line())
    } else {
        Err(Trouble::Failed(complaint(name, &output)))
    }
}

fn complaint(name: &str, output: &Output) -> String {
    let end = output
        .code
        .map_or_else(|| "by a signal".to_owned(), |code| format!("with {code}"));
    format!("{name} ended {end}: {}", output.line())
}

/// Grows the entry in the table, then makes sure that the kernel has it. The two can differ: a tool was killed between them, or the
/// kernel cannot read partition tables.
fn partition(toolbox: &Toolbox, disk: &str, name: &str, number: u32) -> Result<String, Trouble> {
    let device = format!("/dev/{disk}");
    let number = number.to_string();
    // growpart does not work without util-linux's flock.
    let said = if toolbox.has("growpart") && toolbox.has("flock") {
        growpart(toolbox, &device, &number)?
    } else {
        let arguments = ["--no-reread", "--force", "-N", &number, &device];
        let output = toolbox
            .run_with("sfdisk", &arguments, ", +\n", SHORT)
            .map_err(Trouble::Failed)?;
        if !output.success() {
            return Err(Trouble::Failed(complaint("sfdisk", &output)));
        }
        output.line()
    };
    if kernel_has_it(disk, name) {
        return Ok(said);
    }
    let arguments = ["--update", "--nr", &number, &device];
    let mut told = String::new();
    for _ in 0..2 {
        told = toolbox
            .run("partx", &arguments, SHORT)
            .map_or_else(|why| why, |output| output.line());
        if kernel_has_it(disk, name) {
            return Ok(said);
        }
    }
    let told = if told.is_empty() {
        told
    } else {
        format!(" ({told})")
    };
    Err(Trouble::NeedsRestart(format!(
        "the partition table has the new size of {name}, and the kernel keeps the old one{told}"
    )))
}

/// `NOCHANGE` is success. A failure is looked into: if the table has the size all the same, only the kernel was not told.
fn growpart(toolbox: &Toolbox, device: &str, number: &str) -> Result<String, Trouble> {
    let run = |arguments: &[&str]| {
        toolbox
            .run("growpart", arguments, SHORT)
            .map_err(Trouble::Failed)
    };
    let no_change =
        |output: &Output| output.code == Some(NO_CHANGE_CODE) && output.text.contains("NOCHANGE");
    let output = run(&[device, number])?;
    if output.success() || no_change(&output) {
        return Ok(output.line());
    }
    if no_change(&run(&["--dry-run", device, number])?) {
        return Ok(output.line());
    }
    Err(Trouble::Failed(complaint("growpart", &output)))
}

fn kernel_has_it(disk: &str, name: &str) -> bool {
    let end = || {
        let sectors = number(name, "start")?.checked_add(number(name, "size")?)?;
        sectors.checked_mul(SECTOR_BYTES)
    };
    match (end(), block_bytes(disk)) {
        (Some(end), Some(whole)) => end + TABLE_SLACK_BYTES >= whole,
        _ => false,
    }
}

fn logical_volume(toolbox: &Toolbox, group: &str, volume: &str) -> Result<String, Trouble> {
    let arguments = ["vgs", "--noheadings", "--options", "vg_free_count", group];
    let free = run(toolbox, "lvm", &arguments, SHORT)?;
    // `lvextend` calls it an error when there is nothing to take.
    if free.split_whitespace().last() == Some("0") {
        return Ok(String::new());
    }
    let name = format!("{group}/{volume}");
    let arguments = ["lvextend", "--extents", "+100%FREE", &name];
    run(toolbox, "lvm", &arguments, SHORT)
}

fn file_system(
    toolbox: &Toolbox,
    kind: FileSystemKind,
    name: &str,
    mount_point: &str,
) -> Result<String, Trouble> {
    let device = format!("/dev/{name}");
    match kind {
        FileSystemKind::Ext4 => {
            if mount_point.is_empty() {
                check_ext4(toolbox, &device)?;
            }
            run(toolbox, "resize2fs", &[&device], LONG).map_err(explain)
        }
        FileSystemKind::Xfs => run(toolbox, "xfs_growfs", &[mount_point], LONG),
        FileSystemKind::Btrfs => run(
            toolbox,
            "btrfs",
            &["filesystem", "resize", "max", mount_point],
            LONG,
        ),
    }
}

/// One that is not mounted is grown only after a check; 1 says that something was repaired.
fn check_ext4(toolbox: &Toolbox, device: &str) -> Result<(), Trouble> {
    let output = toolbox
        .run("e2fsck", &["-f", "-p", device], LONG)
        .map_err(Trouble::Failed)?;
    match output.code {
        Some(0 | 1) => Ok(()),
        _ => Err(Trouble::Failed(complaint("e2fsck", &output))),
    }
}

/// The kernel's answer to a process that lacks the capability reads as if the user were the wrong one.
fn explain(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Failed(why) if why.contains("Permission denied to resize") => {
            Trouble::Failed(format!(
                "{why}: the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE; give it to the agent"
            ))
        }
        other => other,
    }
}
