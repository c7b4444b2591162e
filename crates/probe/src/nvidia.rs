//! NVIDIA GPUs: devices through NVML, versions through NVML and files.
//!
//! NVML is loaded at run time, only where the PCI bus has an NVIDIA device, and unloaded again: it costs tens of megabytes.
//! A device that is on the bus but not in NVML's list has fallen off its driver; that is a problem, said with its address.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use supernode_types::inventory::{Accelerator, AcceleratorVendor, DeviceHealth, Inventory};

use crate::ascend::normalise_bus_address;
use crate::files::Files;
use crate::pci;
use crate::tools::{Tool, Tools};

/// What NVML says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NvmlReport {
    /// The version of the driver.
    pub driver_version: Option<String>,
    /// The newest CUDA that the driver supports.
    pub cuda_driver_version: Option<String>,
    /// The devices.
    pub accelerators: Vec<Accelerator>,
    /// What could not be read.
    pub problems: Vec<String>,
}

pub(crate) fn discover(files: Files<'_>, tools: &dyn Tools, inventory: &mut Inventory) {
    let on_bus: Vec<String> = addresses(inventory);
    toolkit_version(files, tools, &mut inventory.versions);
    if on_bus.is_empty() {
        return;
    }
    if let Some(version) = files
        .text("proc/driver/nvidia/version")
        .and_then(|text| parse_driver_version(&text))
    {
        inventory.versions.insert("nvidia_driver".into(), version);
    }
    let report = match tools.nvml() {
        Ok(report) => report,
        Err(why) => {
            let count = on_bus.len();
            inventory.problems.push(format!(
                "{count} NVIDIA device(s) are on the PCI bus, but the driver cannot be asked: {why}"
            ));
            return;
        }
    };
    for (component, version) in [
        ("nvidia_driver", report.driver_version),
        ("cuda_driver", report.cuda_driver_version),
    ] {
        if let Some(version) = version {
            inventory.versions.insert(component.into(), version);
        }
    }
    let listed: Vec<&str> = report
        .accelerators
        .iter()
        .filter_map(|device| device.bus_address.as_deref())
        .collect();
    for address in on_bus
        .iter()
        .filter(|address| !listed.contains(&address.as_str()))
    {
        inventory.problems.push(format!(
            "the NVIDIA device at {address} is on the PCI bus, but its driver does not list it"
        ));
    }
    inventory.problems.extend(report.problems);
    inventory.accelerators.extend(report.accelerators);
}

fn addresses(inventory: &Inventory) -> Vec<String> {
    inventory
        .pci_accelerators
        .iter()
        .filter(|device| device.vendor_id == pci::NVIDIA)
        .map(|device| device.address.clone())
        .collect()
}

/// The toolkit in its usual place: `version.json`, `version.txt` of old ones, else what `nvcc` says.
fn toolkit_version(files: Files<'_>, tools: &dyn Tools, versions: &mut BTreeMap<String, String>) {
    let from_files = files
        .text("usr/local/cuda/version.json")
        .and_then(|text| parse_version_json(&text))
        .or_else(|| {
            files
                .text("usr/local/cuda/version.txt")
                .and_then(|text| parse_version_txt(&text))
        });
    let version = from_files.or_else(|| {
        // Only asked where it is: looking for it costs a search of PATH, running it some milliseconds.
        let installed = files.exists("usr/local/cuda/bin/nvcc") || files.exists("usr/bin/nvcc");
        let output = installed
            .then(|| tools.run(Tool::Nvcc, &["--version"]))?
            .ok()?;
        parse_nvcc_version(&output.text)
    });
    if let Some(version) = version {
        versions.insert("cuda".into(), version);
    }
}

/// Reads `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar…`, with or without `Open`.
pub fn parse_driver_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| {
        word.contains('.')
            && word
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    line.split_whitespace().find(is_version).map(str::to_owned)
}

/// Reads the version of `cuda` in the toolkit's `version.json`.
pub fn parse_version_json(text: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    version_word(json.get("cuda")?.get("version")?.as_str()?)
}

/// Reads `CUDA Version 10.2.89`.
pub fn parse_version_txt(text: &str) -> Option<String> {
    version_word(text.trim().strip_prefix("CUDA Version")?)
}

/// Reads `Cuda compilation tools, release 12.4, V12.4.131`.
pub fn parse_nvcc_version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(", V")?;
    version_word(rest.lines().next()?)
}

fn version_word(text: &str) -> Option<String> {
    let word = text.trim();
    let plausible = !word.is_empty()
        && word.len() <= 64
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte));
    plausible.then(|| word.to_owned())
}

/// Loads NVML; it is unloaded with what this gives.
pub(crate) fn open_nvml() -> Result<Nvml, String> {
    // Driver packages bring the library with its version number only; the plain name comes with the toolkit.
    let nvml = Nvml::builder()
        .lib_path(OsStr::new("libnvidia-ml.so.1"))
        .init()
        .or_else(|error| match error {
            NvmlError::LibloadingError(_) => Nvml::init(),
            other => Err(other),
        });
    nvml.map_err(|error| match error {
        NvmlError::LibloadingError(_) => {
            "its library libnvidia-ml.so.1 is not installed; install the NVIDIA driver".to_owned()
        }
        other => other.to_string(),
    })
}

/// Asks NVML for its devices.
pub(crate) fn ask_nvml() -> Result<NvmlReport, String> {
    let nvml = open_nvml()?;
    let mut report = NvmlReport {
        driver_version: nvml.sys_driver_version().ok(),
        cuda_driver_version: nvml.sys_cuda_driver_version().ok().map(|version| {
            format!(
                "{}.{}",
                cuda_driver_version_major(version),
                cuda_driver_version_minor(version)
            )
        }),
        ..NvmlReport::default()
    };
    let count = nvml
        .device_count()
        .map_err(|error| format!("it does not say how many devices there are: {error}"))?;
    for index in 0..count {
        match nvml.device_by_index(index) {
            Ok(device) => report.accelerators.push(accelerator(index, &device)),
            Err(error) => {
                report
                    .problems
                    .push(format!("NVIDIA device {index} does not answer: {error}"));
                if let Some(why) = fault(&error) {
                    let health = DeviceHealth::Bad { why };
                    report.accelerators.push(Accelerator {
                        health,
                        ..Accelerator::new(index, AcceleratorVendor::Nvidia)
                    });
                }
            }
        }
    }
    Ok(report)
}

fn accelerator(index: u32, device: &Device<'_>) -> Accelerator {
    let memory = device.memory_info();
    let health = match &memory {
        Ok(_) => memory_health(device),
        Err(error) => fault(error).map_or(DeviceHealth::Unknown, |why| DeviceHealth::Bad { why }),
    };
    Accelerator {
        physical_index: device.minor_number().ok(),
        model: device.name().unwrap_or_default(),
        memory_bytes: memory.ok().map(|memory| memory.total),
        uuid: device.uuid().ok(),
        serial: device.serial().ok(),
        bus_address: device
            .pci_info()
            .ok()
            .and_then(|pci| normalise_bus_address(&pci.bus_id)),
        health,
        ..Accelerator::new(index, AcceleratorVendor::Nvidia)
    }
}

/// Uncorrected memory errors since the driver was loaded: data was lost, and the device wants a reset.
fn memory_health(device: &Device<'_>) -> DeviceHealth {
    match device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile) {
        Ok(count) if count > 0 => DeviceHealth::Bad {
            why: format!("{count} uncorrected memory error(s) since the driver was loaded"),
        },
        Err(error) => fault(&error).map_or(DeviceHealth::Ok, |why| DeviceHealth::Bad { why }),
        Ok(_) => DeviceHealth::Ok,
    }
}

/// The answers that mean that the device is broken, not that the question was.
fn fault(error: &NvmlError) -> Option<String> {
    match error {
        NvmlError::GpuLost => Some("it has fallen off the bus; restart the machine".into()),
        NvmlError::ResetRequired => Some("it needs a reset before it can be used again".into()),
        NvmlError::CorruptedInfoROM => Some("its info ROM is corrupted".into()),
        _ => None,
    }
}
