//! `nvidia-smi -q -x`: the state of NVIDIA GPUs where the driver's library cannot be asked.
//!
//! Traps: newer drivers call `clocks_throttle_reasons` `clocks_event_reasons`; "N/A" can stand anywhere; one that counts nothing is
//! not zero.

use super::{Check, CheckState, NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// Everything about all GPUs.
pub fn arguments() -> Vec<String> {
    ["-q", "-x"].map(str::to_owned).into()
}

/// Understands its XML as far as it says something about sickness.
pub fn parse(text: &str) -> Result<Parsed, NotUnderstood> {
    let mut parsed = Parsed::default();
    for (device, gpu) in (0_u32..).zip(blocks(text, "gpu")) {
        let device = leaf(gpu, "minor_number")
            .and_then(|text| text.parse().ok())
            .unwrap_or(device);
        let mut check = |name: &str, state, detail: &str| {
            let check = Check::new(name, state).of_device(Some(device)).with(detail);
            parsed.checks.push(check);
        };
        for name in [
            "dram_uncorrectable",
            "sram_uncorrectable",
            "sram_uncorrectable_parity",
            "sram_uncorrectable_secded",
        ] {
            let volatile = blocks(gpu, "volatile").next();
            if let Some(count) = volatile.and_then(|block| leaf(block, name)) {
                match count.parse::<u64>() {
                    Ok(0) => check(name, CheckState::Pass, count),
                    Ok(_) => check(name, CheckState::Fail, count),
                    // N/A: it does not count.
                    Err(_) => {}
                }
            }
        }
        for (name, state) in [
            ("remapped_row_pending", CheckState::Warning),
            ("remapped_row_failure", CheckState::Fail),
        ] {
            match leaf(gpu, name) {
                Some("No") => check(name, CheckState::Pass, "No"),
                Some("Yes") => check(name, state, "Yes"),
                _ => {}
            }
        }
        for reason in [
            "hw_slowdown",
            "hw_thermal_slowdown",
            "hw_power_brake_slowdown",
            "sw_thermal_slowdown",
        ] {
            let word = ["clocks_event_reason", "clocks_throttle_reason"]
                .iter()
                .find_map(|family| leaf(gpu, &format!("{family}_{reason}")));
            match word {
                Some("Active") => check(reason, CheckState::Warning, "Active"),
                Some("Not Active") => check(reason, CheckState::Pass, "Not Active"),
                _ => {}
            }
        }
        for (name, now, most) in [
            ("pcie_link_width", "current_link_width", "max_link_width"),
            ("pcie_link_gen", "current_link_gen", "max_link_gen"),
        ] {
            if let (Some(now), Some(most)) = (leaf(gpu, now), leaf(gpu, most))
                && now != "N/A"
            {
                // An idle GPU lowers its generation, not its width.
                let state = match (now == most, name) {
                    (true, _) => CheckState::Pass,
                    (false, "pcie_link_gen") => CheckState::Skipped,
                    (false, _) => CheckState::Warning,
                };
                check(name, state, &format!("{now} of {most}"));
            }
        }
        if let Some(temperature) = leaf(gpu, "gpu_temp").and_then(number) {
            parsed
                .samples
                .push((Metric::Temperature, Part::Device(device), temperature));
        }
    }
    if parsed == Parsed::default() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

/// The insides of elements of a name, also of those with attributes.
fn blocks<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(&open)? + open.len();
            let after = &rest[start..];
            // `<gpu` also begins `<gpu_temp>`.
            if !after.starts_with(['>', ' ', '\n']) {
                rest = after;
                continue;
            }
            let inside = &after[after.find('>')? + 1..];
            let end = inside.find(&close)?;
            rest = &inside[end..];
            return Some(&inside[..end]);
        }
    })
}

/// The text of the first element of a name.
fn leaf<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    blocks(text, name).next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<?xml version=\"1.0\" ?>\n<nvidia_smi_log><attached_gpus>1</attached_gpus>\n<gpu id=\"00000001:00:00.0\"><minor_number>4</minor_number>\n<pci><pci_gpu_link_info><pcie_gen><max_link_gen>4</max_link_gen><current_link_gen>1</current_link_gen></pcie_gen><link_widths><max_link_width>16x</max_link_width><current_link_width>8x</current_link_width></link_widths></pci_gpu_link_info></pci>\n<clocks_throttle_reasons><clocks_throttle_reason_hw_thermal_slowdown>Not Active</clocks_throttle_reason_hw_thermal_slowdown></clocks_throttle_reasons>\n<ecc_errors><volatile><sram_uncorrectable>N/A</sram_uncorrectable><dram_uncorrectable>2</dram_uncorrectable></volatile><aggregate><dram_uncorrectable>9</dram_uncorrectable></aggregate></ecc_errors>\n<remapped_rows><remapped_row_pending>Yes</remapped_row_pending><remapped_row_failure>No</remapped_row_failure></remapped_rows>\n<temperature><gpu_temp>36 C</gpu_temp></temperature></gpu></nvidia_smi_log>\n";

    fn states(text: &str) -> Vec<(String, CheckState)> {
        let checks = parse(text).expect("known").checks;
        assert!(checks.iter().all(|check| check.device == Some(4)));
        checks
            .into_iter()
            .map(|check| (check.name, check.state))
            .collect()
    }

    #[test]
    fn what_says_something_about_sickness() {
        assert_eq!(
            states(XML),
            [
                ("dram_uncorrectable".into(), CheckState::Fail),
                ("remapped_row_pending".into(), CheckState::Warning),
                ("remapped_row_failure".into(), CheckState::Pass),
                ("hw_thermal_slowdown".into(), CheckState::Pass),
                ("pcie_link_width".into(), CheckState::Warning),
                ("pcie_link_gen".into(), CheckState::Skipped),
            ]
        );
        let temperature = &parse(XML).expect("known").samples[0];
        assert_eq!(temperature, &(Metric::Temperature, Part::Device(4), 36.0));
    }

    #[test]
    fn the_new_name_of_throttle_reasons() {
        let new = XML
            .replace("clocks_throttle_reason", "clocks_event_reason")
            .replace("Not Active", "Active");
        assert!(states(&new).contains(&("hw_thermal_slowdown".into(), CheckState::Warning)));
    }

    #[test]
    fn no_driver_is_no_result() {
        assert!(
            parse("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
                .is_err()
        );
    }
}
