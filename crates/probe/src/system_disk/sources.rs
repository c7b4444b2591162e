//! What the system's own tools say of disks, as values: `lsblk`, `findmnt`, `sfdisk` and the LVM reports, all in JSON.
//!
//! The tools changed their JSON over the years: numbers were texts, booleans were `"1"`. Both are read. What is missing is absent
//! and never a guess. Nothing here decides anything.

use serde_json::Value;

/// A block device as `lsblk` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// How deep in the tree.
    pub(crate) depth: u32,
    pub(crate) name: String,
    /// The kernel's name.
    pub(crate) kernel_name: String,
    /// The kernel's names of what it lies on.
    pub(crate) parents: Vec<String>,
    /// `disk`, `part`, `lvm`, `crypt`, `raid1`, `loop`, …
    pub(crate) kind: String,
    pub(crate) size_bytes: u64,
    pub(crate) content: String,
    pub(crate) mount_point: String,
    pub(crate) read_only: bool,
    /// `block:virtio:pci`, …
    pub(crate) subsystems: String,
    /// Major and minor number, `254:1`.
    pub(crate) number: String,
}

/// The file system that a path is on, as `findmnt` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Without the subvolume in brackets.
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) kind: String,
    pub(crate) options: String,
    pub(crate) number: String,
}

/// A partition table as `sfdisk` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// `gpt` or `dos`.
    pub(crate) label: String,
    pub(crate) sector_bytes: u64,
    pub(crate) partitions: Vec<Partition>,
}

/// One partition; lengths in sectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) number: u32,
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) kind: String,
}

/// What LVM says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lvm {
    pub(crate) physical: Vec<PhysicalVolume>,
    pub(crate) groups: Vec<VolumeGroup>,
    pub(crate) logical: Vec<LogicalVolume>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PhysicalVolume {
    pub(crate) device: String,
    pub(crate) group: String,
    pub(crate) size_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VolumeGroup {
    pub(crate) name: String,
    pub(crate) extent_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) physical_volumes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogicalVolume {
    pub(crate) name: String,
    pub(crate) group: String,
    /// `linear`, `striped`, `thin`, …
    pub(crate) kind: String,
    /// Of what it is a snapshot.
    pub(crate) origin: String,
    /// `/dev/mapper/vg-root`
    pub(crate) mapper_path: String,
}

/// Reads `lsblk --json --bytes`. A device below several others is listed once, with all of them as parents.
pub(crate) fn parse_blocks(text: &str) -> Result<Vec<Block>, String> {
    let value = json(text, "lsblk")?;
    let roots = list(&value, "blockdevices").ok_or("lsblk listed no block devices")?;
    let mut blocks = Vec::new();
    for root in roots {
        walk(root, None, 0, &mut blocks);
    }
    Ok(blocks)
}

/// No real tree is nearly as deep.
const MOST_DEPTH: u32 = 32;

fn walk(value: &Value, parent: Option<&str>, depth: u32, blocks: &mut Vec<Block>) {
    let block = Block {
        depth,
        name: text_of(value, "name"),
        kernel_name: text_of(value, "kname"),
        parents: parent.map(str::to_owned).into_iter().collect(),
        kind: text_of(value, "type"),
        size_bytes: number_of(value, "size"),
        content: text_of(value, "fstype"),
        mount_point: text_of(value, "mountpoint"),
        read_only: truth_of(value, "ro"),
        subsystems: text_of(value, "subsystems"),
        number: text_of(value, "maj:min").trim().to_owned(),
    };
    let kernel_name = block.kernel_name.clone();
    if kernel_name.is_empty() || depth > MOST_DEPTH {
        return;
    }
    if let Some(known) = blocks
        .iter_mut()
        .find(|known| known.kernel_name == kernel_name)
    {
        for parent in block.parents {
            if !known.parents.contains(&parent) {
                known.parents.push(parent);
            }
        }
        return;
    }
    blocks.push(block);
    for child in list(value, "children").into_iter().flatten() {
        walk(child, Some(&kernel_name), depth + 1, blocks);
    }
}

/// Reads `findmnt --json --bytes --target PATH`. Of several file systems on top of each other the last one counts.
pub(crate) fn parse_mount(text: &str) -> Result<Mount, String> {
    let value = json(text, "findmnt")?;
    let found = list(&value, "filesystems").and_then(|all| all.last());
    let found = found.ok_or("findmnt found no file system")?;
    let source = text_of(found, "source");
    let source = source
        .split_once('[')
        .map_or(source.as_str(), |(device, _)| device);
    Ok(Mount {
        source: source.to_owned(),
        target: text_of(found, "target"),
        kind: text_of(found, "fstype"),
        options: text_of(found, "options"),
        number: text_of(found, "maj:min").trim().to_owned(),
    })
}

/// Reads `sfdisk --json DISK`; `None` for a disk without a partition table.
pub(crate) fn parse_table(text: &str) -> Result<Option<Table>, String> {
    if !text.contains('{') {
        return Ok(None);
    }
    let value = json(text, "sfdisk")?;
    let Some(found) = value.get("partitiontable") else {
        return Ok(None);
    };
    let device = text_of(found, "device");
    let partition = |value: &Value| {
        let node = text_of(value, "node");
        let suffix = node.strip_prefix(&device)?;
        Some(Partition {
            number: suffix.strip_prefix('p').unwrap_or(suffix).parse().ok()?,
            start: number_of(value, "start"),
            size: number_of(value, "size"),
            kind: text_of(value, "type"),
        })
    };
    let sector_bytes = match number_of(found, "sectorsize") {
        0 => 512,
        bytes => bytes,
    };
    Ok(Some(Table {
        label: text_of(found, "label"),
        sector_bytes,
        partitions: list(found, "partitions")
            .into_iter()
            .flatten()
            .filter_map(partition)
            .collect(),
    }))
}

/// Reads the reports of `pvs`, `vgs` and `lvs` with `--reportformat json --units b --nosuffix`.
pub(crate) fn parse_lvm(pvs: &str, vgs: &str, lvs: &str) -> Result<Lvm, String> {
    let physical = |value: &Value| PhysicalVolume {
        device: text_of(value, "pv_name"),
        group: text_of(value, "vg_name"),
        size_bytes: number_of(value, "pv_size"),
    };
    let group = |value: &Value| VolumeGroup {
        name: text_of(value, "vg_name"),
        extent_bytes: number_of(value, "vg_extent_size"),
        free_bytes: number_of(value, "vg_free"),
        physical_volumes: number_of(value, "pv_count"),
    };
    let logical = |value: &Value| LogicalVolume {
        name: text_of(value, "lv_name"),
        group: text_of(value, "vg_name"),
        kind: text_of(value, "segtype"),
        origin: text_of(value, "origin"),
        mapper_path: text_of(value, "lv_dm_path"),
    };
    Ok(Lvm {
        physical: report(pvs, "pv")?.iter().map(physical).collect(),
        groups: report(vgs, "vg")?.iter().map(group).collect(),
        logical: report(lvs, "lv")?.iter().map(logical).collect(),
    })
}

fn report(text: &str, name: &str) -> Result<Vec<Value>, String> {
    let value = json(text, "LVM")?;
    let reports = list(&value, "report").into_iter().flatten();
    Ok(reports
        .filter_map(|report| list(report, name))
        .flatten()
        .cloned()
        .collect())
}

/// The most characters of a tool's answer that are told when it cannot be read.
const MOST_SHOWN_CHARACTERS: usize = 400;

/// Tools warn before and behind their JSON.
fn json(text: &str, tool: &str) -> Result<Value, String> {
    let begin = text.find('{').unwrap_or(0);
    let mut values = serde_json::Deserializer::from_str(&text[begin..]).into_iter();
    if let Some(Ok(value)) = values.next() {
        return Ok(value);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let words = words.join(" ");
    let said: String = words.chars().take(MOST_SHOWN_CHARACTERS).collect();
    Err(format!("{tool} did not answer in JSON but: {said}"))
}

fn list<'a>(value: &'a Value, name: &str) -> Option<&'a Vec<Value>> {
    value.get(name)?.as_array()
}

fn text_of(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn number_of(value: &Value, name: &str) -> u64 {
    match value.get(name) {
        Some(Value::Number(number)) => number.as_u64().unwrap_or(0),
        Some(Value::String(text)) => text.trim().parse().unwrap_or(0),
        _ => 0,
    }
}

fn truth_of(value: &Value, name: &str) -> bool {
    match value.get(name) {
        Some(Value::Bool(truth)) => *truth,
        Some(Value::String(text)) => text == "1",
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        _ => false,
    }
}
