//! A disk in a file: attached, partitioned, made and mounted; everything is taken back when it is dropped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use supernode_types::disk::GIB;

use crate::support::wait_for;

/// Loop devices are given out one after the other: between looking for a free one and taking it is a moment.
static ATTACHING: Mutex<()> = Mutex::new(());

/// Which partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Gpt,
    Mbr,
}

/// What is on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    script: &'static str,
    /// The partition with the file system; none for a whole disk.
    partition: Option<u32>,
    file_system: &'static str,
}

impl Layout {
    /// A small partition, then one with the file system up to the end.
    pub(crate) fn partitioned(table: Table, file_system: &'static str) -> Self {
        Self {
            script: match table {
                Table::Gpt => "label: gpt\nsize=64M, type=U\ntype=L\n",
                Table::Mbr => "label: dos\nsize=64M, type=83\ntype=83\n",
            },
            partition: Some(2),
            file_system,
        }
    }

    /// The file system on the disk itself.
    pub(crate) fn whole(file_system: &'static str) -> Self {
        Self {
            script: "",
            partition: None,
            file_system,
        }
    }

    /// Another partition behind the one with the file system, with or without a gap between them.
    pub(crate) fn with_trailing_partition(file_system: &'static str, gap: bool) -> Self {
        Self {
            script: if gap {
                "label: gpt\nsize=512M, type=L\nstart=1800000, size=32M, type=L\n"
            } else {
                "label: gpt\nsize=512M, type=L\nsize=32M, type=L\n"
            },
            partition: Some(1),
            file_system,
        }
    }

    /// A gap before the partition with the file system, as a deleted partition leaves it.
    pub(crate) fn with_gap_before(file_system: &'static str) -> Self {
        Self {
            script: "label: gpt\nsize=32M, type=U\nstart=400000, type=L\n",
            partition: Some(2),
            file_system,
        }
    }
}

pub(crate) struct LoopDisk {
    directory: tempfile::TempDir,
    device: String,
    layout: Layout,
}

/// Runs a program that has to succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    run_with(program, arguments, "")
}

fn run_with(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it is read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl LoopDisk {
    /// A mounted disk of so many GiB, of which only what is written takes room.
    pub(crate) fn new(layout: Layout, gib: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("disk.img");
        let file = std::fs::File::create(&image).expect("it is ours");
        file.set_len(gib * GIB).expect("files can be long");
        let image = image.display().to_string();
        if !layout.script.is_empty() {
            run_with("sfdisk", &["--quiet", &image], layout.script);
        }
        let device = {
            let _guard = ATTACHING
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            run("losetup", &["--find", "--show", &image])
                .trim()
                .to_owned()
        };
        let disk = Self {
            directory,
            device,
            layout,
        };
        if layout.partition.is_some() {
            disk.announce();
        }
        let file_system = disk.device();
        let (make, quiet) = match layout.file_system {
            "ext4" => ("mkfs.ext4", "-q"),
            "btrfs" => ("mkfs.btrfs", "-q"),
            _ => ("mkfs.xfs", "-q"),
        };
        run(make, &[quiet, &file_system]);
        std::fs::create_dir(disk.directory.path().join("mount")).expect("it is ours");
        run("mount", &[&file_system, &disk.mount_point()]);
        disk
    }

    /// Tells the kernel of the partitions, whether or not it can read the table by itself. A stale one of an earlier disk goes.
    fn announce(&self) {
        let _ = Command::new("partx")
            .args(["--delete", &self.device])
            .output();
        wait_for("the partitions to appear", || {
            let _ = Command::new("partx").args(["--add", &self.device]).output();
            Path::new(&self.device()).exists().then_some(())
        });
    }

    /// The device of the file system.
    pub(crate) fn device(&self) -> String {
        match self.layout.partition {
            Some(number) => format!("{}p{number}", self.device),
            None => self.device.clone(),
        }
    }

    pub(crate) fn mount_point(&self) -> String {
        let path = self.directory.path().join("mount");
        let path: PathBuf = path.canonicalize().expect("it is there");
        path.display().to_string()
    }

    /// What a provisioner does: the file is longer, the kernel does not know it yet.
    pub(crate) fn grow_file(&self, gib: u64) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.directory.path().join("disk.img"))
            .expect("it is ours");
        file.set_len(gib * GIB).expect("files can be long");
    }

    /// The partition table as text.
    pub(crate) fn table(&self) -> String {
        run("sfdisk", &["--dump", &self.device])
    }

    pub(crate) fn fill(&self) {
        let path = Path::new(&self.mount_point()).join("filler");
        let mut file = std::fs::File::create(path).expect("there is room yet");
        let block = vec![0x5A; 1 << 20];
        while file.write_all(&block).is_ok() {}
        let _ = file.sync_all();
    }

    pub(crate) fn assert_usable(&self) {
        let path = Path::new(&self.mount_point()).join("usable");
        let mut file = std::fs::File::create(&path).expect("it can be written");
        file.write_all(b"yes").expect("there is room");
        file.sync_all().expect("the disk works");
        assert_eq!(std::fs::read(&path).expect("it can be read"), b"yes");
    }

    pub(crate) fn unmount(&self) {
        run("umount", &[&self.mount_point()]);
    }

    /// The file system is in order, by its own checker, and so is the second header of a GPT.
    pub(crate) fn check(&self) {
        let mounted = std::fs::read_to_string("/proc/self/mounts").expect("it is there");
        if mounted.contains(&self.mount_point()) {
            self.unmount();
        }
        let device = self.device();
        // Mount namespaces of other tests have copies of this mount; the device is free when the last of them is gone.
        wait_for("the device to be free", || {
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::EXCL;
            rustix::fs::open(&device, flags, rustix::fs::Mode::empty()).ok()
        });
        match self.layout.file_system {
            "ext4" => run("e2fsck", &["-f", "-n", &device]),
            "btrfs" => run("btrfs", &["check", &device]),
            _ => run("xfs_repair", &["-n", &device]),
        };
        if self.layout.script.contains("gpt") {
            let found = run("sfdisk", &["--verify", &self.device]);
            assert!(!found.contains("backup GPT"), "{found}");
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let quiet = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        quiet("umount", &[&self.mount_point()]);
        // The kernel lets go of a device a moment after it was unmounted.
        for _ in 0..100 {
            quiet("partx", &["--delete", &self.device]);
            if !Path::new(&format!("{}p1", self.device)).exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        quiet("losetup", &["--detach", &self.device]);
    }
}
