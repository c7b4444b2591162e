//! Parsers of what Ascend's tools and files say: pure functions, text in, facts out.
//!
//! The formats differ between products and versions: `npu-smi info` prints two lines per chip with three cells (A2, A3) or four
//! (950), `npu-smi info -m` has four or five columns, and the 950 counts by slot instead of logic id. What a parser does not
//! understand it leaves out; none panics on any input, and none invents a value: `NA`, `-` and an all-ones number mean "not
//! known", while 0 is a value like any other. `tests/samples/` has one file per documented format and per trap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use supernode_types::inventory::DeviceHealth;

/// One chip in the table of `npu-smi info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipStatus {
    /// The card.
    pub npu_id: u32,
    /// The chip on its card; 0 where the product has one per card and the table does not say.
    pub chip_id: u32,
    /// The number of its device file, where the table says so.
    pub physical_id: Option<u32>,
    /// The short model name, for example `910B3`.
    pub name: String,
    /// What the driver says.
    pub health: DeviceHealth,
    /// Where it is on the PCI bus, normalised; absent on products that hang on another bus.
    pub bus_address: Option<String>,
    /// High-bandwidth memory, or the ordinary memory of products without it.
    pub memory_bytes: Option<u64>,
}

/// What `npu-smi info` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChipTable {
    /// The version of the driver.
    pub driver_version: Option<String>,
    /// The chips, in the order of the table.
    pub chips: Vec<ChipStatus>,
}

/// One computing chip in `npu-smi info -m`; controllers (`Mcu`) are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipMapping {
    /// The card: what `npu-smi -i` takes.
    pub npu_id: u32,
    /// The chip on its card: what `npu-smi -c` takes.
    pub chip_id: u32,
    /// The number by which programs choose it; the 950 prints none.
    pub logic_id: Option<u32>,
    /// The number of its device file; older products print none.
    pub physical_id: Option<u32>,
    /// The model, for example `Ascend 910B3`.
    pub name: String,
}

/// What `npu-smi info -m` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MappingTable {
    /// The computing chips.
    pub chips: Vec<ChipMapping>,
    /// Whether the product has one chip per card and takes no `-c` (950: the table has a slot column).
    pub one_chip_per_card: bool,
}

/// What `npu-smi info -t spod-info` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuperPodAnswer {
    /// The product knows no super pods: a normal answer.
    NotSupported,
    /// The place of a chip in its super pod.
    Place(SuperPodPlace),
    /// Neither.
    NotUnderstood,
}

/// The place of a chip in its super pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SuperPodPlace {
    /// The chip's number in the super pod (SDID).
    pub device_id: Option<u32>,
    /// The super pod.
    pub super_pod_id: Option<u32>,
    /// The server's number in the super pod.
    pub server_index: Option<u32>,
}

/// Reads the table of `npu-smi info`.
pub fn parse_info(text: &str) -> ChipTable {
    let mut table = ChipTable::default();
    let mut first: Option<(u32, String, DeviceHealth)> = None;
    for line in text.lines() {
        let Some(row) = line.trim().strip_prefix('|') else {
            continue;
        };
        let row = row.strip_suffix('|').unwrap_or(row);
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if cells.iter().any(|cell| cell.starts_with("Process id")) {
            break;
        }
        if let Some((_, version)) = row.split_once("Version:") {
            table.driver_version = version.split_whitespace().next().and_then(known);
            continue;
        }
        if let Some((npu_id, name, health)) = first.take_if(|_| is_second_line(&cells)) {
            let identity: Vec<u32> = cells[0]
                .split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let bus_cell = cells[cells.len() - 2];
            table.chips.push(ChipStatus {
                npu_id,
                chip_id: identity.first().copied().unwrap_or(0),
                physical_id: identity.get(1).copied(),
                name,
                health,
                bus_address: normalise_bus_address(bus_cell),
                memory_bytes: memory_bytes(cells[cells.len() - 1]),
            });
        } else {
            first = first_line(&cells);
        }
    }
    table
}

/// `| 0     910B3 | OK | … |`, or with its own cell for the name: `| 0 | Ascend950PR | OK | … |`.
fn first_line(cells: &[&str]) -> Option<(u32, String, DeviceHealth)> {
    let mut words = cells.first()?.split_whitespace();
    let npu_id = words.next()?.parse().ok()?;
    let rest: Vec<&str> = words.collect();
    let (name, health) = match cells {
        [_, health, _] if !rest.is_empty() => (rest.join(" "), health),
        [_, name, health, _] if rest.is_empty() && !name.is_empty() => ((*name).to_owned(), health),
        _ => return None,
    };
    Some((npu_id, name, parse_health(health)))
}

/// The second line has the bus address where the first has the health.
fn is_second_line(cells: &[&str]) -> bool {
    cells.len() >= 3 && {
        let bus = cells[cells.len() - 2];
        bus.contains(':') || bus.is_empty() || known(bus).is_none()
    }
}

/// The total of the last `used / total` pair that is not 0, printed in MB that are MiB.
fn memory_bytes(cell: &str) -> Option<u64> {
    let spaced = cell.replace('/', " / ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let totals = words
        .windows(3)
        .filter(|window| window[1] == "/" && window[0].parse::<u64>().is_ok());
    let mebibytes = totals
        .filter_map(|window| window[2].parse::<u64>().ok())
        .rfind(|total| *total > 0)?;
    mebibytes.checked_mul(1 << 20)
}

/// `OK` is health; `Warning`, `Alarm` and `Critical` are faults; anything else is not known.
pub fn parse_health(word: &str) -> DeviceHealth {
    match word.trim() {
        "OK" => DeviceHealth::Ok,
        fault @ ("Warning" | "Alarm" | "Critical" | "Fault" | "Error") => DeviceHealth::Bad {
            why: format!("npu-smi reports health {fault}"),
        },
        _ => DeviceHealth::Unknown,
    }
}

/// Reads the table of `npu-smi info -m`, whose header decides what the columns mean.
pub fn parse_mapping(text: &str) -> MappingTable {
    let mut table = MappingTable::default();
    let mut columns: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("NPU ID") && !line.contains(':') {
            columns = split_columns(line);
            table.one_chip_per_card = columns.iter().any(|column| column == "Slot ID");
            continue;
        }
        let position = |name: &str| columns.iter().position(|column| column == name);
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |name: &str| {
            position(name)
                .and_then(|at| words.get(at))
                .and_then(|word| word.parse::<u32>().ok())
        };
        let (Some(npu_id), Some(name_at)) = (number("NPU ID"), position("Chip Name")) else {
            continue;
        };
        let name = words.get(name_at..).unwrap_or_default().join(" ");
        let (logic_id, physical_id) = (number("Chip Logic ID"), number("Chip Phy-ID"));
        if name.is_empty()
            || name.eq_ignore_ascii_case("mcu")
            || (logic_id.is_none() && physical_id.is_none())
        {
            continue;
        }
        let Some(chip_id) = number("Chip ID") else {
            continue;
        };
        table.chips.push(ChipMapping {
            npu_id,
            chip_id,
            logic_id,
            physical_id,
            name,
        });
    }
    table
}

/// Splits where there are two spaces or more: column names have single ones inside.
fn split_columns(line: &str) -> Vec<String> {
    line.split("  ")
        .map(str::trim)
        .filter(|column| !column.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Reads `Name : value` lines, as of `npu-smi info -t board`. The first value of a name counts; unknown ones are left out.
pub fn parse_fields(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':')
            && let Some(value) = known(value)
        {
            fields.entry(name.trim().to_owned()).or_insert(value);
        }
    }
    fields
}

/// Reads `npu-smi info -t spod-info`.
pub fn parse_super_pod(text: &str) -> SuperPodAnswer {
    if text.to_lowercase().contains("not support") {
        return SuperPodAnswer::NotSupported;
    }
    let fields = parse_fields(text);
    let number = |name: &str| {
        fields
            .get(name)
            .and_then(|value| value.parse::<u32>().ok())
            .filter(|value| *value != u32::MAX)
    };
    let place = SuperPodPlace {
        device_id: number("SDID"),
        super_pod_id: number("Super Pod ID"),
        server_index: number("Server Index"),
    };
    if place == SuperPodPlace::default() {
        SuperPodAnswer::NotUnderstood
    } else {
        SuperPodAnswer::Place(place)
    }
}

/// The model as Ascend's own software names it: `Ascend910B3` for an A2, `Ascend910_9392` for an A3, whose board query has the
/// second half under `NPU Name`.
pub fn model(chip_name: &str, npu_name: Option<&str>) -> String {
    let compact: String = chip_name.split_whitespace().collect();
    let compact = if compact.starts_with("Ascend") || compact.is_empty() {
        compact
    } else {
        format!("Ascend{compact}")
    };
    match npu_name {
        Some(npu_name) if compact == "Ascend910" => format!("{compact}_{npu_name}"),
        _ => compact,
    }
}

/// Reads the addresses of the chips' own network ports from `hccn.conf`: `address_N=…`, N being the number of the device file.
pub fn parse_device_addresses(text: &str) -> BTreeMap<u32, IpAddr> {
    let mut addresses = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let Some(number) = name.trim().strip_prefix("address_") else {
            continue;
        };
        if let (Ok(number), Ok(address)) = (number.parse(), value.trim().parse::<IpAddr>())
            && !address.is_unspecified()
        {
            addresses.insert(number, address);
        }
    }
    addresses
}

/// The version in a package's `*_install.info`, `version.info` or `version.cfg`: the name that users know (`8.3.RC2`) where the
/// file has it, else the internal number.
pub fn parse_package_version(text: &str) -> Option<String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        if let Some((name, value)) = line.split_once('=')
            && let Some(value) = known(value.trim().trim_matches('"'))
        {
            found.entry(name.trim().to_lowercase()).or_insert(value);
        }
    }
    // version.cfg: `toolkit_running_version=[7.7.0.1.238:8.1.RC1]`, the public name behind the colon.
    let bracketed = |name: &str| {
        let value = found.get(name)?.trim_matches(['[', ']']);
        known(value.rsplit_once(':').map_or(value, |(_, public)| public))
    };
    let plain = |name: &str| found.get(name).cloned();
    plain("version_dir")
        .or_else(|| plain("version"))
        .or_else(|| bracketed("toolkit_running_version"))
        .or_else(|| bracketed("runtime_running_version"))
}

/// Writes a PCI address in the kernel's way: `00000000:4F:00.0` becomes `0000:4f:00.0`. `None` if it is not one.
pub fn normalise_bus_address(text: &str) -> Option<String> {
    let mut parts = text.trim().split([':', '.']);
    let mut number = |digits: usize| {
        parts.next().filter(|part| {
            (1..=digits).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let (domain, bus, device, function) = (number(8)?, number(2)?, number(2)?, number(2)?);
    let hexadecimal = |part| u32::from_str_radix(part, 16).ok();
    let address = (
        hexadecimal(domain)?,
        hexadecimal(bus)?,
        hexadecimal(device)?,
        hexadecimal(function)?,
    );
    if parts.next().is_some() {
        return None;
    }
    Some(format!(
        "{:04x}:{:02x}:{:02x}.{:x}",
        address.0, address.1, address.2, address.3
    ))
}

/// A value that says something: not empty, and none of the ways to say "not known".
fn known(value: &str) -> Option<String> {
    let value = value.trim();
    let unknown = matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "-" | "na" | "n/a" | "none" | "unknown"
    );
    if unknown {
        None
    } else {
        Some(value.chars().take(256).collect())
    }
}
