//! The declared hardware specification of a group of nodes, and how an observed inventory is matched against it.
//!
//! A field that is absent does not constrain. File systems, serial numbers, addresses, host names and versions are never part
//! of a spec: they differ between servers of one kind. Memory is compared with a tolerance, because firmware and kernel keep a
//! little of it. Network interfaces are a minimum (at least so many, at least so fast), because management ports come and go with
//! a cable; everything else must be equal. All of it is pure: (declaration, inventory) in, verdict out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::{AcceleratorVendor, Inventory, Nic};

mod matching;

pub use matching::{AmbiguousSpecs, Difference, best_match, matches};

/// How many nodes one super node may have unless its spec says otherwise.
pub const DEFAULT_MAX_NODES: u32 = 48;

/// By how much a memory size may differ from the declared one unless the spec says otherwise.
pub const DEFAULT_TOLERANCE_PERCENT: u8 = 3;

const MEBIBYTE: u64 = 1 << 20;
const TEBIBYTE: u64 = 1 << 40;

/// A declared hardware specification. At least one field constrains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpecDefinition {
    /// The accelerators of a node.
    #[serde(skip_serializing_if = "AcceleratorSpec::is_free")]
    pub accelerator: AcceleratorSpec,
    /// Its processors.
    #[serde(skip_serializing_if = "CpuSpec::is_free")]
    pub cpu: CpuSpec,
    /// Its memory.
    #[serde(skip_serializing_if = "MemorySpec::is_free")]
    pub memory: MemorySpec,
    /// Its network interfaces.
    #[serde(skip_serializing_if = "NicSpec::is_free")]
    pub nics: NicSpec,
}

/// What a spec asks of the accelerators of a node: every one of them must be so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcceleratorSpec {
    /// The maker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<AcceleratorVendor>,
    /// The model as the driver names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many. 0, allowed alone only, says that a node must have none: a plain CPU host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// The memory of each, compared with the tolerance of [`MemorySpec`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What a spec asks of the processors of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CpuSpec {
    /// The instruction set; `arm64` and `amd64` mean `aarch64` and `x86_64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The model in the maker's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Physical cores of all sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
}

/// What a spec asks of the memory of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySpec {
    /// The memory of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// By how many percent a size may differ, for the host and for accelerators: 0 to 50, 3 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_percent: Option<u8>,
}

/// What a spec asks of the network interfaces of a node: a minimum.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NicSpec {
    /// At least so many interfaces of the speed and kind below; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Each of them at least so fast, in Mbit/s. An interface without a link counts: its speed cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
    /// `true`: each of them with RDMA. `false`: none of the node's interfaces with RDMA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdma: Option<bool>,
}

impl AcceleratorSpec {
    fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

impl CpuSpec {
    fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

impl MemorySpec {
    fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

impl NicSpec {
    fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a text is not a usable spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// Nothing is declared: it would match every machine.
    #[error(
        "the spec constrains nothing and would match every node; declare at least one field, for example accelerator.model or cpu.cores"
    )]
    Empty,
    /// A count that must be positive is 0.
    #[error("{field} is 0; leave the field out if it does not matter")]
    Zero {
        /// The field.
        field: &'static str,
    },
    /// `accelerator.count` is 0, yet the accelerators are described.
    #[error("accelerator.count is 0, so {field} describes nothing; remove one of the two")]
    Contradiction {
        /// The other field.
        field: &'static str,
    },
    /// A name is empty, too long, or has control characters.
    #[error(
        "{field} must be 1 to 128 printable characters; leave the field out if it does not matter"
    )]
    Name {
        /// The field.
        field: &'static str,
    },
    /// A number that no machine has.
    #[error("{field} is {value}, which no machine has (allowed: {allowed}); check the unit")]
    Absurd {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What is allowed, in words.
        allowed: &'static str,
    },
}

impl SpecDefinition {
    /// Declares the spec of this node: every fact that can be part of a spec and is known.
    pub fn learn(inventory: &Inventory) -> Self {
        let devices = &inventory.accelerators;
        let accelerator = AcceleratorSpec {
            vendor: same(devices.iter().map(|device| Some(device.vendor))),
            model: same(devices.iter().map(|device| name(&device.model))),
            count: Some(u32::try_from(devices.len()).unwrap_or(u32::MAX)),
            memory_bytes: same(
                devices
                    .iter()
                    .map(|device| device.memory_bytes.filter(|bytes| *bytes > 0)),
            ),
        };
        let cpu = CpuSpec {
            architecture: name(&inventory.cpu.architecture),
            model: name(&inventory.cpu.model),
            cores: Some(inventory.cpu.cores).filter(|cores| *cores > 0),
        };
        let memory = MemorySpec {
            size_bytes: Some(inventory.memory_bytes).filter(|bytes| *bytes > 0),
            tolerance_percent: None,
        };
        Self {
            accelerator,
            cpu,
            memory,
            nics: NicSpec::learn(&inventory.nics),
        }
    }

    /// How many facts it constrains; the tolerance is not one.
    pub fn constraints(&self) -> u32 {
        let Self {
            accelerator,
            cpu,
            memory,
            nics,
        } = self;
        let set = [
            accelerator.vendor.is_some(),
            accelerator.model.is_some(),
            accelerator.count.is_some(),
            accelerator.memory_bytes.is_some(),
            cpu.architecture.is_some(),
            cpu.model.is_some(),
            cpu.cores.is_some(),
            memory.size_bytes.is_some(),
            nics.count.is_some(),
            nics.speed_mbps.is_some(),
            nics.rdma.is_some(),
        ];
        set.into_iter().map(u32::from).sum()
    }

    /// Refuses a declaration that matches everything, contradicts itself, or holds a number that no machine has.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let Self {
            accelerator,
            cpu,
            memory,
            nics,
        } = self;
        if self.constraints() == 0 {
            return Err(InvalidSpec::Empty);
        }
        if accelerator.count == Some(0) {
            let described = [
                ("accelerator.vendor", accelerator.vendor.is_some()),
                ("accelerator.model", accelerator.model.is_some()),
                (
                    "accelerator.memory_bytes",
                    accelerator.memory_bytes.is_some(),
                ),
            ];
            if let Some((field, _)) = described.into_iter().find(|(_, described)| *described) {
                return Err(InvalidSpec::Contradiction { field });
            }
        }
        for (field, text) in [
            ("accelerator.model", &accelerator.model),
            ("cpu.architecture", &cpu.architecture),
            ("cpu.model", &cpu.model),
        ] {
            if text.as_ref().is_some_and(|text| !printable(text)) {
                return Err(InvalidSpec::Name { field });
            }
        }
        for (field, value) in [
            ("cpu.cores", cpu.cores),
            ("nics.count", nics.count),
            ("nics.speed_mbps", nics.speed_mbps),
        ] {
            if value == Some(0) {
                return Err(InvalidSpec::Zero { field });
            }
        }
        let numbers = [
            (
                "accelerator.count",
                accelerator.count.map(u64::from),
                0,
                1024,
                "at most 1024",
            ),
            (
                "accelerator.memory_bytes",
                accelerator.memory_bytes,
                256 * MEBIBYTE,
                16 * TEBIBYTE,
                "256 MiB to 16 TiB",
            ),
            (
                "cpu.cores",
                cpu.cores.map(u64::from),
                1,
                65_536,
                "1 to 65536",
            ),
            (
                "memory.size_bytes",
                memory.size_bytes,
                64 * MEBIBYTE,
                1024 * TEBIBYTE,
                "64 MiB to 1 PiB",
            ),
            (
                "memory.tolerance_percent",
                memory.tolerance_percent.map(u64::from),
                0,
                50,
                "0 to 50",
            ),
            (
                "nics.count",
                nics.count.map(u64::from),
                1,
                1024,
                "1 to 1024",
            ),
            (
                "nics.speed_mbps",
                nics.speed_mbps.map(u64::from),
                10,
                10_000_000,
                "10 to 10000000 Mbit/s",
            ),
        ];
        for (field, value, least, most, allowed) in numbers {
            if let Some(value) = value.filter(|value| *value < least || *value > most) {
                return Err(InvalidSpec::Absurd {
                    field,
                    value,
                    allowed,
                });
            }
        }
        Ok(())
    }
}

impl NicSpec {
    /// The fastest interfaces, those with RDMA if there are any.
    fn learn(nics: &[Nic]) -> Self {
        if nics.is_empty() {
            return Self::default();
        }
        let rdma = nics.iter().any(|nic| !nic.rdma_devices.is_empty());
        let of_this_kind = || {
            nics.iter()
                .filter(|nic| nic.rdma_devices.is_empty() != rdma)
        };
        let speed_mbps = of_this_kind()
            .filter_map(|nic| nic.speed_mbps)
            .max()
            .filter(|speed| *speed > 0);
        let count = of_this_kind()
            .filter(|nic| speed_mbps.is_none() || nic.speed_mbps == speed_mbps)
            .count();
        Self {
            count: u32::try_from(count).ok().filter(|count| *count > 0),
            speed_mbps,
            rdma: Some(rdma),
        }
    }
}

/// The common value, if there is one and all have it.
fn same<T: PartialEq>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    let mut common = None;
    for value in values {
        let value = value?;
        match &common {
            None => common = Some(value),
            Some(first) if *first == value => {}
            Some(_) => return None,
        }
    }
    common
}

fn name(text: &str) -> Option<String> {
    Some(text.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|text| printable(text))
}

fn printable(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= 128 && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
