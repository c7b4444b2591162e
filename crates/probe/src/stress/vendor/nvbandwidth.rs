//! `nvbandwidth -j`: copies between host and GPUs, and between GPUs.
//!
//! Traps: numbers are strings; a pair that is none is `N/A`; a test can be waived, which is not a pass.

use serde_json::Value;

use super::{Check, CheckState, NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// The tests of links.
pub fn arguments() -> Vec<String> {
    [
        "-j",
        "-t",
        "host_to_device_memcpy_ce",
        "device_to_host_memcpy_ce",
        "device_to_device_memcpy_write_ce",
    ]
    .map(str::to_owned)
    .into()
}

/// Understands its JSON.
pub fn parse(text: &str) -> Result<Parsed, NotUnderstood> {
    let start = text.find('{').ok_or_else(|| NotUnderstood::form(text))?;
    let value: Value =
        serde_json::from_str(text[start..].trim()).map_err(|_| NotUnderstood::form(text))?;
    let root = value
        .get("nvbandwidth")
        .ok_or_else(|| NotUnderstood::form(text))?;
    if let Some(error) = root.get("error").and_then(Value::as_str) {
        return Err(NotUnderstood::Refused(error.to_owned()));
    }
    let tests = root.get("testcases").and_then(Value::as_array);
    let mut parsed = Parsed::default();
    for test in tests.ok_or_else(|| NotUnderstood::form(text))? {
        let name = test.get("name").and_then(Value::as_str).unwrap_or_default();
        let state = match test.get("status").and_then(Value::as_str) {
            Some("Passed") => CheckState::Pass,
            Some("Waived" | "Not Found") => CheckState::Skipped,
            Some("Error") => CheckState::Fail,
            other => CheckState::Unknown(other.unwrap_or("?").to_owned()),
        };
        parsed.checks.push(Check::new(name, state));
        let rows = test.get("bandwidth_matrix").and_then(Value::as_array);
        for (from, row) in (0_u32..).zip(rows.into_iter().flatten()) {
            for (to, cell) in (0_u32..).zip(row.as_array().into_iter().flatten()) {
                if let (Some(value), Some((metric, part))) =
                    (cell.as_str().and_then(number), subject(name, from, to))
                {
                    parsed.samples.push((metric, part, value));
                }
            }
        }
    }
    Ok(parsed)
}

fn subject(name: &str, from: u32, to: u32) -> Option<(Metric, Part)> {
    if name.starts_with("host_to_device") {
        Some((Metric::HostToDeviceBandwidth, Part::Device(to)))
    } else if name.starts_with("device_to_host") {
        Some((Metric::DeviceToHostBandwidth, Part::Device(to)))
    } else if name.starts_with("device_to_device") {
        Some((Metric::CopyBandwidth, Part::DevicePair(from, to)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_strings_and_some_are_none() {
        let text = r#"{"nvbandwidth":{"CUDA Runtime Version":12040,"testcases":[{"name":"host_to_device_memcpy_ce","status":"Passed","bandwidth_matrix":[["55.6","55.7"]]},{"name":"device_to_device_memcpy_write_ce","status":"Passed","bandwidth_matrix":[["N/A","269.3"],["270.1","N/A"]]},{"name":"device_to_host_memcpy_ce","status":"Waived"}]}}"#;
        let parsed = parse(text).expect("known");
        assert_eq!(parsed.samples.len(), 4);
        assert_eq!(
            parsed.samples[1],
            (Metric::HostToDeviceBandwidth, Part::Device(1), 55.7)
        );
        assert_eq!(
            parsed.samples[3],
            (Metric::CopyBandwidth, Part::DevicePair(1, 0), 270.1)
        );
        assert_eq!(parsed.checks[2].state, CheckState::Skipped);
    }

    #[test]
    fn an_error_is_no_result() {
        let error = parse(r#"{"nvbandwidth":{"error":"CUDA_ERROR_NO_DEVICE"}}"#);
        assert_eq!(
            error,
            Err(NotUnderstood::Refused("CUDA_ERROR_NO_DEVICE".into()))
        );
        assert!(parse("nvbandwidth: command not found").is_err());
    }
}
