//! The disk beneath a directory: what it moves for everybody, and what our control group may move.
//!
//! A partition's neighbours are as much in its way as its own users, so it is the whole disk that is looked at; a volume on several
//! disks is looked at as a volume, because a mirror moves every byte twice.

use std::fs;
use std::path::{Path, PathBuf};

use super::Count;
use crate::control_group;
use crate::files::Files;
use crate::stress::number::real;

/// Volumes upon volumes; more of them are none of ours.
const MOST_LAYERS: usize = 16;
/// The unit in which the kernel counts.
const SECTOR_BYTES: u64 = 512;
/// Who moves this share of what is allowed is held back by it.
const HELD_BACK: f64 = 0.8;

/// A whole disk, or a volume on several.
#[derive(Debug)]
pub(super) struct Disk {
    /// Where the kernel tells of it.
    directory: PathBuf,
    /// Its number, `MAJOR:MINOR`.
    number: String,
}

impl Disk {
    /// The disk beneath a file system, by the device number of its files; `None` for one that has none (in memory, over a network,
    /// on several disks by itself).
    pub(super) fn beneath(files: Files<'_>, device: u64) -> Option<Self> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let device = files.path(&format!("sys/dev/block/{major}:{minor}"));
        let mut directory = fs::canonicalize(device).ok()?;
        for _ in 0..MOST_LAYERS {
            if directory.join("partition").exists() {
                directory.pop();
            }
            let Some(only) = only_entry(&directory.join("slaves")) else {
                break;
            };
            directory = fs::canonicalize(only).ok()?;
        }
        let number = fs::read_to_string(directory.join("dev")).ok()?;
        Some(Self {
            directory,
            number: number.trim().to_owned(),
        })
    }

    /// Bytes that it has read and written since it is there.
    pub(super) fn moved_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join("stat")).ok()?;
        let field = |position| text.split_whitespace().nth(position)?.parse::<u64>().ok();
        Some((field(2)? + field(6)?) * SECTOR_BYTES)
    }

    /// The limit of our control group that held us back while we read and wrote so much.
    pub(super) fn limit(&self, files: Files<'_>, count: Count) -> Option<String> {
        let bites = |name: &str, most: u64| {
            let counted = match name {
                "rbps" => count.reads * count.bytes,
                "wbps" => count.writes * count.bytes,
                "riops" => count.reads,
                "wiops" => count.writes,
                _ => return false,
            };
            real(counted) >= HELD_BACK * real(most) * count.seconds
        };
        let limits = limits(files, &self.number);
        let (name, most) = limits.into_iter().find(|(name, most)| bites(name, *most))?;
        Some(format!(
            "a limit of its control group held it back: {name}={most} at disk {}",
            self.number
        ))
    }
}

fn only_entry(directory: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?.flatten();
    let only = entries.next()?.path();
    entries.next().is_none().then_some(only)
}

/// Limits for a disk, by the names that version 2 gives them; those of the groups around ours hold as well there.
fn limits(files: Files<'_>, number: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for directory in control_group::directories(files, "blkio") {
        for (file, name) in [
            ("read_bps", "rbps"),
            ("write_bps", "wbps"),
            ("read_iops", "riops"),
            ("write_iops", "wiops"),
        ] {
            let path = format!("{directory}/blkio.throttle.{file}_device");
            let limit = of_disk(files, &path, number);
            found.extend(limit.and_then(|limit| Some((name.to_owned(), limit.parse().ok()?))));
        }
    }
    for directory in control_group::directories(files, "io") {
        for group in Path::new(&directory).ancestors() {
            let path = format!("{}/io.max", group.display());
            let limits = of_disk(files, &path, number).unwrap_or_default();
            let limits = limits.split(' ').filter_map(|limit| limit.split_once('='));
            // No limit is `max`, which is no number.
            found.extend(
                limits.filter_map(|(name, most)| Some((name.to_owned(), most.parse().ok()?))),
            );
        }
    }
    found
}

/// What stands behind the number of a disk in a file with a line for each.
fn of_disk(files: Files<'_>, path: &str, number: &str) -> Option<String> {
    let text = files.text(path)?;
    let mut lines = text.lines().filter_map(|line| line.trim().split_once(' '));
    let (_, rest) = lines.find(|(disk, _)| *disk == number)?;
    Some(rest.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::files::write;

    /// A machine with a disk that has a partition, under a volume on it.
    fn machine() -> tempfile::TempDir {
        let machine = tempfile::tempdir().expect("a directory");
        let sda = "sys/devices/pci/block/sda";
        let volume = "sys/devices/virtual/block/dm-0";
        write(machine.path(), &format!("{sda}/dev"), "8:0\n");
        write(
            machine.path(),
            &format!("{sda}/stat"),
            "5 0 100 9 7 0 30 9 0 0 0\n",
        );
        write(machine.path(), &format!("{sda}/sda1/partition"), "1\n");
        write(machine.path(), &format!("{sda}/sda1/dev"), "8:1\n");
        write(machine.path(), &format!("{volume}/dev"), "253:0\n");
        for directory in ["sys/dev/block", &format!("{volume}/slaves")] {
            fs::create_dir_all(machine.path().join(directory)).expect("own directory");
        }
        for (link, target) in [
            ("sys/dev/block/253:0", volume),
            (&format!("{volume}/slaves/sda1"), &format!("{sda}/sda1")),
        ] {
            symlink(machine.path().join(target), machine.path().join(link)).expect("own directory");
        }
        machine
    }

    #[test]
    fn a_volume_on_one_partition_is_its_disk() {
        let machine = machine();
        let files = Files::below(machine.path());
        let disk = Disk::beneath(files, rustix::fs::makedev(253, 0)).expect("it has one");
        assert_eq!(disk.number, "8:0");
        assert_eq!(disk.moved_bytes(), Some(130 * 512));
        assert!(Disk::beneath(files, rustix::fs::makedev(0, 44)).is_none());
    }

    #[test]
    fn a_limit_that_bites_is_named_and_another_is_not() {
        let count = Count {
            reads: 100,
            writes: 0,
            bytes: 95_000,
            seconds: 1.0,
        };
        let limit = |path: &str, text: &str, groups: &str| {
            let machine = machine();
            write(machine.path(), "proc/self/cgroup", groups);
            write(machine.path(), path, text);
            let files = Files::below(machine.path());
            let disk = Disk::beneath(files, rustix::fs::makedev(253, 0)).expect("it has one");
            disk.limit(files, count)
        };
        let bites = "a limit of its control group held it back: rbps=10000000 at disk 8:0";
        let first = |text| {
            let path = "sys/fs/cgroup/blkio/jobs/blkio.throttle.read_bps_device";
            limit(path, text, "7:blkio:/jobs\n4:cpu:/\n")
        };
        assert_eq!(first("8:16 5\n8:0 10000000\n").as_deref(), Some(bites));
        assert_eq!(first("8:0 100000000\n"), None);
        assert_eq!(first("8:1 10\n"), None);
        let second = |path, text| limit(path, text, "0::/agents/one\n");
        let limits = "8:0 rbps=10000000 wbps=max riops=max wiops=max\n";
        assert_eq!(
            second("sys/fs/cgroup/agents/io.max", limits).as_deref(),
            Some(bites)
        );
        let bites = "a limit of its control group held it back: riops=110 at disk 8:0";
        let limits = "8:0 rbps=max riops=110\n";
        assert_eq!(
            second("sys/fs/cgroup/agents/one/io.max", limits).as_deref(),
            Some(bites)
        );
    }
}
