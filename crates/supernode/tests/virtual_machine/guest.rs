//! The guest: a small system of busybox, the disk tools of this host and the real agent, and images of it in every layout.
//!
//! An image is made by the guest itself, because this host may have neither the rights nor the device mapper for it. Images
//! hold no agent: that is on a disk of its own, which every guest reads, so an image stays good until a tool or a script changes. In the kernel's
//! first file system it would be unpacked and copied by an emulated processor at each start.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::Archive;
use crate::machine::{Bus, Machine, Start};
use crate::tools::{GUEST_PROGRAMS, MAKING_PROGRAMS, Tools, program};

/// What a system disk is made of: `TABLE[-lvm]-FILESYSTEM`, as the scripts of the guest read it.
pub(crate) type Layout = &'static str;

/// Enough for every file system that is made here.
const IMAGE_BYTES: u64 = 1 << 30;

/// Kernel modules, with all that they need: for every guest, and for layouts.
const MODULES: &[(&str, &[&str])] = &[
    (
        "base",
        &["virtio_pci", "virtio_blk", "virtio_net", "qemu_fw_cfg"],
    ),
    ("dm_mod", &["dm_mod"]),
    ("xfs", &["xfs"]),
    ("btrfs", &["btrfs"]),
];

/// Where a module names those that it needs.
const DEPENDS: &[u8] = b"\0depends=";

/// Nothing tells udev of volumes here.
const LVM_CONFIGURATION: &str =
    "activation {\n udev_sync = 0\n udev_rules = 0\n}\ndevices {\n use_devicesfile = 0\n}\n";

/// The guest's software, ready to be started.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) tools: Tools,
    /// The first file system of a guest that runs.
    pub(crate) run_archive: PathBuf,
    /// A disk with the agent.
    pub(crate) agent_disk: PathBuf,
    /// The same, with what makes and checks images.
    pub(crate) make_archive: PathBuf,
    fingerprint: u64,
    #[expect(
        dead_code,
        reason = "it holds the archives until all machines are gone"
    )]
    directory: tempfile::TempDir,
}

impl Guest {
    /// `None`, and a line on the terminal, where there are no virtual machines.
    pub(crate) fn find() -> Option<Self> {
        Tools::find().map(Self::prepare)
    }

    fn prepare(tools: Tools) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let run_archive = directory.path().join("run.cpio");
        let make_archive = directory.path().join("make.cpio");
        let mut making = Archive::default();
        for name in MAKING_PROGRAMS {
            making.program(&format!("usr/sbin/{name}"), &found(name));
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_supernode"));
        making.below("system", &system(&tools, binary));
        let starting = starting(&tools).bytes();
        let mut hasher = DefaultHasher::new();
        let making = making.bytes();
        (&making, &starting).hash(&mut hasher);
        fs::write(&run_archive, &starting).expect("own directory");
        fs::write(&make_archive, [starting, making].concat()).expect("own directory");
        Self {
            tools,
            run_archive,
            agent_disk: agent_disk(binary, directory.path()),
            make_archive,
            fingerprint: hasher.finish(),
            directory,
        }
    }

    /// Copies a fresh image of `layout` to `path`; makes it first, if there is none yet.
    pub(crate) fn image(&self, layout: Layout, path: &Path) {
        let kept = self
            .tools
            .cache
            .join(format!("{layout}-{:016x}.raw", self.fingerprint));
        if !kept.exists() {
            self.make(layout, &kept);
        }
        let status = Command::new("cp")
            .arg("--sparse=always")
            .args([&kept, path])
            .status();
        assert!(status.expect("cp is everywhere").success());
    }

    fn make(&self, layout: Layout, kept: &Path) {
        let directory = tempfile::tempdir_in(&self.tools.cache).expect("a directory in target");
        let image = directory.path().join("image");
        let file = fs::File::create(&image).expect("own directory");
        file.set_len(IMAGE_BYTES).expect("a sparse file");
        let mut machine = Machine::new("image", layout, Bus::Virtio, directory.path());
        machine.start(self, &Start::Make);
        machine.wait_for_word("made");
        machine.wait_for_end();
        fs::rename(&image, kept).expect("the same file system");
    }
}

/// A disk with a file system of which the only file is the agent.
fn agent_disk(binary: &Path, directory: &Path) -> PathBuf {
    let content = directory.join("agent");
    fs::create_dir(&content).expect("own directory");
    let mut strip = Command::new("strip");
    strip.arg("-o").args([&content.join("supernode"), binary]);
    assert!(strip.status().expect("it comes with the linker").success());
    let disk = directory.join("agent.raw");
    let file = fs::File::create(&disk).expect("own directory");
    file.set_len(IMAGE_BYTES).expect("a sparse file");
    let mut make = Command::new(found("mkfs.ext4"));
    make.args(["-q", "-O", "^has_journal", "-d"])
        .args([&content, &disk]);
    assert!(make.status().expect("it was looked for before").success());
    disk
}

fn found(name: &str) -> PathBuf {
    program(name).expect("it was looked for before")
}

/// What every file system here begins with.
fn base(tools: &Tools) -> Archive {
    let mut archive = Archive::default();
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        archive.link(link, target);
    }
    for directory in [
        "proc",
        "sys",
        "dev",
        "run",
        "root",
        "tmp",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "var/lib",
    ] {
        archive.directory(directory);
    }
    let busybox = tools.root.join("bin/busybox");
    archive.file(
        "usr/bin/busybox",
        fs::read(&busybox).expect("it was unpacked"),
    );
    let applets = Command::new(&busybox).arg("--list").output();
    let applets = String::from_utf8(applets.expect("it runs here too").stdout).expect("names");
    for applet in applets
        .lines()
        .filter(|name| !GUEST_PROGRAMS.contains(name) && *name != "busybox")
    {
        archive.link(&format!("usr/bin/{applet}"), "busybox");
    }
    for name in ["init", "reboot"] {
        archive.link(&format!("usr/sbin/{name}"), "../bin/busybox");
    }
    archive.file("etc/lvm/lvm.conf", LVM_CONFIGURATION);
    archive
}

/// The system on the disk.
fn system(tools: &Tools, agent: &Path) -> Archive {
    let mut archive = base(tools);
    archive.libraries(agent);
    for name in GUEST_PROGRAMS {
        archive.program(&format!("usr/libexec/real/{name}"), &found(name));
        archive.link(&format!("usr/sbin/{name}"), "../libexec/tool");
    }
    archive.file("usr/libexec/tool", include_str!("guest/tool"));
    archive.file("etc/inittab", include_str!("guest/inittab"));
    archive.file("etc/start", include_str!("guest/start"));
    archive.file("etc/agent", include_str!("guest/agent"));
    archive.file("etc/writer", include_str!("guest/writer"));
    archive.file(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    );
    archive.file("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    archive
}

/// The kernel's first file system.
fn starting(tools: &Tools) -> Archive {
    let mut archive = base(tools);
    archive.file("init", include_str!("guest/init"));
    archive.program("usr/sbin/lvm", &found("lvm"));
    let known = modules(&tools.modules);
    for (group, names) in MODULES {
        let mut order = Vec::new();
        for name in *names {
            require(&known, name, &mut order);
        }
        for (number, name) in order.iter().enumerate() {
            let content = fs::read(&known[name]).expect("it was unpacked");
            archive.file(&format!("modules/{group}/{number:02}-{name}.ko"), content);
        }
    }
    archive
}

/// All modules by their names.
fn modules(directory: &Path) -> BTreeMap<String, PathBuf> {
    let mut known = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("it was unpacked") {
            let path = entry.expect("it was unpacked").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ko") {
                let name = path
                    .file_stem()
                    .and_then(|name| name.to_str())
                    .expect("a plain name");
                known.insert(name.replace('-', "_"), path.clone());
            }
        }
    }
    known
}

/// Puts a module behind all that it needs. What is no module is part of the kernel.
fn require(known: &BTreeMap<String, PathBuf>, name: &str, order: &mut Vec<String>) {
    let Some(path) = known
        .get(name)
        .filter(|_| !order.iter().any(|done| done == name))
    else {
        return;
    };
    let content = fs::read(path).expect("it was unpacked");
    let begin = content
        .windows(DEPENDS.len())
        .position(|window| window == DEPENDS);
    let rest = begin.map_or(&[][..], |begin| &content[begin + DEPENDS.len()..]);
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    let needed = String::from_utf8_lossy(&rest[..end]);
    for needed in needed.split(',').filter(|needed| !needed.is_empty()) {
        require(known, &needed.replace('-', "_"), order);
    }
    order.push(name.to_owned());
}
