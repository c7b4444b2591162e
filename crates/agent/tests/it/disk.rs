//! Growing real block devices: loop devices with GPT and MBR, file systems that are grown while a writer runs on them, tools that
//! fail, are missing, or see the agent killed under them.
//!
//! Root only, because block devices are; elsewhere each test says that it was skipped. What the kernel of this host cannot do (device
//! mapper, partition scanning, online growth of ext4 without `CAP_SYS_RESOURCE`) is met as it is: with success by another way, or
//! with the clear error that is promised.

mod loop_disk;
mod writer;

use std::path::PathBuf;
use std::process::{Command, Output};

use supernode_types::Timestamp;
use supernode_types::disk::{
    DiskReport, DiskReportState, DiskWish, GIB, Growth, StepState, SystemDisk,
};
use supernode_types::entropy::SeededEntropy;
use supernode_types::{Entropy, OperationId};

use loop_disk::{Layout, LoopDisk, Table};
use writer::Writer;

/// Says why a test does nothing here.
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether the tests can run: root, and the tools.
fn able(tools: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("block devices need root");
        return false;
    }
    for tool in tools {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|directory| PathBuf::from(directory).join(tool).exists());
        if !found {
            skip(&format!(
                "{tool} is not installed; `cargo xtask ci --only setup` installs it"
            ));
            return false;
        }
    }
    true
}

const XFS: &[&str] = &["sfdisk", "partx", "growpart", "mkfs.xfs", "xfs_growfs"];
const BTRFS: &[&str] = &["sfdisk", "partx", "growpart", "mkfs.btrfs", "btrfs"];
const EXT4: &[&str] = &["sfdisk", "partx", "growpart", "mkfs.ext4", "resize2fs"];

/// Whether this process may grow a mounted ext4.
fn may_grow_ext4_online() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << 24) != 0)
}

/// The agent's executor, as a process of its own, on one disk.
struct Bench {
    data: tempfile::TempDir,
    tools: tempfile::TempDir,
    operation: OperationId,
}

impl Bench {
    fn new() -> Self {
        Self::for_operation(1)
    }

    fn for_operation(seed: u64) -> Self {
        let entropy: &dyn Entropy = &SeededEntropy::new(seed);
        Self {
            data: tempfile::tempdir().expect("a temporary directory"),
            tools: tempfile::tempdir().expect("a temporary directory"),
            operation: OperationId::new(Timestamp(0), entropy),
        }
    }

    /// Puts a program before the system's own of that name; `REAL` in it is the path of that.
    fn shim(&self, name: &str, script: &str) {
        let real = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .map(|directory| PathBuf::from(directory).join(name))
            .find(|path| path.exists());
        let real = real.map_or_else(String::new, |path| path.display().to_string());
        let path = self.tools.path().join(name);
        let text = format!("#!/bin/sh\n{}\n", script.replace("REAL", &real));
        std::fs::write(&path, text).expect("it is ours");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("it is ours");
    }

    fn unshim(&self, name: &str) {
        std::fs::remove_file(self.tools.path().join(name)).expect("it was put there");
    }

    fn command(&self, place: &str, wish: &str) -> Command {
        let test = std::env::current_exe().expect("a test has a path");
        let target = test
            .ancestors()
            .nth(2)
            .expect("tests are in target/PROFILE/deps");
        let program = target.join("examples/disk_expand");
        assert!(
            program.exists(),
            "{} is missing: run the tests of the whole package, which builds its examples",
            program.display()
        );
        let mut command = Command::new(program);
        command
            .arg(self.data.path())
            .arg(place)
            .arg(wish)
            .arg(self.tools.path())
            .arg("boot-1");
        command
    }

    fn wish(&self, gib: u64, device_seconds: u64) -> String {
        let wish = DiskWish {
            operation: self.operation.clone(),
            size_bytes: gib * GIB,
            device_seconds,
            restart: None,
        };
        serde_json::to_string(&wish).expect("plain data")
    }

    fn run(&self, place: &str, gib: u64) -> Output {
        self.command(place, &self.wish(gib, 5))
            .output()
            .expect("the example starts")
    }

    /// Runs it to its end; answers the last report.
    fn expand(&self, place: &str, gib: u64) -> DiskReport {
        let output = self.run(place, gib);
        last_report(&output)
    }

    fn look(&self, place: &str) -> SystemDisk {
        let output = self
            .command(place, "look")
            .output()
            .expect("the example starts");
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }
}

fn last_report(output: &Output) -> DiskReport {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Every layer grew, and says so in bytes.
fn assert_grown(report: &DiskReport, before_gib: u64, after_gib: u64) {
    assert_eq!(report.state, DiskReportState::Done, "{report:#?}");
    for step in &report.steps {
        assert_eq!(step.state, StepState::Done, "{report:#?}");
        if step.layer == "verify" {
            continue;
        }
        let before = step.before_bytes.expect("it was measured");
        let after = step.after_bytes.expect("it was measured");
        assert!(before <= before_gib * GIB, "{step:?}");
        assert!(
            after > (after_gib * GIB).saturating_sub(GIB / 4) && after <= after_gib * GIB,
            "{step:?}"
        );
    }
}

/// Grows from 1 to 2 GiB while a writer writes; then everything that was acknowledged is there and the file system is clean.
fn grows_online(layout: Layout) {
    let disk = LoopDisk::new(layout, 1);
    let bench = Bench::new();
    let Growth::Yes { at_size: true, .. } = bench.look(&disk.mount_point()).growth else {
        panic!("{:?}", bench.look(&disk.mount_point()));
    };
    let writer = Writer::start(&disk.mount_point());
    disk.grow_file(2);
    let report = bench.expand(&disk.mount_point(), 2);
    let written = writer.stop();
    assert_grown(&report, 1, 2);
    assert!(written > 0, "the writer wrote");
    // Once more changes nothing, and is success.
    let again = bench.expand(&disk.mount_point(), 2);
    assert_eq!(again.state, DiskReportState::Done, "{again:#?}");
    assert_eq!(again.steps[0].before_bytes, report.steps[0].before_bytes);
    disk.check();
}

#[test]
fn xfs_on_gpt_grows_while_a_writer_runs() {
    if able(XFS) {
        grows_online(Layout::partitioned(Table::Gpt, "xfs"));
    }
}

#[test]
fn xfs_on_mbr_grows_while_a_writer_runs() {
    if able(XFS) {
        grows_online(Layout::partitioned(Table::Mbr, "xfs"));
    }
}

#[test]
fn btrfs_on_gpt_grows_while_a_writer_runs() {
    if able(BTRFS) {
        grows_online(Layout::partitioned(Table::Gpt, "btrfs"));
    }
}

#[test]
fn xfs_on_a_whole_disk_grows_while_a_writer_runs() {
    if able(XFS) {
        grows_online(Layout::whole("xfs"));
    }
}

#[test]
fn without_growpart_sfdisk_does_it() {
    if !able(XFS) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let bench = Bench::new();
    disk.grow_file(2);
    // In a mount namespace of its own, what lies where growpart was is no program.
    let hide = "mount --bind /dev/null \"$(command -v growpart)\" && exec \"$@\"";
    let inner = bench.command(&disk.mount_point(), &bench.wish(2, 5));
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", hide, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .output()
        .expect("unshare starts");
    let report = last_report(&output);
    assert_grown(&report, 1, 2);
    assert!(
        !report.steps[1].detail.contains("CHANGE"),
        "growpart was used: {report:#?}"
    );
    disk.check();
}

#[test]
fn a_tool_that_fails_leaves_the_disk_usable_and_the_next_try_goes_on() {
    if !able(XFS) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let bench = Bench::new();
    bench.shim("growpart", "exit 2");
    disk.grow_file(2);
    let failed = bench.expand(&disk.mount_point(), 2);
    let DiskReportState::Failed { layer, why } = &failed.state else {
        panic!("{failed:#?}");
    };
    assert_eq!(layer, "partition");
    assert!(why.contains("growpart ended with 2"), "{why}");
    // What had been done stays, and what had not is as before: the file system is usable, and the next try goes on.
    disk.assert_usable();
    bench.unshim("growpart");
    assert_grown(&bench.expand(&disk.mount_point(), 2), 1, 2);
    disk.check();
}

#[test]
fn a_look_that_fails_once_is_repeated() {
    if !able(XFS) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let bench = Bench::new();
    let told =
        "[ -e \"$0.told\" ] || { touch \"$0.told\"; echo 'lsblk: out of memory' >&2; exit 1; }";
    bench.shim("lsblk", &format!("{told}\nexec REAL \"$@\""));
    disk.grow_file(2);
    let Growth::Unknown { why } = bench.look(&disk.mount_point()).growth else {
        panic!("a tool that fails is no verdict");
    };
    assert!(why.contains("out of memory"), "{why}");
    std::fs::remove_file(bench.tools.path().join("lsblk.told")).expect("it was put there");
    assert_grown(&bench.expand(&disk.mount_point(), 2), 1, 2);
    disk.check();
}

#[test]
fn ext4_online_needs_a_capability_and_offline_does_not() {
    if !able(EXT4) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "ext4"), 1);
    let bench = Bench::new();
    disk.grow_file(2);
    if may_grow_ext4_online() {
        assert_grown(&bench.expand(&disk.mount_point(), 2), 1, 2);
    } else {
        // The plan says it before anything is touched.
        let Growth::No { why } = bench.look(&disk.mount_point()).growth else {
            panic!("this process lacks the capability");
        };
        assert!(why.contains("CAP_SYS_RESOURCE"), "{why}");
        let report = bench.expand(&disk.mount_point(), 2);
        assert!(
            matches!(&report.state, DiskReportState::Failed { layer, .. } if layer == "layout")
        );
        disk.assert_usable();
        disk.unmount();
        assert_grown(&bench.expand(&disk.device(), 2), 1, 2);
    }
    disk.check();
}

#[test]
fn a_device_that_does_not_grow_fails_within_its_time_and_touches_nothing() {
    if !able(XFS) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let bench = Bench::new();
    let output = bench
        .command(&disk.mount_point(), &bench.wish(2, 1))
        .output()
        .expect("the example starts");
    let report = last_report(&output);
    let DiskReportState::Failed { layer, why } = &report.state else {
        panic!("{report:#?}");
    };
    assert_eq!(layer, "device");
    assert!(why.contains("still has 1 GiB after 1 s"), "{why}");
    assert_eq!(report.steps[1].state, StepState::Waiting);
    disk.assert_usable();
}

#[test]
fn layouts_that_do_not_grow_say_why_and_stay_as_they_are() {
    if !able(XFS) {
        return;
    }
    for gap in [false, true] {
        let disk = LoopDisk::new(Layout::with_trailing_partition("xfs", gap), 1);
        let before = disk.table();
        disk.grow_file(2);
        let bench = Bench::new();
        let report = bench.expand(&disk.mount_point(), 2);
        let DiskReportState::Failed { layer, why } = &report.state else {
            panic!("{report:#?}");
        };
        assert_eq!(layer, "layout");
        assert!(why.contains("is not the last partition"), "{why}");
        assert_eq!(disk.table(), before);
        disk.assert_usable();
    }
}

#[test]
fn a_gap_before_the_last_partition_does_not_matter() {
    if able(XFS) {
        grows_online(Layout::with_gap_before("xfs"));
    }
}

#[test]
fn a_kernel_that_keeps_the_old_table_needs_a_restart_and_then_goes_on() {
    if !able(XFS) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let bench = Bench::new();
    // Nothing can tell this kernel: it is as if it could not be told.
    bench.shim("partx", "echo 'partx: failed to update' >&2; exit 1");
    bench.shim("growpart", "REAL --update off \"$@\"");
    disk.grow_file(2);
    let report = bench.expand(&disk.mount_point(), 2);
    let DiskReportState::NeedsRestart { why, boot_id } = &report.state else {
        panic!("{report:#?}");
    };
    assert_eq!(boot_id, "boot-1");
    assert!(
        why.contains("keeps the old one (partx: failed to update)"),
        "{why}"
    );
    disk.assert_usable();
    // After the restart the kernel has read the table.
    bench.unshim("partx");
    assert_grown(&bench.expand(&disk.mount_point(), 2), 1, 2);
    disk.check();
}

#[test]
fn a_disk_that_is_full_grows() {
    if !able(XFS) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let mut bench = Bench::new();
    // The agent keeps its record on the disk that is full.
    bench.data = tempfile::tempdir_in(disk.mount_point()).expect("there is room yet");
    disk.fill();
    disk.grow_file(2);
    assert_grown(&bench.expand(&disk.mount_point(), 2), 1, 2);
    disk.assert_usable();
    drop(bench);
    disk.check();
}

#[test]
fn a_namespace_node_grows_its_root_while_it_is_mounted_as_root() {
    if !able(XFS) || !able(&["unshare", "pivot_root"]) {
        return;
    }
    let disk = LoopDisk::new(Layout::partitioned(Table::Gpt, "xfs"), 1);
    let bench = Bench::new();
    let writer = Writer::start(&disk.mount_point());
    disk.grow_file(2);
    // The same file system, mounted once more as the root of a mount namespace; programs come from the host.
    let enter = r#"set -e
        root=$(mktemp -d) && mount "$0" "$root" && cd "$root"
        for name in $(ls /); do
            [ -d "/$name" ] || continue
            if [ -L "/$name" ]; then cp -a "/$name" .; continue; fi
            mkdir -p "$name" && mount --rbind "/$name" "$name"
        done
        mkdir -p .old && pivot_root . .old && umount --lazy /.old
        [ "$(findmnt --noheadings --output SOURCE /)" = "$0" ]
        exec "$@""#;
    let inner = bench.command("/", &bench.wish(2, 5));
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--propagation",
            "private",
            "sh",
            "-c",
            enter,
        ])
        .arg(disk.device())
        .arg(inner.get_program())
        .args(inner.get_args())
        .output()
        .expect("unshare starts");
    let report = last_report(&output);
    assert!(writer.stop() > 0);
    assert_grown(&report, 1, 2);
    assert_eq!(report.steps[2].subject, "xfs on /");
    disk.check();
}

/// `kill -9` of the agent before, inside and after each tool, on each layout: the next agent gets to the end, nothing is lost.
#[test]
fn a_kill_at_any_tool_loses_nothing() {
    if !able(XFS) || !able(BTRFS) {
        return;
    }
    let layouts = [
        (Layout::partitioned(Table::Gpt, "xfs"), "xfs_growfs"),
        (Layout::partitioned(Table::Mbr, "xfs"), "xfs_growfs"),
        (Layout::partitioned(Table::Gpt, "btrfs"), "btrfs"),
    ];
    let moments = [
        ("before", "kill -9 $PPID; exit 1"),
        // The tool goes on although the agent that started it is gone, as it does in life.
        ("inside", "kill -9 $PPID; sleep 0.2; exec REAL \"$@\""),
        ("after", "REAL \"$@\"; code=$?; kill -9 $PPID; exit $code"),
    ];
    for (layout, grower) in layouts {
        for tool in ["losetup", "growpart", "partx", grower] {
            for (moment, script) in moments {
                let what = format!("{layout:?}: killed {moment} {tool}");
                let disk = LoopDisk::new(layout, 1);
                let bench = Bench::new();
                if tool == "partx" {
                    bench.shim("growpart", "REAL --update off \"$@\"");
                }
                let writer = Writer::start(&disk.mount_point());
                disk.grow_file(2);
                bench.shim(tool, script);
                let killed = bench.run(&disk.mount_point(), 2);
                assert_eq!(killed.status.code(), None, "{what}: it was not killed");
                bench.unshim(tool);
                let report = bench.expand(&disk.mount_point(), 2);
                assert!(writer.stop() > 0, "{what}");
                assert_eq!(report.state, DiskReportState::Done, "{what}: {report:#?}");
                assert_grown(&report, 1, 2);
                disk.check();
            }
        }
    }
}
