//! The system disk of a node: how it is laid out, whether it can grow, and how an expansion stands.
//!
//! A system disk is a chain of layers, from the device to the file system that is mounted. An expansion grows each of them once, in
//! that order; every step is idempotent and leaves its evidence, the size before and after.
//!
//! ```text
//!  device --> partition --> physical volume --> logical volume --> file system --> verify
//!             (where there is one)    (where there is LVM)
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{OperationId, Timestamp};

/// One gibibyte; sizes of system disks are whole multiples of it.
pub const GIB: u64 = 1024 * 1024 * 1024;
/// The largest system disk when a spec does not say, in GiB.
pub const DEFAULT_MAXIMUM_SYSTEM_DISK_GIB: u32 = 1024;
/// Used percent from which a system disk counts as filling.
pub const FILLING_PERCENT: u64 = 80;
/// Used percent from which a system disk counts as full.
pub const FULL_PERCENT: u64 = 95;
/// How far below a threshold it has to fall before it counts as relieved, so that an event is not repeated with every file.
const RELIEF_PERCENT: u64 = 3;

/// The system disk of a node as its agent found it. It holds nothing that moves while nobody changes the layout; used bytes are in
/// [`DiskUsage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SystemDisk {
    /// Where the file system is mounted that counts as the node's system disk; empty if it is not mounted.
    pub mount_point: String,
    /// The kernel's name of the disk below it, for example `vda`; absent where there is none (overlay, memory, network).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// The size of that disk; 0 where there is none.
    pub size_bytes: u64,
    /// The disk with everything on it, in the order of a tree that is printed from the top.
    pub tree: Vec<DiskItem>,
    /// Whether it can grow.
    pub growth: Growth,
}

/// One line of the tree of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DiskItem {
    /// How deep it is in the tree; the disk itself is 0.
    pub depth: u32,
    /// The name, for example `vda2` or `vg0-root`.
    pub name: String,
    /// `disk`, `partition`, `logical volume`, …
    pub kind: String,
    /// The size.
    pub size_bytes: u64,
    /// The file system or what else is in it; empty if not known.
    pub content: String,
    /// Where it is mounted; empty if it is not.
    pub mount_point: String,
    /// Whether it carries the system's file system.
    pub carries_system: bool,
}

/// Whether a system disk can grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "can_grow", rename_all = "snake_case")]
pub enum Growth {
    /// Nobody has said, or the agent could not look.
    Unknown {
        /// Why.
        why: String,
    },
    /// It can, by these steps.
    Yes {
        /// In their order.
        steps: Vec<DiskStep>,
        /// Whether every layer already fills the one below it.
        at_size: bool,
    },
    /// It cannot.
    No {
        /// Why, in one line, with what to do about it where something can be done.
        why: String,
    },
}

impl Default for Growth {
    fn default() -> Self {
        Self::Unknown {
            why: "its agent has not said".into(),
        }
    }
}

/// How a disk learns that it grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskBus {
    /// SCSI, also SATA and virtio-scsi: has to be asked to look again.
    Scsi,
    /// virtio: notices by itself.
    Virtio,
    /// `NVMe`: notices by itself; older kernels have to be asked.
    Nvme,
    /// A file on the same host: has to be asked.
    Loop,
    /// Something else, for example a Xen disk: notices by itself or not at all.
    Other,
}

/// Which kind of partition table a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartitionTable {
    /// GPT, with a second header at the end of the disk.
    Gpt,
    /// MBR; ends at 2 TiB.
    Mbr,
}

/// The file systems that grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileSystemKind {
    /// ext4; online growth needs `CAP_SYS_RESOURCE`.
    Ext4,
    /// XFS; grows only while it is mounted.
    Xfs,
    /// btrfs on one device; grows only while it is mounted.
    Btrfs,
}

impl FileSystemKind {
    /// The word for this file system, as the kernel says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// One step of an expansion. Doing it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "layer", rename_all = "snake_case")]
pub enum DiskStep {
    /// Look until the kernel sees the wanted size.
    Device {
        /// The kernel's name, for example `vda`.
        disk: String,
        /// How to look.
        bus: DiskBus,
    },
    /// Grow the last partition to the end of the disk and tell the kernel.
    Partition {
        /// The disk that it is on.
        disk: String,
        /// The kernel's name of the partition, for example `vda2`.
        name: String,
        /// Its number in the table.
        number: u32,
        /// Which table.
        table: PartitionTable,
    },
    /// Grow an LVM physical volume to the size of its device.
    PhysicalVolume {
        /// The kernel's name of its device.
        name: String,
    },
    /// Grow an LVM logical volume into all free space of its group.
    LogicalVolume {
        /// The volume group.
        group: String,
        /// The volume in it.
        volume: String,
        /// The kernel's name, for example `dm-0`.
        name: String,
    },
    /// Grow the file system to the size of its device.
    FileSystem {
        /// Which file system.
        kind: FileSystemKind,
        /// The kernel's name of its device.
        name: String,
        /// Where it is mounted; empty if it is not, which only ext4 can bear.
        mount_point: String,
    },
    /// Read every size back from the kernel and compare.
    Verify,
}

impl DiskStep {
    /// The layer in words.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Device { .. } => "device",
            Self::Partition { .. } => "partition",
            Self::PhysicalVolume { .. } => "physical volume",
            Self::LogicalVolume { .. } => "logical volume",
            Self::FileSystem { .. } => "file system",
            Self::Verify => "verify",
        }
    }

    /// What it is done to, for people.
    pub fn subject(&self) -> String {
        match self {
            Self::Device { disk, .. } => disk.clone(),
            Self::Partition { name, .. } | Self::PhysicalVolume { name } => name.clone(),
            Self::LogicalVolume { group, volume, .. } => format!("{group}/{volume}"),
            Self::FileSystem {
                kind,
                name,
                mount_point,
            } if mount_point.is_empty() => format!("{} of {name}", kind.word()),
            Self::FileSystem {
                kind, mount_point, ..
            } => format!("{} on {mount_point}", kind.word()),
            Self::Verify => "all layers".into(),
        }
    }
}

/// How one step of an expansion stands, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// The layer in words: `device`, `partition`, …
    pub layer: String,
    /// What it is done to.
    pub subject: String,
    /// Where it stands.
    pub state: StepState,
    /// The size of the layer before the expansion began, once it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_bytes: Option<u64>,
    /// The size of the layer after its step, read back from the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_bytes: Option<u64>,
    /// What its tool said, in one line; empty while there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Where one step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Under way.
    Running,
    /// Done, now or before.
    Done,
    /// Could not be done.
    Failed,
}

impl StepState {
    /// The word for this state.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// How an expansion stands on a node, as its agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskReport {
    /// The operation.
    pub operation: OperationId,
    /// Where it stands.
    #[serde(flatten)]
    pub state: DiskReportState,
    /// Its steps.
    pub steps: Vec<StepReport>,
}

/// Where an expansion stands on a node.
///
/// ```text
///  Working --all steps done (agent)--> Done
///  Working --a step cannot (agent)--> Failed
///  Working --the kernel keeps the old table (agent)--> NeedsRestart --another boot (agent)--> Working
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DiskReportState {
    /// Steps are being done.
    Working,
    /// Nothing more can be done in this boot.
    NeedsRestart {
        /// Why.
        why: String,
        /// The boot that has to end.
        boot_id: String,
    },
    /// Every layer has the size.
    Done,
    /// A layer could not be grown; everything is as usable as before.
    Failed {
        /// Which layer, in words.
        layer: String,
        /// What the tool or the kernel said.
        why: String,
    },
}

/// What a node's agent should do with its system disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskWish {
    /// On behalf of this operation.
    pub operation: OperationId,
    /// The size that the disk has, or is about to have.
    pub size_bytes: u64,
    /// How long the size may take to arrive at the kernel.
    pub device_seconds: u64,
    /// The boot that has to end before the steps can go on; an agent of another boot has restarted already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
}

/// How far the device below a system disk is, which is the provisioner's part.
///
/// ```text
///  Growing --provisioner: done (runner)--> Grown
///  Growing --provisioner: refused, or too many calls (runner)--> Failed
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeviceGrowth {
    /// The provisioner is asked to grow it.
    Growing {
        /// How often it was called.
        calls: u32,
        /// When to call it next.
        next_call_at: Timestamp,
        /// What it said last; empty before the first call.
        message: String,
    },
    /// It has the size, or somebody else sees to it.
    Grown {
        /// Whether the provisioner says that the node has to restart to see it.
        restart: bool,
    },
    /// The provisioner cannot.
    Failed {
        /// What it said.
        reason: String,
    },
}

/// The expansion that a node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskWork {
    /// The operation.
    pub operation: OperationId,
    /// The size to have.
    pub size_bytes: u64,
    /// How far the device is.
    pub device: DeviceGrowth,
    /// The boot that the agent was told to end, if it was told to restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// What the agent reported of it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<DiskReport>,
}

/// How long the size of a grown device may take to arrive at the kernel, in seconds.
pub const DEVICE_SECONDS: u64 = 60;

impl DiskWork {
    /// What the agent is told of it; nothing while the device is not ready for it.
    pub fn wish(&self) -> Option<DiskWish> {
        match self.device {
            DeviceGrowth::Grown { restart } if !restart || self.restart.is_some() => {
                Some(DiskWish {
                    operation: self.operation.clone(),
                    size_bytes: self.size_bytes,
                    device_seconds: DEVICE_SECONDS,
                    restart: self.restart.clone(),
                })
            }
            _ => None,
        }
    }
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskUsage {
    /// Bytes that programs can use, free or not.
    pub size_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
}

impl DiskUsage {
    /// Used percent, rounded down; 0 for an empty file system.
    pub fn percent(self) -> u64 {
        let (used, size) = (u128::from(self.used_bytes), u128::from(self.size_bytes));
        u64::try_from((used * 100).checked_div(size).unwrap_or(0)).unwrap_or(100)
    }
}

/// How urgent the filling of a system disk is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DiskPressure {
    /// Below [`FILLING_PERCENT`], or not known.
    #[default]
    None,
    /// From [`FILLING_PERCENT`].
    Filling,
    /// From [`FULL_PERCENT`].
    Full,
}

impl DiskPressure {
    /// The pressure after `usage` was seen. Rising takes effect at the threshold, falling a little below it.
    #[must_use]
    pub fn after(self, usage: DiskUsage) -> Self {
        let percent = usage.percent();
        let at = |threshold: u64, from: Self| {
            let kept = if self >= from { RELIEF_PERCENT } else { 0 };
            percent >= threshold - kept
        };
        if at(FULL_PERCENT, Self::Full) {
            Self::Full
        } else if at(FILLING_PERCENT, Self::Filling) {
            Self::Filling
        } else {
            Self::None
        }
    }
}

/// What the control plane knows of a node's system disk beside the inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeDisk {
    /// How full it was when the agent said so last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<DiskUsage>,
    /// How urgent that is.
    pub pressure: DiskPressure,
    /// The expansion that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<DiskWork>,
}

impl NodeDisk {
    /// Whether there is nothing to say, so that the record of such a node is not longer for it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A size as people read it: whole units where it is whole, one decimal elsewhere.
pub fn size_words(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(GIB * 1024, "TiB"), (GIB, "GiB"), (1 << 20, "MiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let (whole, tenth) = (bytes / unit, bytes % unit * 10 / unit);
            return if tenth == 0 {
                format!("{whole} {name}")
            } else {
                format!("{whole}.{tenth} {name}")
            };
        }
    }
    format!("{bytes} B")
}

/// Reads a size with its unit: `500GiB`, `1TiB`, `512MiB`, or a bare number of bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size; write for example 500GiB or 1TiB");
    let trimmed = text.trim();
    let digits = trimmed.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let unit = match trimmed[digits.len()..].trim() {
        "" | "B" => 1,
        "MiB" => 1 << 20,
        "GiB" => GIB,
        "TiB" => GIB * 1024,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(percent: u64) -> DiskUsage {
        DiskUsage {
            size_bytes: 1000,
            used_bytes: percent * 10,
        }
    }

    #[test]
    fn pressure_rises_at_the_threshold_and_falls_a_little_below_it() {
        use DiskPressure::{Filling, Full, None};
        let mut pressure = None;
        let mut seen = Vec::new();
        for percent in [79, 80, 78, 76, 95, 93, 91, 99, 10] {
            pressure = pressure.after(used(percent));
            seen.push(pressure);
        }
        assert_eq!(
            seen,
            [
                None, Filling, Filling, None, Full, Full, Filling, Full, None
            ]
        );
        assert_eq!(DiskUsage::default().percent(), 0);
    }

    #[test]
    fn sizes_are_read_and_written_as_people_do() {
        assert_eq!(parse_size("500GiB"), Ok(500 * GIB));
        assert_eq!(parse_size("1 TiB"), Ok(1024 * GIB));
        assert_eq!(parse_size("1073741824"), Ok(GIB));
        for bad in [
            "",
            "GiB",
            "500GB",
            "500G",
            "-1GiB",
            "1.5GiB",
            "99999999999TiB",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(size_words(500 * GIB), "500 GiB");
        assert_eq!(size_words(GIB * 3 / 2), "1.5 GiB");
        assert_eq!(size_words(1024 * GIB), "1 TiB");
        assert_eq!(size_words(12), "12 B");
    }
}
