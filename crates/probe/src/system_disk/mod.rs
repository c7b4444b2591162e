//! The system disk: what it is made of, whether it can grow, and by which steps.
//!
//! [`look`] asks the system's own tools (`lsblk`, `findmnt`, `sfdisk`, LVM) and leaves the verdict to a pure function. It changes
//! nothing; an agent does the steps. What cannot be found out is a "no" with its reason, never a guess.

mod plan;
mod size;
mod sources;

use std::collections::BTreeSet;
use std::path::Path;

use supernode_types::disk::{Growth, SystemDisk};

use crate::files::Files;
use crate::tools::{Tool, Tools};
use plan::{Chain, Facts, Privileges};
use sources::{Block, Lvm, Mount, Table};

pub use plan::missing;
pub use size::file_system_bytes;

/// Programs that a step may need.
pub const PROGRAMS: [&str; 9] = [
    "sfdisk",
    "growpart",
    "partx",
    "lvm",
    "resize2fs",
    "e2fsck",
    "xfs_growfs",
    "btrfs",
    "losetup",
];

const BLOCK_COLUMNS: &str = "NAME,KNAME,PKNAME,TYPE,SIZE,FSTYPE,MOUNTPOINT,RO,SUBSYSTEMS,MAJ:MIN";
const MOUNT_COLUMNS: &str = "SOURCE,TARGET,FSTYPE,OPTIONS,MAJ:MIN";
/// The bits of `CapEff` that matter.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// Written-down answers of the tools, for [`plan_of`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers<'a> {
    /// `lsblk --json --bytes`.
    pub lsblk: &'a str,
    /// `findmnt --json --target PATH`.
    pub findmnt: &'a str,
    /// `sfdisk --json DISK`; empty if the disk was not asked.
    pub sfdisk: &'a str,
    /// `lvm pvs`, `lvm vgs` and `lvm lvs` as JSON; empty if LVM was not asked.
    pub lvm: [&'a str; 3],
    /// How many devices the btrfs has.
    pub btrfs_devices: Option<u64>,
    /// The exact size of the file system.
    pub file_system_bytes: Option<u64>,
    /// The effective capabilities of the process, as in `/proc/self/status`.
    pub capabilities: u64,
}

/// The layout and the verdict that follow from written-down answers. `place` is the path that was asked for, `programs` are the
/// installed ones, `wanted_bytes` is the size that the disk is to have.
pub fn plan_of(
    answers: &Answers<'_>,
    place: &str,
    programs: &BTreeSet<String>,
    wanted_bytes: Option<u64>,
) -> SystemDisk {
    let work = || -> Result<SystemDisk, Obstacle> {
        let blocks = sources::parse_blocks(answers.lsblk)?;
        let mount = sources::parse_mount(answers.findmnt)?;
        let [pvs, vgs, lvs] = answers.lvm;
        let lvm = if pvs.is_empty() {
            None
        } else {
            Some(sources::parse_lvm(pvs, vgs, lvs)?)
        };
        Ok(plan::plan(&Facts {
            blocks: &blocks,
            mount: &mount,
            place,
            table: sources::parse_table(answers.sfdisk)?.as_ref(),
            lvm: lvm.as_ref(),
            btrfs_devices: answers.btrfs_devices,
            file_system_bytes: answers.file_system_bytes,
            tools: programs,
            privileges: privileges(answers.capabilities),
            wanted_bytes,
        }))
    };
    work().unwrap_or_else(Obstacle::disk)
}

/// Looks at the disk below `place`: the mount point of the system's file system (`/` in life), or a device that is not mounted.
/// `root` is where `/proc`, `/sys` and `/dev` are found. Runs a handful of programs; not to be called from an asynchronous task.
pub fn look(root: &Path, tools: &dyn Tools, place: &str, wanted_bytes: Option<u64>) -> SystemDisk {
    let files = Files::below(root);
    look_at(files, tools, place, wanted_bytes).unwrap_or_else(Obstacle::disk)
}

/// Why there is no layout.
enum Obstacle {
    /// A program is not installed.
    Missing(String),
    /// A program failed or said what cannot be read. The next look may be better.
    Unreadable(String),
}

impl From<String> for Obstacle {
    fn from(why: String) -> Self {
        Self::Unreadable(why)
    }
}

impl Obstacle {
    fn disk(self) -> SystemDisk {
        let growth = match self {
            Self::Missing(why) => Growth::No { why },
            Self::Unreadable(why) => Growth::Unknown { why },
        };
        SystemDisk {
            growth,
            ..SystemDisk::default()
        }
    }
}

fn look_at(
    files: Files<'_>,
    tools: &dyn Tools,
    place: &str,
    wanted_bytes: Option<u64>,
) -> Result<SystemDisk, Obstacle> {
    let ask = |tool: Tool, arguments: &[&str]| match tools.run(tool, arguments) {
        Ok(output) => Ok(output.text),
        Err(crate::tools::ToolError::NotFound { tool }) => Err(Obstacle::Missing(missing(&tool))),
        Err(error) => Err(Obstacle::Unreadable(error.to_string())),
    };
    let blocks = ask(
        Tool::Lsblk,
        &["--json", "--bytes", "--output", BLOCK_COLUMNS],
    )?;
    let blocks = sources::parse_blocks(&blocks)?;
    let how = if place.starts_with("/dev/") {
        "--source"
    } else {
        "--target"
    };
    let mount = ask(
        Tool::Findmnt,
        &["--json", "--bytes", "--output", MOUNT_COLUMNS, how, place],
    )?;
    let mount = match sources::parse_mount(&mount) {
        Ok(mount) => mount,
        Err(_) if how == "--source" => unmounted(files, &blocks, place),
        Err(error) => return Err(error.into()),
    };
    let place = if how == "--source" {
        &mount.target
    } else {
        place
    };
    let programs: BTreeSet<String> = PROGRAMS
        .iter()
        .filter(|program| tools.installed(program))
        .map(|program| (*program).to_owned())
        .collect();
    let chain = plan::chain(&blocks, &mount).ok();
    let table = table(&ask, chain.as_ref(), &programs)?;
    let lvm = lvm(&ask, chain.as_ref(), &programs)?;
    let file_system_bytes = chain.as_ref().and_then(|chain| {
        let device = files.path(&format!("dev/{}", chain.layers[0].kernel_name));
        file_system_bytes(&mount.kind, &device, tools.space(Path::new(&mount.target)))
    });
    Ok(plan::plan(&Facts {
        blocks: &blocks,
        mount: &mount,
        place,
        table: table.as_ref(),
        lvm: lvm.as_ref(),
        btrfs_devices: btrfs_devices(files, chain.as_ref()),
        file_system_bytes,
        tools: &programs,
        privileges: own_privileges(files),
        wanted_bytes,
    }))
}

/// A device that nothing is mounted from; the kind of its file system is on it.
fn unmounted(files: Files<'_>, blocks: &[Block], place: &str) -> Mount {
    let name = place.trim_start_matches("/dev/");
    let known = blocks
        .iter()
        .find(|block| block.kernel_name == name)
        .map(|block| block.content.clone());
    let on_disk = || size::is_ext4(&files.path(place.trim_start_matches('/')));
    Mount {
        source: place.to_owned(),
        kind: match known.filter(|kind| !kind.is_empty()) {
            Some(kind) => kind,
            None if on_disk() => "ext4".into(),
            None => "of an unknown kind".into(),
        },
        ..Mount::default()
    }
}

fn table(
    ask: &impl Fn(Tool, &[&str]) -> Result<String, Obstacle>,
    chain: Option<&Chain<'_>>,
    programs: &BTreeSet<String>,
) -> Result<Option<Table>, Obstacle> {
    let Some(chain) = chain.filter(|chain| chain.has("part") && programs.contains("sfdisk")) else {
        return Ok(None);
    };
    let disk = format!("/dev/{}", chain.disk().kernel_name);
    Ok(sources::parse_table(&ask(
        Tool::Sfdisk,
        &["--json", &disk],
    )?)?)
}

fn lvm(
    ask: &impl Fn(Tool, &[&str]) -> Result<String, Obstacle>,
    chain: Option<&Chain<'_>>,
    programs: &BTreeSet<String>,
) -> Result<Option<Lvm>, Obstacle> {
    if !chain.is_some_and(|chain| chain.has("lvm")) || !programs.contains("lvm") {
        return Ok(None);
    }
    let report = |command: &str, columns: &str| {
        let arguments = [
            command,
            "--reportformat",
            "json",
            "--units",
            "b",
            "--nosuffix",
            "--options",
            columns,
        ];
        ask(Tool::Lvm, &arguments)
    };
    let physical = report("pvs", "pv_name,vg_name,pv_size")?;
    let groups = report("vgs", "vg_name,vg_extent_size,vg_free,pv_count")?;
    let logical = report("lvs", "lv_name,vg_name,segtype,origin,lv_dm_path")?;
    Ok(Some(sources::parse_lvm(&physical, &groups, &logical)?))
}

/// The kernel lists the devices of each mounted btrfs.
fn btrfs_devices(files: Files<'_>, chain: Option<&Chain<'_>>) -> Option<u64> {
    let name = &chain?.layers[0].kernel_name;
    let all = files.names("sys/fs/btrfs");
    all.into_iter().find_map(|id| {
        let devices = files.names(&format!("sys/fs/btrfs/{id}/devices"));
        let count = u64::try_from(devices.len()).ok()?;
        devices.contains(name).then_some(count)
    })
}

fn own_privileges(files: Files<'_>) -> Privileges {
    let status = files.text("proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let found = privileges(effective);
    // In a user namespace, capabilities are over what belongs to it, and disks never do.
    let map = files.word("proc/self/uid_map").unwrap_or_default();
    let first: Vec<&str> = map.split_whitespace().collect();
    Privileges {
        administer: found.administer && first == ["0", "0", "4294967295"],
        ..found
    }
}

fn privileges(effective: u64) -> Privileges {
    Privileges {
        administer: effective & (1 << CAP_SYS_ADMIN) != 0,
        resource: effective & (1 << CAP_SYS_RESOURCE) != 0,
    }
}
