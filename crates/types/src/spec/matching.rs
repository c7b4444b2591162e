//! Comparing an observed inventory with declared specs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AcceleratorSpec, CpuSpec, DEFAULT_TOLERANCE_PERCENT, MEBIBYTE, NicSpec, SpecDefinition,
};
use crate::inventory::{Accelerator, Inventory, Nic};

const GIBIBYTE: u64 = 1 << 30;

/// One fact of an inventory that is not as the spec says. Displays as one sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("the {fact} must be {expected}, but is {found}")]
pub struct Difference {
    /// What was compared, for example `number of accelerators`.
    pub fact: String,
    /// What the spec asks.
    pub expected: String,
    /// What the inventory says.
    pub found: String,
}

/// Two or more specs fit a node equally well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the specs {} fit equally well; make one of them ask for more, or delete one", .specs.join(" and "))]
pub struct AmbiguousSpecs {
    /// Their names, in the order in which they were given.
    pub specs: Vec<String>,
}

/// Compares an inventory with a spec; the error names every fact that differs.
pub fn matches(spec: &SpecDefinition, inventory: &Inventory) -> Result<(), Vec<Difference>> {
    let mut differences = Vec::new();
    let tolerance_percent = spec
        .memory
        .tolerance_percent
        .unwrap_or(DEFAULT_TOLERANCE_PERCENT);
    compare_accelerators(
        &spec.accelerator,
        tolerance_percent,
        &inventory.accelerators,
        &mut differences,
    );
    compare_cpu(&spec.cpu, inventory, &mut differences);
    if let Some(expected) = spec.memory.size_bytes
        && !within(expected, inventory.memory_bytes, tolerance_percent)
    {
        let found = if inventory.memory_bytes == 0 {
            "not known".to_owned()
        } else {
            size(inventory.memory_bytes)
        };
        differences.push(difference(
            "memory",
            format!("{} within {tolerance_percent} %", size(expected)),
            found,
        ));
    }
    compare_nics(&spec.nics, &inventory.nics, &mut differences);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(differences)
    }
}

/// The one spec that a node belongs to: of those that match, the one that constrains most.
///
/// `Ok(None)` if none matches; refused if several constrain equally much, because a node belongs to at most one.
pub fn best_match<'a, K: std::fmt::Display>(
    specs: impl IntoIterator<Item = (K, &'a SpecDefinition)>,
    inventory: &Inventory,
) -> Result<Option<K>, AmbiguousSpecs> {
    let mut best: Vec<K> = Vec::new();
    let mut most = 0;
    for (key, spec) in specs {
        let constraints = spec.constraints();
        if constraints < most || matches(spec, inventory).is_err() {
            continue;
        }
        if constraints > most {
            best.clear();
            most = constraints;
        }
        best.push(key);
    }
    if best.len() > 1 {
        return Err(AmbiguousSpecs {
            specs: best.iter().map(ToString::to_string).collect(),
        });
    }
    Ok(best.pop())
}

fn compare_accelerators(
    spec: &AcceleratorSpec,
    tolerance_percent: u8,
    found: &[Accelerator],
    differences: &mut Vec<Difference>,
) {
    let described = spec.vendor.is_some() || spec.model.is_some() || spec.memory_bytes.is_some();
    match spec.count {
        Some(count) if usize::try_from(count) != Ok(found.len()) => {
            differences.push(difference(
                "number of accelerators",
                count.to_string(),
                found.len().to_string(),
            ));
        }
        None if described && found.is_empty() => {
            differences.push(difference(
                "number of accelerators",
                "at least 1".to_owned(),
                "0".to_owned(),
            ));
        }
        _ => {}
    }
    let on = |device: &Accelerator, what: String| format!("{what} on device {}", device.index);
    if let Some(vendor) = spec.vendor
        && let Some(other) = found.iter().find(|device| device.vendor != vendor)
    {
        differences.push(difference(
            "accelerator vendor",
            vendor.to_string(),
            on(other, other.vendor.to_string()),
        ));
    }
    if let Some(model) = &spec.model
        && let Some(other) = found.iter().find(|device| !same_text(&device.model, model))
    {
        differences.push(difference(
            "accelerator model",
            model.clone(),
            on(other, text(&other.model)),
        ));
    }
    if let Some(expected) = spec.memory_bytes
        && let Some(other) = found.iter().find(|device| {
            !device
                .memory_bytes
                .is_some_and(|bytes| within(expected, bytes, tolerance_percent))
        })
    {
        let bytes = other.memory_bytes.map_or("not known".to_owned(), size);
        let expected = format!("{} within {tolerance_percent} %", size(expected));
        differences.push(difference("accelerator memory", expected, on(other, bytes)));
    }
}

fn compare_cpu(spec: &CpuSpec, inventory: &Inventory, differences: &mut Vec<Difference>) {
    let cpu = &inventory.cpu;
    if let Some(architecture) = &spec.architecture
        && !same_text(canonical(architecture), canonical(&cpu.architecture))
    {
        differences.push(difference(
            "CPU architecture",
            architecture.clone(),
            text(&cpu.architecture),
        ));
    }
    if let Some(model) = &spec.model
        && !same_text(model, &cpu.model)
    {
        differences.push(difference("CPU model", model.clone(), text(&cpu.model)));
    }
    if let Some(cores) = spec.cores
        && cores != cpu.cores
    {
        let found = if cpu.cores == 0 {
            "not known".to_owned()
        } else {
            cpu.cores.to_string()
        };
        differences.push(difference("number of CPU cores", cores.to_string(), found));
    }
}

fn compare_nics(spec: &NicSpec, nics: &[Nic], differences: &mut Vec<Difference>) {
    if spec.is_free() {
        return;
    }
    let with_rdma = |nic: &&Nic| !nic.rdma_devices.is_empty();
    let rdma_count = nics.iter().filter(with_rdma).count();
    if spec.rdma == Some(false) && rdma_count > 0 {
        differences.push(difference(
            "number of network interfaces with RDMA",
            "0".to_owned(),
            rdma_count.to_string(),
        ));
    }
    let kind = if spec.rdma == Some(true) {
        " with RDMA"
    } else {
        ""
    };
    let of_this_kind = || {
        nics.iter()
            .filter(|nic| spec.rdma != Some(true) || with_rdma(nic))
    };
    let count = usize::try_from(spec.count.unwrap_or(1)).unwrap_or(usize::MAX);
    let found = of_this_kind().count();
    if found < count {
        let fact = format!("number of network interfaces{kind}");
        differences.push(difference(
            &fact,
            format!("at least {count}"),
            found.to_string(),
        ));
        return;
    }
    if let Some(speed_mbps) = spec.speed_mbps {
        let fast_enough = of_this_kind()
            .filter(|nic| nic.speed_mbps.is_none_or(|speed| speed >= speed_mbps))
            .count();
        if fast_enough < count {
            let fact = format!("number of network interfaces{kind} with {speed_mbps} Mbit/s");
            differences.push(difference(
                &fact,
                format!("at least {count}"),
                fast_enough.to_string(),
            ));
        }
    }
}

fn difference(fact: &str, expected: String, found: String) -> Difference {
    Difference {
        fact: fact.to_owned(),
        expected,
        found,
    }
}

fn within(expected: u64, found: u64, tolerance_percent: u8) -> bool {
    u128::from(expected.abs_diff(found)) * 100
        <= u128::from(expected) * u128::from(tolerance_percent)
}

/// Equal but for the spaces: makers pad their model names.
fn same_text(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

fn canonical(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

fn text(found: &str) -> String {
    if found.trim().is_empty() {
        "not known".to_owned()
    } else {
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A size for people, one decimal.
fn size(bytes: u64) -> String {
    let (unit, word) = if bytes >= GIBIBYTE {
        (GIBIBYTE, "GiB")
    } else {
        (MEBIBYTE, "MiB")
    };
    format!("{}.{} {word}", bytes / unit, bytes % unit * 10 / unit)
}
