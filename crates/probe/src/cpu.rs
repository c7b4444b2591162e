//! Processors: model from `/proc/cpuinfo`, topology from sysfs.
//!
//! ARM kernels print no model name, only the maker's and the part's number, so the parts that servers are built of are named here.

use std::collections::BTreeSet;

use supernode_types::inventory::Cpu;

use crate::files::Files;

const TOPOLOGY: &str = "sys/devices/system/cpu";

pub(crate) fn discover(files: Files<'_>, problems: &mut Vec<String>) -> Cpu {
    let text = files.text("proc/cpuinfo").unwrap_or_default();
    let mut cpu = Cpu {
        model: model(&text),
        vendor: vendor(&text),
        architecture: files
            .word("proc/sys/kernel/arch")
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        numa_nodes: numa_nodes(files),
        ..Cpu::default()
    };
    topology(files, &mut cpu);
    if cpu.threads == 0 {
        // No sysfs, as in some sandboxes: count what the kernel lists.
        let all = files.text_of("proc/cpuinfo", 4 << 20).unwrap_or_default();
        cpu.threads = count(
            all.lines()
                .filter(|line| field(line).is_some_and(|(name, _)| name == "processor"))
                .count(),
        );
        cpu.cores = cpu.threads;
        cpu.sockets = cpu.threads.min(1);
    }
    if cpu.threads == 0 {
        problems.push("the processors could not be counted: neither /sys/devices/system/cpu nor /proc/cpuinfo lists them".into());
    }
    cpu
}

fn topology(files: Files<'_>, cpu: &mut Cpu) {
    let list = files
        .word(&format!("{TOPOLOGY}/online"))
        .unwrap_or_default();
    let online = parse_list(&list);
    let (mut packages, mut cores) = (BTreeSet::new(), BTreeSet::new());
    for number in &online {
        let topology = format!("{TOPOLOGY}/cpu{number}/topology");
        packages.extend(files.word(&format!("{topology}/physical_package_id")));
        // The threads of one core share this list, and only they: core ids repeat between clusters on ARM.
        let siblings = files.word(&format!("{topology}/thread_siblings_list"));
        cores.insert(siblings.unwrap_or_else(|| number.to_string()));
    }
    cpu.threads = count(online.len());
    cpu.cores = count(cores.len());
    cpu.sockets = count(packages.len()).max(cpu.threads.min(1));
}

/// Nodes without processors (the memory of some accelerators) do not count.
fn numa_nodes(files: Files<'_>) -> u32 {
    let is_node = |name: &String| {
        name.strip_prefix("node")
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let nodes = files
        .names("sys/devices/system/node")
        .into_iter()
        .filter(is_node);
    let with_processors = nodes.filter(|node| {
        files
            .word(&format!("sys/devices/system/node/{node}/cpulist"))
            .is_some()
    });
    count(with_processors.count()).max(1)
}

/// Reads a list such as `0-3,8`.
pub(crate) fn parse_list(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            // No machine has more; a broken file must not fill the memory.
            numbers.extend((first..=last).take(65_536usize.saturating_sub(numbers.len())));
        }
    }
    numbers
}

fn field(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')
        .map(|(name, value)| (name.trim(), value.trim()))
}

fn first<'a>(text: &'a str, wanted: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(field)
        .find(|(name, value)| name.eq_ignore_ascii_case(wanted) && !value.is_empty())
        .map(|(_, value)| value)
}

fn model(text: &str) -> String {
    if let Some(name) = first(text, "model name") {
        return name.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let (Some(implementer), Some(part)) = (first(text, "CPU implementer"), first(text, "CPU part"))
    else {
        return String::new();
    };
    let name = match (implementer, part) {
        ("0x48", "0xd01") => "Kunpeng 920 (TaiShan v110)",
        ("0x48", "0xd02" | "0xd03") => "Kunpeng 920 (TaiShan v120)",
        ("0x41", "0xd08") => "Cortex-A72",
        ("0x41", "0xd0c") => "Neoverse N1",
        ("0x41", "0xd40") => "Neoverse V1",
        ("0x41", "0xd49") => "Neoverse N2",
        ("0x41", "0xd4f") => "Neoverse V2",
        ("0x41", "0xd83") => "Neoverse V3AE",
        ("0x41", "0xd84") => "Neoverse V3",
        ("0x41", "0xd8e") => "Neoverse N3",
        ("0xc0", "0xac3") => "Ampere-1",
        ("0xc0", "0xac4") => "Ampere-1a",
        ("0x70", "0x663") => "Phytium FTC663",
        ("0x70", "0x662") => "Phytium FTC662",
        _ => return format!("implementer {implementer} part {part}"),
    };
    name.to_owned()
}

fn vendor(text: &str) -> String {
    if let Some(vendor) = first(text, "vendor_id") {
        return vendor.to_owned();
    }
    let name = match first(text, "CPU implementer") {
        Some("0x41") => "ARM",
        Some("0x48") => "HiSilicon",
        Some("0x70") => "Phytium",
        Some("0xc0") => "Ampere",
        Some("0x4e") => "NVIDIA",
        Some(other) => other,
        None => "",
    };
    name.to_owned()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("5"), [5]);
        assert_eq!(parse_list(""), [0u32; 0]);
        assert_eq!(parse_list("x-2,3-1,7"), [7]);
        assert_eq!(parse_list("0-4294967295,0-4294967295").len(), 65_536);
    }

    #[test]
    fn arm_parts_have_names_and_unknown_ones_their_numbers() {
        assert_eq!(
            model("CPU implementer : 0x48\nCPU part : 0xd01\n"),
            "Kunpeng 920 (TaiShan v110)"
        );
        assert_eq!(
            model("CPU implementer : 0x99\nCPU part : 0x001\n"),
            "implementer 0x99 part 0x001"
        );
        assert_eq!(vendor("CPU implementer : 0x48\n"), "HiSilicon");
        assert_eq!(model(""), "");
    }
}
