//! Identity of the machine and its operating system, and the numbers that move all the time.

use supernode_types::inventory::{Chassis, Inventory, Usage};

use crate::files::Files;
use crate::tools::Tools;

pub(crate) fn discover(files: Files<'_>, inventory: &mut Inventory) {
    let host_name = files
        .word("proc/sys/kernel/hostname")
        .or_else(|| files.word("etc/hostname"));
    let kernel = files.word("proc/sys/kernel/osrelease");
    let memory_bytes = memory_bytes(&files.text("proc/meminfo").unwrap_or_default(), "MemTotal");
    for (missing, what) in [
        (
            host_name.is_none(),
            "the host name could not be read from /proc/sys/kernel/hostname",
        ),
        (
            kernel.is_none(),
            "the kernel release could not be read from /proc/sys/kernel/osrelease",
        ),
        (
            memory_bytes.is_none(),
            "the memory size could not be read from /proc/meminfo",
        ),
    ] {
        if missing {
            inventory.problems.push(what.to_owned());
        }
    }
    inventory.host_name = host_name.unwrap_or_default();
    inventory.kernel = kernel.unwrap_or_default();
    inventory.memory_bytes = memory_bytes.unwrap_or(0);
    inventory.os = files
        .text("etc/os-release")
        .or_else(|| files.text("usr/lib/os-release"))
        .map(os_name)
        .unwrap_or_default();
    inventory.machine_id = files
        .word("etc/machine-id")
        .filter(|id| id != "uninitialized")
        .unwrap_or_default();
    inventory.boot_id = files
        .word("proc/sys/kernel/random/boot_id")
        .unwrap_or_default();
    inventory.chassis = Chassis {
        vendor: files
            .word("sys/class/dmi/id/sys_vendor")
            .unwrap_or_default(),
        product: files
            .word("sys/class/dmi/id/product_name")
            .unwrap_or_default(),
        serial: files.word("sys/class/dmi/id/product_serial"),
    };
}

pub(crate) fn usage(files: Files<'_>, tools: &dyn Tools) -> Usage {
    let root = tools.space(&files.path(""));
    Usage {
        memory_available_bytes: files
            .text("proc/meminfo")
            .and_then(|text| memory_bytes(&text, "MemAvailable")),
        load_hundredths: files
            .text("proc/loadavg")
            .and_then(|text| load_hundredths(&text)),
        root_size_bytes: root.map(|space| space.size_bytes),
        root_used_bytes: root.map(|space| space.used_bytes),
    }
}

/// Reads `MemTotal:       24684092 kB`.
pub(crate) fn memory_bytes(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Reads the first number of `0.52 0.58 0.59 1/389 4242`.
fn load_hundredths(text: &str) -> Option<u32> {
    let (whole, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths.parse().ok()?)
}

/// The name that os-release gives for people, else its short name.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it ends a chain of Option<String>"
)]
fn os_name(text: String) -> String {
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
        let value = line.trim().trim_matches(['"', '\'']);
        if value.is_empty() {
            None
        } else {
            Some(value.to_owned())
        }
    };
    value("PRETTY_NAME")
        .or_else(|| value("NAME"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_the_kernel() {
        let text = "MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:    9 kB\n";
        assert_eq!(memory_bytes(text, "MemTotal"), Some(24_684_092 * 1024));
        assert_eq!(memory_bytes(text, "MemAvailable"), Some(9 * 1024));
        assert_eq!(
            memory_bytes("MemTotal: 18446744073709551615 kB", "MemTotal"),
            None
        );
        assert_eq!(load_hundredths("12.07 0.58 0.59 1/389 4242\n"), Some(1207));
        assert_eq!(load_hundredths("12"), None);
    }

    #[test]
    fn names_of_operating_systems() {
        assert_eq!(
            os_name("NAME=\"openEuler\"\nPRETTY_NAME=\"openEuler 22.03 (LTS-SP4)\"\n".into()),
            "openEuler 22.03 (LTS-SP4)"
        );
        assert_eq!(os_name("NAME=Alpine\nPRETTY_NAME=\"\"\n".into()), "Alpine");
        assert_eq!(os_name(String::new()), "");
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,200}", number in "[0-9.]{0,30}") {
            let _ = (memory_bytes(&text, "MemTotal"), memory_bytes(&format!("MemTotal:{number} kB"), "MemTotal"));
            let _ = (load_hundredths(&text), load_hundredths(&number), os_name(text));
        }
    }
}
