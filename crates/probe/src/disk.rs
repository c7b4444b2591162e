//! Fixed disks, from `/sys/block`.
//!
//! Left out: loop devices, memory disks, device-mapper and RAID volumes (they are made of disks that are listed), removable media,
//! hidden paths of multi-path disks, and empty drives.

use supernode_types::inventory::Disk;

use crate::files::Files;

/// The kernel counts sectors of this size, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;

const VIRTUAL: [&str; 12] = [
    "loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "zd", "rbd", "bcache", "pmem",
];

pub(crate) fn discover(files: Files<'_>) -> Vec<Disk> {
    files
        .names("sys/block")
        .into_iter()
        .filter_map(|name| disk(files, name))
        .collect()
}

fn disk(files: Files<'_>, name: String) -> Option<Disk> {
    if VIRTUAL.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let at = |file: &str| format!("sys/block/{name}/{file}");
    let size_bytes = files
        .number::<u64>(&at("size"))?
        .saturating_mul(SECTOR_BYTES);
    let set = |file: &str| files.word(&at(file)).as_deref() == Some("1");
    if size_bytes == 0 || set("removable") || set("hidden") {
        return None;
    }
    Some(Disk {
        model: files.word(&at("device/model")).unwrap_or_default(),
        size_bytes,
        rotational: set("queue/rotational"),
        serial: files
            .word(&at("device/serial"))
            .or_else(|| files.word(&at("serial")))
            .or_else(|| files.word(&at("device/wwid"))),
        name,
    })
}
