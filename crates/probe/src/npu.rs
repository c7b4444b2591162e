//! Ascend NPUs: devices through `npu-smi`, versions and addresses through files.
//!
//! `npu-smi` takes up to seconds per call, so it is asked only where there is an NPU (on the PCI bus, or as a device file in a
//! container), what one card says about the model counts for its like, and after a time limit no more is asked.

use std::collections::BTreeMap;

use supernode_types::inventory::{Accelerator, AcceleratorVendor, Inventory};

use crate::ascend::{self, ChipMapping, ChipStatus, ChipTable, SuperPodAnswer, SuperPodPlace};
use crate::files::Files;
use crate::pci;
use crate::tools::{Tool, ToolError, Tools};

/// More chips than any server has; a tool gone mad must not make us ask forever.
const MOST_CHIPS: usize = 64;

pub(crate) fn discover(files: Files<'_>, tools: &dyn Tools, inventory: &mut Inventory) {
    file_versions(files, inventory);
    let on_bus = inventory
        .pci_accelerators
        .iter()
        .filter(|device| device.vendor_id == pci::HUAWEI)
        .count();
    if on_bus == 0 && !files.exists("dev/davinci_manager") {
        return;
    }
    let mut query = Query {
        tools,
        problems: Vec::new(),
        silent: false,
    };
    let status = query
        .ask(&["info"])
        .map(|text| ascend::parse_info(&text))
        .unwrap_or_default();
    let mapping = query
        .ask(&["info", "-m"])
        .map(|text| ascend::parse_mapping(&text))
        .unwrap_or_default();
    if let Some(version) = &status.driver_version {
        inventory
            .versions
            .insert("ascend_driver".into(), version.clone());
    }
    let chips = chips(mapping.chips, &status, &mut query.problems);
    let boards = boards(&mut query, &chips);
    if let Some(version) = boards
        .values()
        .find_map(|board| board.get("Firmware Version"))
    {
        inventory
            .versions
            .insert("ascend_firmware".into(), version.clone());
    }
    let npu_name = npu_name(&mut query, &chips, &boards);
    let places = super_pod_places(&mut query, &chips, mapping.one_chip_per_card);
    inventory.ascend_server_index = server_index(&places, &mut query.problems);
    let addresses = files
        .text("etc/hccn.conf")
        .map(|text| ascend::parse_device_addresses(&text))
        .unwrap_or_default();

    let mut accelerators: Vec<Accelerator> = Vec::with_capacity(chips.len());
    for (order, chip) in (0u32..).zip(&chips) {
        let shown = status
            .chips
            .iter()
            .find(|shown| (shown.npu_id, shown.chip_id) == (chip.npu_id, chip.chip_id));
        let board = boards.get(&chip.npu_id);
        let physical_index = chip
            .physical_id
            .or_else(|| shown.and_then(|shown| shown.physical_id))
            .or(chip.logic_id);
        let place = places
            .get(&(chip.npu_id, chip.chip_id))
            .cloned()
            .unwrap_or_default();
        accelerators.push(Accelerator {
            physical_index,
            model: ascend::model(&chip.name, npu_name.as_deref()),
            memory_bytes: shown.and_then(|shown| shown.memory_bytes),
            serial: board.and_then(|board| board.get("Serial Number")).cloned(),
            bus_address: shown
                .and_then(|shown| shown.bus_address.clone())
                .or_else(|| {
                    board.and_then(|board| {
                        ascend::normalise_bus_address(board.get("PCIe Bus Info")?)
                    })
                }),
            health: shown.map(|shown| shown.health.clone()).unwrap_or_default(),
            super_pod_id: place.super_pod_id.map(|id| id.to_string()),
            super_device_id: place.device_id,
            device_ip: physical_index
                .and_then(|number| addresses.get(&number))
                .copied(),
            ..Accelerator::new(
                chip.logic_id.or(chip.physical_id).unwrap_or(order),
                AcceleratorVendor::Ascend,
            )
        });
    }
    accelerators.sort_by_key(|device| device.index);
    if accelerators
        .windows(2)
        .any(|pair| pair[0].index == pair[1].index)
    {
        query.problems.push(
            "npu-smi gives two chips the same number; devices are numbered in its order".into(),
        );
        for (order, device) in (0u32..).zip(&mut accelerators) {
            device.index = order;
        }
    }
    if accelerators.is_empty() {
        query.problems.push(match on_bus {
            0 => "there is an Ascend driver (/dev/davinci_manager), but npu-smi lists no device"
                .to_owned(),
            count => format!("{count} Ascend device(s) are on the PCI bus, but npu-smi lists none"),
        });
    } else {
        missing_from_driver(inventory, &accelerators, &mut query.problems);
    }
    inventory.problems.extend(query.problems);
    inventory.accelerators.extend(accelerators);
}

/// Asks `npu-smi`, and stops asking when it has once been too slow or is not there.
struct Query<'a> {
    tools: &'a dyn Tools,
    problems: Vec<String>,
    silent: bool,
}

impl Query<'_> {
    fn ask(&mut self, arguments: &[&str]) -> Option<String> {
        if self.silent {
            return None;
        }
        match self.tools.run(Tool::NpuSmi, arguments) {
            Ok(output) => {
                if !output.success && !output.text.to_lowercase().contains("not support") {
                    let last = output
                        .text
                        .lines()
                        .rev()
                        .map(str::trim)
                        .find(|line| !line.is_empty())
                        .unwrap_or("it printed nothing");
                    let last: String = last.chars().take(200).collect();
                    self.problems
                        .push(format!("`npu-smi {}` failed: {last}", arguments.join(" ")));
                }
                Some(output.text)
            }
            Err(error) => {
                self.silent = !matches!(error, ToolError::OutputLimit { .. });
                self.problems
                    .push(format!("Ascend devices could not be asked: {error}"));
                None
            }
        }
    }
}

/// The chips that compute: from the mapping, or from the table where there is no mapping.
fn chips(
    mapping: Vec<ChipMapping>,
    status: &ChipTable,
    problems: &mut Vec<String>,
) -> Vec<ChipMapping> {
    let mut chips = mapping;
    if chips.is_empty() && !status.chips.is_empty() {
        problems.push(
            "`npu-smi info -m` lists no chips; devices are numbered in the order of `npu-smi info`"
                .into(),
        );
        chips = status
            .chips
            .iter()
            .map(|shown: &ChipStatus| ChipMapping {
                npu_id: shown.npu_id,
                chip_id: shown.chip_id,
                logic_id: None,
                physical_id: shown.physical_id,
                name: shown.name.clone(),
            })
            .collect();
    }
    chips.truncate(MOST_CHIPS);
    chips
}

type Board = BTreeMap<String, String>;

/// One query per card; its chips share board and serial number.
fn boards(query: &mut Query<'_>, chips: &[ChipMapping]) -> BTreeMap<u32, Board> {
    let mut boards: BTreeMap<u32, Board> = BTreeMap::new();
    for chip in chips {
        if !boards.contains_key(&chip.npu_id)
            && let Some(text) = query.ask(&["info", "-t", "board", "-i", &chip.npu_id.to_string()])
        {
            boards.insert(chip.npu_id, ascend::parse_fields(&text));
        }
    }
    boards
}

/// The second half of an A3's model, which only the board query of a chip has.
fn npu_name(
    query: &mut Query<'_>,
    chips: &[ChipMapping],
    boards: &BTreeMap<u32, Board>,
) -> Option<String> {
    let chip = chips
        .iter()
        .find(|chip| ascend::model(&chip.name, None) == "Ascend910")?;
    if let Some(name) = boards
        .get(&chip.npu_id)
        .and_then(|board| board.get("NPU Name"))
    {
        return Some(name.clone());
    }
    let text = query.ask(&[
        "info",
        "-t",
        "board",
        "-i",
        &chip.npu_id.to_string(),
        "-c",
        &chip.chip_id.to_string(),
    ])?;
    ascend::parse_fields(&text).remove("NPU Name")
}

/// Where the chips are in their super pod; the first "not supported" answers for all.
fn super_pod_places(
    query: &mut Query<'_>,
    chips: &[ChipMapping],
    one_chip_per_card: bool,
) -> BTreeMap<(u32, u32), SuperPodPlace> {
    let mut places = BTreeMap::new();
    for chip in chips {
        let (npu_id, chip_id) = (chip.npu_id.to_string(), chip.chip_id.to_string());
        let mut arguments = vec!["info", "-t", "spod-info", "-i", &npu_id];
        if !one_chip_per_card {
            arguments.extend(["-c", &chip_id]);
        }
        let Some(text) = query.ask(&arguments) else {
            break;
        };
        match ascend::parse_super_pod(&text) {
            SuperPodAnswer::NotSupported => break,
            SuperPodAnswer::Place(place) => drop(places.insert((chip.npu_id, chip.chip_id), place)),
            SuperPodAnswer::NotUnderstood => {
                query.problems.push(format!(
                    "the place of NPU {npu_id} chip {chip_id} in its super pod could not be read"
                ));
            }
        }
    }
    places
}

/// All chips of a server must agree.
fn server_index(
    places: &BTreeMap<(u32, u32), SuperPodPlace>,
    problems: &mut Vec<String>,
) -> Option<u32> {
    let mut indices: Vec<u32> = places
        .values()
        .filter_map(|place| place.server_index)
        .collect();
    indices.sort_unstable();
    indices.dedup();
    if indices.len() > 1 {
        problems.push(format!("the chips disagree about the server's index in the super pod ({indices:?}); set it in the management controller"));
        return None;
    }
    indices.pop()
}

/// Names what is on the bus but not in the driver's list; says nothing where the driver does not give addresses.
fn missing_from_driver(
    inventory: &Inventory,
    accelerators: &[Accelerator],
    problems: &mut Vec<String>,
) {
    if accelerators
        .iter()
        .any(|device| device.bus_address.is_none())
    {
        return;
    }
    for device in inventory
        .pci_accelerators
        .iter()
        .filter(|device| device.vendor_id == pci::HUAWEI)
    {
        if !accelerators
            .iter()
            .any(|listed| listed.bus_address.as_deref() == Some(device.address.as_str()))
        {
            problems.push(format!(
                "the Ascend device at {} is on the PCI bus, but its driver does not list it",
                device.address
            ));
        }
    }
}

fn file_versions(files: Files<'_>, inventory: &mut Inventory) {
    let version = |path: &str| {
        files
            .text(path)
            .and_then(|text| ascend::parse_package_version(&text))
    };
    let base = files
        .text("etc/ascend_install.info")
        .and_then(|text| {
            Some(
                text.lines()
                    .find_map(|line| line.strip_prefix("Driver_Install_Path_Param="))?
                    .trim()
                    .to_owned(),
            )
        })
        .filter(|path| path.starts_with('/') && !path.contains(".."))
        .map_or_else(
            || "usr/local/Ascend".to_owned(),
            |path| path.trim_matches('/').to_owned(),
        );
    let architecture = inventory.cpu.architecture.clone();
    let cann = [
        format!("usr/local/Ascend/cann/{architecture}-linux/ascend_toolkit_install.info"),
        format!(
            "usr/local/Ascend/ascend-toolkit/latest/{architecture}-linux/ascend_toolkit_install.info"
        ),
        format!("usr/local/Ascend/latest/{architecture}-linux/ascend_toolkit_install.info"),
        format!("usr/local/Ascend/nnae/latest/{architecture}-linux/ascend_nnae_install.info"),
        format!("usr/local/Ascend/nnrt/latest/{architecture}-linux/ascend_nnrt_install.info"),
        "usr/local/Ascend/ascend-toolkit/latest/version.cfg".to_owned(),
        "usr/local/Ascend/ascend-toolkit/latest/compiler/version.info".to_owned(),
    ];
    let found = [
        (
            "ascend_driver",
            version(&format!("{base}/driver/version.info")),
        ),
        (
            "ascend_firmware",
            version(&format!("{base}/firmware/version.info")),
        ),
        ("cann", cann.iter().find_map(|path| version(path))),
    ];
    for (component, version) in found {
        if let Some(version) = version {
            inventory.versions.insert(component.into(), version);
        }
    }
}
