//! The layout planner on written-down layouts, and properties of it on layouts that nobody wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use supernode_probe::system_disk::{Answers, PROGRAMS, plan_of};
use supernode_types::disk::{DiskStep, GIB, Growth, SystemDisk};

fn programs(without: Option<&str>) -> BTreeSet<String> {
    PROGRAMS
        .iter()
        .filter(|program| Some(**program) != without)
        .map(|program| (*program).to_owned())
        .collect()
}

/// One file: its facts, and its sections.
#[derive(Default)]
struct Layout {
    facts: BTreeMap<String, String>,
    sections: BTreeMap<String, String>,
}

impl Layout {
    fn parse(text: &str) -> Self {
        let mut layout = Self::default();
        let mut section = String::new();
        for line in text.lines() {
            match line.strip_prefix("== ") {
                Some(fact) if fact.starts_with("fact ") => {
                    let mut words = fact.splitn(3, ' ').skip(1);
                    let name = words.next().expect("a fact has a name").to_owned();
                    let value = words.next().expect("a fact has a value").to_owned();
                    layout.facts.insert(name, value);
                }
                Some(name) => name.clone_into(&mut section),
                None if section.is_empty() => {}
                None => {
                    let content = layout.sections.entry(section.clone()).or_default();
                    content.push_str(line);
                    content.push('\n');
                }
            }
        }
        layout
    }

    fn section(&self, name: &str) -> &str {
        self.sections.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        let text = self.facts.get(name)?;
        Some(text.parse().expect("a number"))
    }

    fn plan(&self) -> SystemDisk {
        let capabilities = self.facts.get("capabilities").map_or(u64::MAX, |mask| {
            u64::from_str_radix(mask, 16).expect("a hexadecimal mask")
        });
        let answers = Answers {
            lsblk: self.section("lsblk"),
            findmnt: self.section("findmnt"),
            sfdisk: self.section("sfdisk"),
            lvm: ["pvs", "vgs", "lvs"].map(|name| self.section(name)),
            btrfs_devices: self.number("btrfs_devices"),
            file_system_bytes: self.number("file_system_bytes"),
            capabilities,
        };
        let place = self.facts.get("place").map_or("/", String::as_str);
        let without = self.facts.get("without").map(String::as_str);
        let wanted = self.number("wanted_gib").map(|gib| gib * GIB);
        plan_of(&answers, place, &programs(without), wanted)
    }
}

fn render(disk: &SystemDisk) -> String {
    let mut text = match &disk.growth {
        Growth::Unknown { why } => format!("unknown: {why}\n"),
        Growth::No { why } => format!("no: {why}\n"),
        Growth::Yes { at_size, .. } => {
            format!("yes, {}\n", if *at_size { "at size" } else { "to grow" })
        }
    };
    if let Growth::Yes { steps, .. } = &disk.growth {
        for step in steps {
            let detail = match step {
                DiskStep::Device { bus, .. } => format!("{bus:?}"),
                DiskStep::Partition { number, table, .. } => format!("{table:?} {number}"),
                DiskStep::LogicalVolume { name, .. } | DiskStep::FileSystem { name, .. } => {
                    name.clone()
                }
                DiskStep::PhysicalVolume { .. } | DiskStep::Verify => String::new(),
            };
            let line = format!("step {}: {} {detail}", step.word(), step.subject());
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    for item in &disk.tree {
        let mark = if item.carries_system { "*" } else { " " };
        let line = format!(
            "{mark} {}{} {} {} {} {}",
            "  ".repeat(item.depth as usize),
            item.name,
            item.kind,
            item.size_bytes,
            item.content,
            item.mount_point
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[test]
fn every_written_down_layout_is_understood() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layouts");
    let update = std::env::var_os("UPDATE_LAYOUTS").is_some();
    let mut names: Vec<_> = std::fs::read_dir(&directory)
        .expect("the layouts are checked in")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    names.sort();
    assert!(names.len() >= 30, "layouts are missing");
    let mut differences = Vec::new();
    for path in names {
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let layout = Layout::parse(&text);
        let found = render(&layout.plan());
        if found == layout.section("expect") {
            continue;
        }
        if update {
            let begin = text.find("== expect\n").expect("it has the section");
            let text = format!("{}== expect\n{found}", &text[..begin]);
            std::fs::write(&path, text).expect("it can be written");
        }
        differences.push(format!("{}\n{found}", path.display()));
    }
    assert!(
        differences.is_empty() || update,
        "{}",
        differences.join("\n")
    );
}

/// A disk with `count` partitions of `size` MiB, of which one carries the root.
#[derive(Debug, Clone)]
struct Made {
    count: u32,
    root: u32,
    size_mib: u64,
    gap_mib: u64,
    gpt: bool,
    kind: &'static str,
    lvm: bool,
    disk_gib: u64,
}

fn made() -> impl Strategy<Value = Made> {
    let kinds = prop::sample::select(vec!["ext4", "xfs", "btrfs", "zfs", "overlay", "nfs4"]);
    (
        1..5_u32,
        0..5_u32,
        1..4096_u64,
        0..64_u64,
        any::<bool>(),
        kinds,
        any::<bool>(),
        1..4096_u64,
    )
        .prop_map(
            |(count, root, size_mib, gap_mib, gpt, kind, lvm, disk_gib)| Made {
                count,
                root: root % count + 1,
                size_mib,
                gap_mib,
                gpt,
                kind,
                lvm,
                disk_gib,
            },
        )
}

fn plan_made(made: &Made, wanted_gib: u64, programs: &BTreeSet<String>) -> SystemDisk {
    let block = |name: &str, kind: &str, size: u64, children: Vec<Value>| json!({"name": name, "kname": name, "type": kind, "size": size, "subsystems": "block:virtio:pci", "children": children});
    let bytes = made.size_mib << 20;
    let partitions: Vec<Value> = (1..=made.count)
        .map(|number| {
            let volume = block("vg-root", "lvm", bytes, vec![]);
            let children = if made.lvm && number == made.root {
                vec![volume]
            } else {
                vec![]
            };
            block(&format!("vda{number}"), "part", bytes, children)
        })
        .collect();
    let lsblk = json!({"blockdevices": [block("vda", "disk", made.disk_gib * GIB, partitions)]})
        .to_string();
    let table: Vec<Value> = (0..made.count)
        .map(|index| {
            let start = 2048 * (1 + u64::from(index) * (made.size_mib + made.gap_mib));
            json!({"node": format!("/dev/vda{}", index + 1), "start": start, "size": made.size_mib * 2048, "type": "83"})
        })
        .collect();
    let label = if made.gpt { "gpt" } else { "dos" };
    let sfdisk =
        json!({"partitiontable": {"label": label, "device": "/dev/vda", "partitions": table}})
            .to_string();
    let source = if made.lvm {
        "/dev/mapper/vg-root".to_owned()
    } else {
        format!("/dev/vda{}", made.root)
    };
    let findmnt = json!({"filesystems": [{"source": source, "target": "/", "fstype": made.kind, "options": "rw"}]}).to_string();
    let pvs =
        json!({"report": [{"pv": [{"pv_name": "/dev/vda1", "vg_name": "vg", "pv_size": "1"}]}]})
            .to_string();
    let vgs = json!({"report": [{"vg": [{"vg_name": "vg", "vg_extent_size": "4194304", "vg_free": "0", "pv_count": "1"}]}]}).to_string();
    let lvs = json!({"report": [{"lv": [{"lv_name": "root", "vg_name": "vg", "segtype": "linear", "lv_dm_path": "/dev/mapper/vg-root"}]}]}).to_string();
    let answers = Answers {
        lsblk: &lsblk,
        findmnt: &findmnt,
        sfdisk: &sfdisk,
        lvm: [&pvs, &vgs, &lvs],
        capabilities: u64::MAX,
        ..Answers::default()
    };
    plan_of(&answers, "/", programs, Some(wanted_gib * GIB))
}

proptest! {
    /// Layers come in their order, each at most once, from the device to the verification; a disk never shrinks; nothing but the
    /// last partition is touched; every refusal is one line.
    #[test]
    fn plans_keep_their_promises(made in made(), wanted_gib in 1..8192_u64, without in 0..12_usize) {
        let missing = PROGRAMS.get(without).copied();
        let disk = plan_made(&made, wanted_gib, &programs(missing));
        match &disk.growth {
            Growth::Unknown { why } => prop_assert!(false, "a verdict is always given: {why}"),
            Growth::No { why } => {
                prop_assert!(!why.is_empty() && !why.contains('\n'), "{why}");
                let local = ["ext4", "xfs", "btrfs"].contains(&made.kind);
                let reason = !local
                    || wanted_gib < made.disk_gib
                    || made.root != made.count
                    || missing.is_some()
                    || (!made.gpt && wanted_gib > 2048);
                prop_assert!(reason, "refused without a reason: {why}");
            }
            Growth::Yes { steps, .. } => {
                prop_assert!(wanted_gib >= made.disk_gib);
                prop_assert_eq!(made.root, made.count);
                let order = ["device", "partition", "physical volume", "logical volume", "file system", "verify"];
                let places: Vec<_> = steps.iter().map(|step| order.iter().position(|word| *word == step.word())).collect();
                prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", steps);
                prop_assert_eq!(steps.len(), if made.lvm { 6 } else { 4 });
                let partition = steps.iter().find_map(|step| match step {
                    DiskStep::Partition { number, .. } => Some(*number),
                    _ => None,
                });
                prop_assert_eq!(partition, Some(made.count));
            }
        }
    }

    /// Whatever the tools print, the planner answers.
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,300}", cut in 0..2000_usize) {
        let layout = Layout::parse(include_str!("../layouts/openeuler-lvm-scsi.txt"));
        let lsblk = layout.section("lsblk");
        let end = (0..=cut.min(lsblk.len())).rev().find(|end| lsblk.is_char_boundary(*end)).unwrap_or(0);
        for lsblk in [text.as_str(), lsblk, &lsblk[..end]] {
            for findmnt in [text.as_str(), layout.section("findmnt")] {
                let answers = Answers { lsblk, findmnt, sfdisk: &text, lvm: [&text, &text, &text], capabilities: u64::MAX, ..Answers::default() };
                let disk = plan_of(&answers, "/", &programs(None), None);
                if let Growth::Unknown { why } | Growth::No { why } = disk.growth {
                    prop_assert!(!why.is_empty() && !why.contains('\n'), "{why}");
                }
            }
        }
    }
}
