//! From what the tools say to a layout, a verdict and steps. A pure function.
//!
//! A chain is followed from the mounted file system down to one disk. Every layer of it must be one that grows: a partition that is
//! the last on its disk, LVM on one device, ext4, XFS or btrfs. Everything else is refused with one line that says why. Steps come
//! out in the order of the layers, the device first; a step that has nothing to do is listed all the same, because whether it has is
//! only known when its turn comes.

use std::collections::BTreeSet;

use supernode_types::disk::{
    DiskBus, DiskItem, DiskStep, FileSystemKind, Growth, PartitionTable, SystemDisk, size_words,
};

use super::sources::{Block, Lvm, Mount, Table};

/// What a partition table leaves unused at the end of a disk: alignment, and the second header.
const TABLE_SLACK_BYTES: u64 = 4 << 20;
/// What a file system leaves unused at the end of its device: a group that is too small to be one.
const FILE_SYSTEM_SLACK_BYTES: u64 = 16 << 20;
/// Where an MBR ends, in sectors.
const MBR_SECTORS: u64 = 1 << 32;

/// What the process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Privileges {
    /// `CAP_SYS_ADMIN` in the first user namespace.
    pub(crate) administer: bool,
    /// `CAP_SYS_RESOURCE`, which online growth of ext4 needs.
    pub(crate) resource: bool,
}

/// Everything that a verdict depends on.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) blocks: &'a [Block],
    pub(crate) mount: &'a Mount,
    /// The path whose file system counts; `mount.target` differs where it has none of its own.
    pub(crate) place: &'a str,
    pub(crate) table: Option<&'a Table>,
    pub(crate) lvm: Option<&'a Lvm>,
    /// How many devices a btrfs has.
    pub(crate) btrfs_devices: Option<u64>,
    /// The exact size of the file system.
    pub(crate) file_system_bytes: Option<u64>,
    /// Programs that are there.
    pub(crate) tools: &'a BTreeSet<String>,
    pub(crate) privileges: Privileges,
    /// The size that the disk is to have; absent where it is only looked at.
    pub(crate) wanted_bytes: Option<u64>,
}

/// The layers from the mounted device down to the disk.
#[derive(Debug, Clone)]
pub(crate) struct Chain<'a> {
    /// The file system's device first, the disk last.
    pub(crate) layers: Vec<&'a Block>,
}

impl Chain<'_> {
    pub(crate) fn disk(&self) -> &Block {
        self.layers
            .last()
            .expect("a chain has at least its first device")
    }

    pub(crate) fn has(&self, kind: &str) -> bool {
        self.layers.iter().any(|block| block.kind == kind)
    }
}

const MEMORY: [&str; 3] = ["tmpfs", "ramfs", "rootfs"];
const NETWORK: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "fuse.glusterfs",
    "9p",
    "virtiofs",
    "afs",
    "fuse.sshfs",
];

const GROWING: [&str; 3] = ["ext4", "xfs", "btrfs"];

fn does_not_grow(kind: &str) -> String {
    format!("the file system {kind} is not one that is grown (ext4, XFS and btrfs are)")
}

/// Follows the chain; the error is the one line that says why there is none that grows.
pub(crate) fn chain<'a>(blocks: &'a [Block], mount: &Mount) -> Result<Chain<'a>, String> {
    let place = &mount.target;
    let kind = mount.kind.as_str();
    if kind == "overlay" || kind == "aufs" {
        return Err(format!(
            "{place} is an overlay, as in a container or a live system: grow the disk of the host below it"
        ));
    }
    if MEMORY.contains(&kind) {
        return Err(format!(
            "{place} is in memory ({kind}): there is no disk to grow"
        ));
    }
    if NETWORK.contains(&kind) {
        return Err(format!(
            "{place} is on the network ({kind} from {}): grow it on its server",
            mount.source
        ));
    }
    let by_name = mount.source.strip_prefix("/dev/").and_then(|name| {
        let mapped = name.strip_prefix("mapper/").unwrap_or(name);
        blocks
            .iter()
            .find(|block| block.kernel_name == mapped || block.name == mapped)
    });
    // `/dev/root` names no device; the numbers of a btrfs do not either, so the name goes first.
    let by_number = || {
        blocks
            .iter()
            .find(|block| !block.number.is_empty() && block.number == mount.number)
    };
    let Some(first) = by_name.or_else(by_number) else {
        if !GROWING.contains(&kind) {
            return Err(does_not_grow(kind));
        }
        return Err(format!(
            "the device of {place} ({}, {kind}) is not a block device of this machine",
            mount.source
        ));
    };
    let mut layers = vec![first];
    let mut last = first;
    while !last.parents.is_empty() {
        if let [_, _, ..] = last.parents.as_slice() {
            return Err(format!(
                "{} lies on several devices ({}): such volumes are not grown",
                last.name,
                last.parents.join(", ")
            ));
        }
        let parent = blocks
            .iter()
            .find(|block| last.parents.first() == Some(&block.kernel_name));
        let Some(parent) = parent.filter(|_| layers.len() < 16) else {
            return Err(format!("what {} lies on was not found", last.name));
        };
        layers.push(parent);
        last = parent;
    }
    Ok(Chain { layers })
}

/// The layout with its verdict.
pub(crate) fn plan(facts: &Facts<'_>) -> SystemDisk {
    let mount_point = if facts.mount.source.is_empty() {
        String::new()
    } else {
        facts.mount.target.clone()
    };
    match chain(facts.blocks, facts.mount) {
        Err(why) => SystemDisk {
            mount_point,
            growth: Growth::No { why },
            ..SystemDisk::default()
        },
        Ok(chain) => {
            let disk = chain.disk();
            SystemDisk {
                mount_point,
                disk: Some(disk.kernel_name.clone()),
                size_bytes: disk.size_bytes,
                tree: tree(facts, &chain),
                growth: match steps(facts, &chain) {
                    Ok(steps) => Growth::Yes {
                        at_size: at_size(facts, &chain),
                        steps,
                    },
                    Err(why) => Growth::No { why },
                },
            }
        }
    }
}

fn tree(facts: &Facts<'_>, chain: &Chain<'_>) -> Vec<DiskItem> {
    let disk = chain.disk();
    let begin = facts
        .blocks
        .iter()
        .position(|block| block.kernel_name == disk.kernel_name)
        .unwrap_or(0);
    let below = facts.blocks[begin + 1..]
        .iter()
        .take_while(|block| block.depth > disk.depth);
    let item = |block: &Block| {
        let first = chain.layers[0].kernel_name == block.kernel_name;
        let known = |text: &String, other: &String| {
            if first { other.clone() } else { text.clone() }
        };
        DiskItem {
            depth: block.depth - disk.depth,
            name: block.name.clone(),
            kind: kind_words(&block.kind).to_owned(),
            size_bytes: block.size_bytes,
            content: known(&block.content, &facts.mount.kind),
            mount_point: known(&block.mount_point, &facts.mount.target),
            carries_system: chain
                .layers
                .iter()
                .any(|layer| layer.kernel_name == block.kernel_name),
        }
    };
    std::iter::once(disk).chain(below).map(item).collect()
}

fn kind_words(kind: &str) -> &str {
    match kind {
        "part" => "partition",
        "lvm" => "logical volume",
        "crypt" => "encrypted volume",
        "loop" => "disk in a file",
        "mpath" => "multipath disk",
        other => other,
    }
}

fn bus(disk: &Block) -> DiskBus {
    let has = |name: &str| disk.subsystems.split(':').any(|part| part == name);
    if disk.kind == "loop" {
        DiskBus::Loop
    } else if has("nvme") || disk.kernel_name.starts_with("nvme") {
        DiskBus::Nvme
    } else if has("scsi") || disk.kernel_name.starts_with("sd") {
        DiskBus::Scsi
    } else if has("virtio") || disk.kernel_name.starts_with("vd") {
        DiskBus::Virtio
    } else {
        DiskBus::Other
    }
}

/// The steps, or the one line that says why there are none. What is wrong with the layout is said before what is missing for it.
fn steps(facts: &Facts<'_>, chain: &Chain<'_>) -> Result<Vec<DiskStep>, String> {
    let disk = chain.disk();
    own(facts, disk)?;
    if !matches!(disk.kind.as_str(), "disk" | "loop") {
        return Err(format!(
            "{} is a {}: such volumes are not grown",
            disk.name,
            kind_words(&disk.kind)
        ));
    }
    if let Some(wanted) = facts
        .wanted_bytes
        .filter(|wanted| *wanted < disk.size_bytes)
    {
        return Err(format!(
            "{} has {} already, more than the {} that were asked for: a disk never shrinks",
            disk.name,
            size_words(disk.size_bytes),
            size_words(wanted)
        ));
    }
    if disk.read_only || chain.layers[0].read_only {
        return Err(format!("{} is read-only", disk.name));
    }
    let file_system = file_system_step(facts, chain)?;
    let stacked = |pair: &&[&Block]| pair.iter().all(|layer| layer.kind == "lvm");
    if let Some([volume, ..]) = chain.layers.windows(2).find(stacked) {
        return Err(format!(
            "{} is a logical volume made of others (thin, cached or mirrored): only linear ones are grown",
            volume.name
        ));
    }
    let mut steps = vec![DiskStep::Device {
        disk: disk.kernel_name.clone(),
        bus: bus(disk),
    }];
    for (position, layer) in chain.layers.iter().enumerate().rev().skip(1) {
        match layer.kind.as_str() {
            "part" => steps.push(partition_step(facts, disk, layer)?),
            "lvm" => {
                let below = chain.layers[position + 1];
                steps.extend(volume_steps(facts, layer, below)?);
            }
            "crypt" => {
                return Err(format!(
                    "{} is encrypted: encrypted volumes are not grown",
                    layer.name
                ));
            }
            raid if raid.starts_with("raid") => {
                return Err(format!(
                    "{} is a RAID volume: such volumes are not grown",
                    layer.name
                ));
            }
            other => {
                return Err(format!(
                    "{} is a {}: such volumes are not grown",
                    layer.name,
                    kind_words(other)
                ));
            }
        }
    }
    steps.push(file_system);
    steps.push(DiskStep::Verify);
    able(facts, &steps)?;
    Ok(steps)
}

/// Several local agents share the disk of their host; it is not theirs to grow.
fn own(facts: &Facts<'_>, disk: &Block) -> Result<(), String> {
    if facts.mount.target.is_empty() || facts.place == facts.mount.target {
        return Ok(());
    }
    Err(format!(
        "this node has no disk of its own: its files are on {} of its host, which it shares with others",
        disk.name
    ))
}

fn file_system_step(facts: &Facts<'_>, chain: &Chain<'_>) -> Result<DiskStep, String> {
    let mount = facts.mount;
    let kind = match mount.kind.as_str() {
        "ext4" => FileSystemKind::Ext4,
        "xfs" => FileSystemKind::Xfs,
        "btrfs" => FileSystemKind::Btrfs,
        other => return Err(does_not_grow(other)),
    };
    if kind == FileSystemKind::Btrfs && facts.btrfs_devices.is_some_and(|devices| devices > 1) {
        return Err(format!(
            "the btrfs on {} has several devices: such file systems are not grown",
            mount.target
        ));
    }
    if mount.target.is_empty() && kind != FileSystemKind::Ext4 {
        return Err(format!(
            "{} grows only while it is mounted, and {} is not",
            kind.word(),
            mount.source
        ));
    }
    if mount.options.split(',').any(|option| option == "ro") {
        return Err(format!("{} is mounted read-only", mount.target));
    }
    Ok(DiskStep::FileSystem {
        kind,
        name: chain.layers[0].kernel_name.clone(),
        mount_point: mount.target.clone(),
    })
}

fn partition_step(facts: &Facts<'_>, disk: &Block, layer: &Block) -> Result<DiskStep, String> {
    if !facts.tools.contains("sfdisk") {
        return Err(missing("sfdisk"));
    }
    let Some(table) = facts.table else {
        return Err(format!(
            "the partition table of {} cannot be read",
            disk.name
        ));
    };
    let kind = match table.label.as_str() {
        "gpt" => PartitionTable::Gpt,
        "dos" => PartitionTable::Mbr,
        other => {
            return Err(format!(
                "the partition table of {} is {other}: GPT and MBR are grown",
                disk.name
            ));
        }
    };
    let suffix = layer.kernel_name.strip_prefix(&disk.kernel_name);
    let number = suffix.and_then(|suffix| {
        let digits = suffix.strip_prefix('p').unwrap_or(suffix);
        digits.parse::<u32>().ok()
    });
    let found = number.and_then(|number| {
        let same = |partition: &&super::sources::Partition| partition.number == number;
        table.partitions.iter().find(same)
    });
    let Some(found) = found else {
        return Err(format!(
            "{} is not in the partition table of {}",
            layer.name, disk.name
        ));
    };
    if kind == PartitionTable::Mbr && found.number >= 5 {
        return Err(format!(
            "{} is a logical partition of an MBR: only primary partitions are grown",
            layer.name
        ));
    }
    let behind = table
        .partitions
        .iter()
        .filter(|other| other.start > found.start)
        .min_by_key(|other| other.start);
    if let Some(behind) = behind {
        return Err(format!(
            "{} is not the last partition on {}: partition {} ({}) is behind it",
            layer.name,
            disk.name,
            behind.number,
            size_words(behind.size.saturating_mul(table.sector_bytes))
        ));
    }
    let limit = MBR_SECTORS.saturating_mul(table.sector_bytes);
    let size = facts.wanted_bytes.unwrap_or(disk.size_bytes);
    if kind == PartitionTable::Mbr && size > limit {
        return Err(format!(
            "{} has an MBR, which ends at {}: convert it to GPT first",
            disk.name,
            size_words(limit)
        ));
    }
    Ok(DiskStep::Partition {
        disk: disk.kernel_name.clone(),
        name: layer.kernel_name.clone(),
        number: found.number,
        table: kind,
    })
}

fn volume_steps(facts: &Facts<'_>, layer: &Block, below: &Block) -> Result<[DiskStep; 2], String> {
    if !facts.tools.contains("lvm") {
        return Err(missing("lvm"));
    }
    let Some(lvm) = facts.lvm else {
        return Err(format!("LVM does not say what {} is", layer.name));
    };
    let path = format!("/dev/mapper/{}", layer.name);
    let segments: Vec<_> = lvm
        .logical
        .iter()
        .filter(|volume| volume.mapper_path == path)
        .collect();
    let Some(volume) = segments.first() else {
        return Err(format!("LVM does not know {}", layer.name));
    };
    if let Some(segment) = segments.iter().find(|segment| segment.kind != "linear") {
        return Err(format!(
            "{}/{} is a {} volume: only linear logical volumes are grown",
            volume.group, volume.name, segment.kind
        ));
    }
    let has_snapshot = lvm
        .logical
        .iter()
        .any(|other| other.group == volume.group && other.origin == volume.name);
    if has_snapshot || !volume.origin.is_empty() {
        return Err(format!(
            "{}/{} has a snapshot: remove it first",
            volume.group, volume.name
        ));
    }
    let Some(group) = lvm.groups.iter().find(|group| group.name == volume.group) else {
        return Err(format!(
            "LVM does not know the volume group {}",
            volume.group
        ));
    };
    if group.physical_volumes != 1 {
        return Err(format!(
            "the volume group {} has {} physical volumes: groups on several devices are not grown",
            group.name, group.physical_volumes
        ));
    }
    Ok([
        DiskStep::PhysicalVolume {
            name: below.kernel_name.clone(),
        },
        DiskStep::LogicalVolume {
            group: volume.group.clone(),
            volume: volume.name.clone(),
            name: layer.kernel_name.clone(),
        },
    ])
}

/// Whether the tools are there and the process may use them.
fn able(facts: &Facts<'_>, steps: &[DiskStep]) -> Result<(), String> {
    for step in steps {
        let tool = match step {
            DiskStep::FileSystem {
                kind: FileSystemKind::Ext4,
                ..
            } => "resize2fs",
            DiskStep::FileSystem {
                kind: FileSystemKind::Xfs,
                ..
            } => "xfs_growfs",
            DiskStep::FileSystem {
                kind: FileSystemKind::Btrfs,
                ..
            } => "btrfs",
            DiskStep::Partition { .. } => "partx",
            _ => continue,
        };
        if !facts.tools.contains(tool) {
            return Err(missing(tool));
        }
    }
    if !facts.privileges.administer {
        return Err("the agent may not change disks: run it as root with CAP_SYS_ADMIN".into());
    }
    let online_ext4 = steps.iter().any(|step| {
        matches!(step, DiskStep::FileSystem { kind: FileSystemKind::Ext4, mount_point, .. } if !mount_point.is_empty())
    });
    if online_ext4 && !facts.privileges.resource {
        return Err("the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE, which the agent lacks: give it this capability (CapabilityBoundingSet= of its unit, or the container's)".into());
    }
    Ok(())
}

/// A missing tool with the package that brings it.
pub fn missing(tool: &str) -> String {
    let package = match tool {
        "sfdisk" => "fdisk (Debian, Ubuntu) or util-linux (openEuler, RHEL)",
        "partx" | "lsblk" | "findmnt" => "util-linux",
        "growpart" => {
            "cloud-guest-utils (Debian, Ubuntu) or cloud-utils-growpart (openEuler, RHEL)"
        }
        "lvm" => "lvm2",
        "resize2fs" | "e2fsck" => "e2fsprogs",
        "xfs_growfs" => "xfsprogs",
        "btrfs" => "btrfs-progs",
        _ => return format!("{tool} is missing: install it"),
    };
    format!("{tool} is missing: install the package {package}")
}

/// Whether every layer fills the one below it.
fn at_size(facts: &Facts<'_>, chain: &Chain<'_>) -> bool {
    let disk = chain.disk();
    if facts
        .wanted_bytes
        .is_some_and(|wanted| disk.size_bytes < wanted)
    {
        return false;
    }
    let partitions = chain.layers.iter().filter(|layer| layer.kind == "part");
    for layer in partitions {
        let last = facts.table.and_then(|table| {
            let ends = table.partitions.iter();
            let ends = ends.map(|partition| partition.start.saturating_add(partition.size));
            Some(ends.max()?.saturating_mul(table.sector_bytes))
        });
        // The table and the kernel must both have it.
        let in_kernel = facts.table.and_then(|table| {
            let largest = table
                .partitions
                .iter()
                .max_by_key(|partition| partition.start)?;
            Some(layer.size_bytes >= largest.size.saturating_mul(table.sector_bytes))
        });
        let fills = last.is_some_and(|end| end + TABLE_SLACK_BYTES >= disk.size_bytes);
        if !fills || in_kernel == Some(false) {
            return false;
        }
    }
    if chain.has("lvm") && !lvm_at_size(facts, chain) {
        return false;
    }
    let device = chain.layers[0].size_bytes;
    facts
        .file_system_bytes
        .is_some_and(|bytes| bytes + FILE_SYSTEM_SLACK_BYTES >= device)
}

fn lvm_at_size(facts: &Facts<'_>, chain: &Chain<'_>) -> bool {
    let Some(lvm) = facts.lvm else {
        return false;
    };
    let volumes = chain
        .layers
        .iter()
        .zip(chain.layers.iter().skip(1))
        .filter(|(layer, _)| layer.kind == "lvm");
    for (layer, below) in volumes {
        let path = format!("/dev/mapper/{}", layer.name);
        let volume = lvm.logical.iter().find(|volume| volume.mapper_path == path);
        let group =
            volume.and_then(|volume| lvm.groups.iter().find(|group| group.name == volume.group));
        let Some(group) = group else {
            return false;
        };
        let physical = lvm
            .physical
            .iter()
            .find(|physical| physical.group == group.name);
        let extent = group.extent_bytes.max(1);
        let fills = physical.is_some_and(|physical| {
            physical.size_bytes + 2 * extent + TABLE_SLACK_BYTES >= below.size_bytes
        });
        if !fills || group.free_bytes >= extent {
            return false;
        }
    }
    true
}
