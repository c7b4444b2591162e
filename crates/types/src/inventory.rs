//! What was discovered on a node: its hardware, its software versions, and what could not be found out.
//!
//! An inventory holds only what changes when the machine changes (no temperatures, no used bytes), so that an agent sends it
//! rarely and the control plane compares it cheaply; the numbers that move are in [`Usage`]. Quantities are integers. A fact that
//! is not known is `None`, [`DeviceHealth::Unknown`] or [`LinkState::Unknown`] and never a guess; [`Inventory::problems`] says
//! what could not be discovered and why. Every field has a default, so that older and newer agents understand each other.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::disk::SystemDisk;

/// Everything discovered on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Inventory {
    /// The host name, from the kernel.
    pub host_name: String,
    /// The kernel release, for example `6.8.0-60-generic`.
    pub kernel: String,
    /// The operating system in its own words, from os-release.
    pub os: String,
    /// The identity of the installation, from `/etc/machine-id`; empty if there is none.
    pub machine_id: String,
    /// Changes with every boot; empty if the kernel does not tell.
    pub boot_id: String,
    /// The computer as its firmware names it.
    pub chassis: Chassis,
    /// The processors.
    pub cpu: Cpu,
    /// Memory that the kernel manages (a little less than what is fitted).
    pub memory_bytes: u64,
    /// Fixed disks, by name.
    pub disks: Vec<Disk>,
    /// Mounted file systems that hold data, by mount point.
    pub file_systems: Vec<FileSystem>,
    /// The system disk with its layout, and whether it can grow; absent if the agent does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_disk: Option<SystemDisk>,
    /// Physical network interfaces, by name.
    pub nics: Vec<Nic>,
    /// Accelerators seen on the PCI bus, whether or not a driver answers for them, by address.
    pub pci_accelerators: Vec<PciAccelerator>,
    /// Accelerators that their driver reports, by index. Jobs get devices from this list.
    pub accelerators: Vec<Accelerator>,
    /// Where this server stands in its Ascend super pod; absent outside one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ascend_server_index: Option<u32>,
    /// Versions of drivers, firmware and toolkits by component: `nvidia_driver`, `cuda`, `ascend_driver`, `ascend_firmware`, `cann`.
    pub versions: BTreeMap<String, String>,
    /// What could not be discovered, and why: one sentence each, sorted.
    pub problems: Vec<String>,
}

impl Inventory {
    /// How many devices the node offers to jobs: its accelerators, or 1 (the host itself) on a plain CPU host.
    pub fn device_count(&self) -> u32 {
        u32::try_from(self.accelerators.len())
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// The version of a component: `kernel`, `os`, or a name in [`Inventory::versions`].
    pub fn version(&self, component: &str) -> Option<&str> {
        let version = match component {
            "kernel" => &self.kernel,
            "os" => &self.os,
            other => self.versions.get(other)?,
        };
        if version.is_empty() {
            None
        } else {
            Some(version)
        }
    }
}

/// The computer as its firmware (DMI) names it; empty where it does not, as on many virtual machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Chassis {
    /// The maker, for example `Huawei`.
    pub vendor: String,
    /// The product, for example `Atlas 800T A3`.
    pub product: String,
    /// The serial number; readable by root only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// The processors of a node. A count of 0 means not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Cpu {
    /// The model in the maker's words; empty if not known.
    pub model: String,
    /// The maker, for example `AuthenticAMD`; empty if not known.
    pub vendor: String,
    /// The instruction set, as in `uname -m`: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Processor packages.
    pub sockets: u32,
    /// Physical cores of all sockets.
    pub cores: u32,
    /// Hardware threads of all cores.
    pub threads: u32,
    /// NUMA nodes that have processors.
    pub numa_nodes: u32,
}

/// A fixed disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Disk {
    /// The kernel's name, for example `nvme0n1`.
    pub name: String,
    /// The model; empty if not known.
    pub model: String,
    /// The size.
    pub size_bytes: u64,
    /// Whether it has moving parts.
    pub rotational: bool,
    /// The serial number, if the disk tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A mounted file system that holds data: the root, and others on a disk or on the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FileSystem {
    /// Where it is mounted; the shortest path if it is mounted more than once.
    pub mount_point: String,
    /// What is mounted, for example `/dev/nvme0n1p2` or `10.0.0.9:/export`.
    pub source: String,
    /// The kind, for example `ext4`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The size. Absent for network file systems: asking one whose server is gone would hang.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// Whether a network interface has a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// The driver does not tell.
    #[default]
    Unknown,
    /// There is a link.
    Up,
    /// There is none, or the interface is switched off.
    Down,
}

/// A physical network interface, or an InfiniBand adapter without one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nic {
    /// The interface, for example `ens1f0np0`, or the RDMA device where there is no interface.
    pub name: String,
    /// The hardware address; empty if there is none.
    pub mac: String,
    /// The speed of the link in Mbit/s; absent without a link and on virtual hardware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
    /// Whether it has a link.
    pub state: LinkState,
    /// The kernel driver; empty if not known.
    pub driver: String,
    /// Where it is on the PCI bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// The RDMA devices of the same adapter port, for example `mlx5_0`.
    pub rdma_devices: Vec<String>,
}

/// An accelerator seen on the PCI bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PciAccelerator {
    /// Its address, for example `0000:c1:00.0`.
    pub address: String,
    /// The PCI vendor id.
    pub vendor_id: u16,
    /// The PCI device id.
    pub device_id: u16,
    /// The vendor's name, or the id in hexadecimal where it is not known.
    pub vendor: String,
}

/// Who made an accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorVendor {
    /// NVIDIA GPUs.
    Nvidia,
    /// Huawei Ascend NPUs.
    Ascend,
}

impl AcceleratorVendor {
    /// The vendor as a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Ascend => "ascend",
        }
    }
}

impl std::fmt::Display for AcceleratorVendor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.word())
    }
}

/// What a device's own driver says about it. Stress tests say more; they report findings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeviceHealth {
    /// The driver could not be asked, or did not answer.
    #[default]
    Unknown,
    /// The driver reports no fault.
    Ok,
    /// The driver reports a fault.
    Bad {
        /// The fault in one phrase.
        why: String,
    },
}

/// An accelerator that its driver reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accelerator {
    /// The number by which programs choose it (`CUDA_VISIBLE_DEVICES`, `ASCEND_RT_VISIBLE_DEVICES`).
    pub index: u32,
    /// The number of its device file (`/dev/nvidiaN`, `/dev/davinciN`) and, for Ascend, the `device_id` of a rank table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_index: Option<u32>,
    /// Its maker.
    pub vendor: AcceleratorVendor,
    /// Its model, for example `NVIDIA H100 80GB HBM3` or `Ascend910_9392`; empty if not known.
    #[serde(default)]
    pub model: String,
    /// Its own memory; absent if not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The vendor's unique name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The serial number of its board; several devices of one board share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Where it is on the PCI bus, for example `0000:c1:00.0`; absent where it hangs on another bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_address: Option<String>,
    /// What its driver says about it.
    #[serde(default)]
    pub health: DeviceHealth,
    /// The super pod (HCCS domain) that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_pod_id: Option<String>,
    /// Its number in the super pod: the `super_device_id` of a rank table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_device_id: Option<u32>,
    /// The address of its own network port: the `device_ip` of a rank table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ip: Option<std::net::IpAddr>,
}

impl Accelerator {
    /// A device of which nothing but its index and maker is known.
    pub fn new(index: u32, vendor: AcceleratorVendor) -> Self {
        Self {
            index,
            physical_index: None,
            vendor,
            model: String::new(),
            memory_bytes: None,
            uuid: None,
            serial: None,
            bus_address: None,
            health: DeviceHealth::Unknown,
            super_pod_id: None,
            super_device_id: None,
            device_ip: None,
        }
    }
}

/// The numbers of a node that move all the time, for metrics. Absent means that it could not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// Memory that programs could still get without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_available_bytes: Option<u64>,
    /// Runnable and waiting tasks, averaged over one minute, in hundredths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_hundredths: Option<u32>,
    /// The size of the root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_size_bytes: Option<u64>,
    /// Used bytes of the root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_used_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_host_is_one_device() {
        let mut inventory = Inventory::default();
        assert_eq!(inventory.device_count(), 1);
        inventory.accelerators = (0..8)
            .map(|index| Accelerator::new(index, AcceleratorVendor::Ascend))
            .collect();
        assert_eq!(inventory.device_count(), 8);
    }

    #[test]
    fn an_unknown_version_is_absent_and_never_empty() {
        let mut inventory = Inventory {
            kernel: "6.8.0".into(),
            ..Inventory::default()
        };
        inventory.versions.insert("cann".into(), "8.3.RC2".into());
        assert_eq!(inventory.version("kernel"), Some("6.8.0"));
        assert_eq!(inventory.version("cann"), Some("8.3.RC2"));
        assert_eq!(inventory.version("os"), None);
        assert_eq!(inventory.version("cuda"), None);
    }

    #[test]
    fn a_report_of_another_version_is_still_understood() {
        let text = r#"{"host_name":"n1","accelerators":[{"index":3,"vendor":"ascend","health":{"state":"bad","why":"gone"},"colour":"red"}],"next":1}"#;
        let inventory: Inventory = serde_json::from_str(text)
            .expect("unknown fields are ignored and missing ones have defaults");
        assert_eq!(
            inventory.accelerators[0].health,
            DeviceHealth::Bad { why: "gone".into() }
        );
        let again = serde_json::from_str::<Inventory>(
            &serde_json::to_string(&inventory).expect("plain data"),
        );
        assert_eq!(again.expect("what was written can be read"), inventory);
    }
}
