//! Disks that get slow, are used by others, or are limited, while nodes are tested: the first is named, the others are nobody's fault.
//!
//! A disk here is two loop devices, one on the other: what holds the lower one back is to the upper one a slow disk. Needs root; what is
//! missing is said, and skipped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::control_group::{ControlGroup, Limit};
use crate::harness::{Dev, come_first, output};
use crate::stress_run::ended;

const SIZE_BYTES: u64 = 4 << 30;
/// What a disk moves. Little, so that nothing has to wait for processors.
const GOOD_BYTES_PER_SECOND: u32 = 64 << 20;

/// A disk with an empty file system; gone when dropped.
struct Disk {
    directory: tempfile::TempDir,
    lower: Option<String>,
    upper: Option<String>,
}

/// Runs a program that has to be there and to work; answers what it said.
fn tool(words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(words[0]);
    let done = output(command.args(&words[1..]));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() {
        Ok(text(&done.stdout))
    } else {
        Err(format!("{words:?}: {}", text(&done.stderr)))
    }
}

impl Disk {
    fn new() -> Option<Self> {
        // In memory if there is room: what others do to this machine's disk is not to be measured here.
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map(|memory| memory.f_bavail * memory.f_frsize);
        let directory = if room.is_ok_and(|bytes| bytes >= SIZE_BYTES) {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let mut disk = Self {
            directory: directory.expect("a temporary directory"),
            lower: None,
            upper: None,
        };
        match disk.make() {
            Ok(()) => Some(disk),
            Err(why) => {
                println!("SKIPPED: no disk can be made here: {why}");
                None
            }
        }
    }

    fn make(&mut self) -> Result<(), String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root may".to_owned());
        }
        let image = self.directory.path().join("image");
        let file = File::create(&image).and_then(|file| file.set_len(SIZE_BYTES));
        file.map_err(|error| error.to_string())?;
        let lower = tool(&["losetup", "-f", "--show", &image.display().to_string()])?;
        self.lower = Some(lower.clone());
        let upper = tool(&["losetup", "-f", "--show", "--direct-io=on", &lower])?;
        self.upper = Some(upper.clone());
        tool(&["mkfs.ext4", "-q", &upper])?;
        let mounted = self.path();
        fs::create_dir(&mounted).map_err(|error| error.to_string())?;
        tool(&["mount", &upper, &mounted])?;
        Ok(())
    }

    /// Where its file system is.
    fn path(&self) -> String {
        self.directory.path().join("mounted").display().to_string()
    }

    fn number(device: Option<&String>) -> String {
        let name = device.expect("it was made").trim_start_matches("/dev/");
        let number = fs::read_to_string(format!("/sys/block/{name}/dev"));
        number.expect("it is there").trim().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What was never made cannot be undone.
        let _ = tool(&["umount", &self.path()]);
        for device in [&self.upper, &self.lower].into_iter().flatten() {
            let _ = tool(&["losetup", "-d", device]);
        }
    }
}

/// So many bytes a second from a device, and as many to it.
fn limit(device: Option<&String>, bytes_per_second: u32) -> Limit {
    let (number, most) = (Disk::number(device), bytes_per_second);
    let both = [
        "blkio.throttle.read_bps_device",
        "blkio.throttle.write_bps_device",
    ];
    Limit {
        controller: "blkio",
        first_version: both.map(|file| (file, format!("{number} {most}"))).into(),
        second_version: ("io.max", format!("{number} rbps={most} wbps={most}")),
    }
}

/// The result of a test of the only node's disk.
fn tested(dev: &Dev) -> Value {
    let mut words = vec!["stress", "run", "--node", "node-1"];
    words.extend(["--items", "storage", "--kernel-seconds", "1"]);
    let run = dev.json(&words);
    ended(dev, run["id"].as_str().expect("an id"))["results"][0].clone()
}

fn health(dev: &Dev) -> String {
    let state = &dev.json(&["node", "show", "node-1"])["health"]["state"];
    state.as_str().expect("a word").to_owned()
}

/// A node alone on a disk of its own. Its parts end in this order.
struct Node {
    dev: Dev,
    beneath: ControlGroup,
    disk: Disk,
}

impl Node {
    /// One whose disk moves so many bytes a second for it.
    fn new(bytes_per_second: u32) -> Option<Self> {
        let disk = Disk::new()?;
        let beneath = ControlGroup::new(&limit(disk.lower.as_ref(), bytes_per_second))?;
        // What else this machine does must not matter.
        come_first();
        let dev = Dev::start_below(Path::new(&disk.path()), 1);
        beneath.take(dev.pid("node-1"));
        Some(Self { dev, beneath, disk })
    }
}

#[test]
fn a_disk_that_got_slow_is_named_and_its_node_kept_out() {
    let Some(node) = Node::new(GOOD_BYTES_PER_SECOND) else {
        return;
    };
    let (dev, disk) = (&node.dev, &node.disk);
    // A past. What the machine does besides may spoil a run of it.
    let mut good = 0;
    for _ in 0..12 {
        good += u32::from(tested(dev)["outcome"] == "passed");
        if good == 3 {
            break;
        }
    }
    assert_eq!(good, 3, "{}", dev.ok(&["stress", "history"]));
    let slow = limit(disk.lower.as_ref(), GOOD_BYTES_PER_SECOND / 4);
    node.beneath.set(&slow).expect("it could be set before");
    let slow = tested(dev);
    assert_eq!(slow["outcome"], "failed", "{slow:#}");
    let finding = &slow["findings"][0];
    assert_eq!(finding["item"], "storage", "{slow:#}");
    assert_eq!(finding["kind"]["kind"], "confirmed", "{slow:#}");
    assert_eq!(health(dev), "quarantined");
}

/// Reads from a disk, about as much as the node may, until told to stop; for some minutes where the test fails before that.
fn read_all_the_time(device: &str, stop: &AtomicBool) {
    let disk = File::open(device).expect("root may");
    let mut bytes = vec![0; 1 << 20];
    for extent in (0..SIZE_BYTES >> 20).cycle().take(30_000) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // What is in memory already would not reach the disk.
        let _ = rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::DontNeed);
        disk.read_exact_at(&mut bytes, extent << 20)
            .expect("it is a disk");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_others_do_to_a_disk_is_not_held_against_it() {
    let Some(node) = Node::new(GOOD_BYTES_PER_SECOND) else {
        return;
    };
    let (dev, disk) = (&node.dev, &node.disk);
    let (stop, device) = (AtomicBool::new(false), disk.upper.as_deref());
    let shared = thread::scope(|scope| {
        scope.spawn(|| read_all_the_time(device.expect("it was made"), &stop));
        let shared = tested(dev);
        stop.store(true, Ordering::Relaxed);
        shared
    });
    assert_eq!(shared["outcome"], "undecided", "{shared:#}");
    let why = "of the bytes that the disk moved";
    assert!(shared.to_string().contains(why), "{shared:#}");

    let visible = limit(disk.upper.as_ref(), GOOD_BYTES_PER_SECOND / 4);
    let visible = ControlGroup::new(&visible).expect("it could be made before");
    visible.take(dev.pid("node-1"));
    let limited = tested(dev);
    assert_eq!(limited["outcome"], "undecided", "{limited:#}");
    let why = "a limit of its control group held it back";
    assert!(limited.to_string().contains(why), "{limited:#}");
    assert_eq!(health(dev), "unproven");
    // Its processes are in that group.
    drop(node);
}
