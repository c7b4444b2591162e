//! What a node is made of: discovery of its inventory, and the few numbers that move.
//!
//! Facts come from `/proc` and `/sys` (own reader, no table of every process), from NVML loaded at run time, and from
//! `npu-smi` run with a time and an output limit. Vendor software is touched only where its hardware is, so that a plain host
//! pays nothing for it. Discovery does not fail: what cannot be read is left unknown and said in [`Inventory::problems`]. It
//! changes nothing on the machine, and runs no program outside the closed list of [`tools::Tool`].
//!
//! Testing hardware is another thing altogether, and lives in [`stress`].

pub mod ascend;
mod command;
mod control_group;
mod cpu;
mod disk;
mod file_system;
mod files;
mod nic;
mod npu;
pub mod nvidia;
mod pci;
pub mod retry_log;
pub mod stress;
mod system;
pub mod system_disk;
pub mod tools;

use std::path::Path;

use supernode_types::inventory::{Inventory, Usage};

pub use crate::nvidia::NvmlReport;
pub use crate::tools::{SystemTools, Tools};

/// Discovers the machine whose files are below `root`: `/` in life, a written-down machine in tests.
///
/// Milliseconds on a plain host; up to a minute with Ascend devices, whose tool is slow, so not to be called from a loop or an
/// asynchronous task.
pub fn discover(root: &Path, tools: &dyn Tools) -> Inventory {
    let files = files::Files::below(root);
    let mut inventory = Inventory::default();
    system::discover(files, &mut inventory);
    inventory.cpu = cpu::discover(files, &mut inventory.problems);
    inventory.disks = disk::discover(files);
    inventory.file_systems = file_system::discover(files, tools, &mut inventory.problems);
    inventory.nics = nic::discover(files);
    inventory.pci_accelerators = pci::discover(files);
    nvidia::discover(files, tools, &mut inventory);
    npu::discover(files, tools, &mut inventory);
    // The order must not depend on chance: an inventory is sent when it differs from the last one.
    inventory.problems.sort();
    inventory.problems.dedup();
    inventory
}

/// Reads the numbers that move all the time; microseconds.
pub fn usage(root: &Path, tools: &dyn Tools) -> Usage {
    system::usage(files::Files::below(root), tools)
}
