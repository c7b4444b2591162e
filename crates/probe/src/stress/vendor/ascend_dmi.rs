//! `ascend-dmi`: diagnosis, computing, bandwidth and latency of Ascend devices. As text, or as JSON where a release and a test have it.
//!
//! Traps: an error as JSON comes with exit status 0; `--bw -t p2p -m card` prints text although JSON was asked for; a device is written
//! `2/3` (card/chip); WARN after computing means too hot, not broken.

use serde_json::Value;

use super::{Check, CheckState, NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// A diagnosis of these items (`driver`, `hbm`, `signalQuality`, …); they must be of the quick kind, for others stress the device.
pub fn diagnosis(items: &[&str]) -> Vec<String> {
    vector(&["--dg", "-i", &items.join(","), "-q", "--fmt", "json"])
}

/// Computing in half precision on one device.
pub fn computing(device: u32) -> Vec<String> {
    let device = device.to_string();
    vector(&["-f", "-t", "fp16", "-d", &device, "-q", "--fmt", "json"])
}

/// Which way a bandwidth goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the host.
    HostToDevice,
    /// To the host.
    DeviceToHost,
    /// Inside the device.
    OnDevice,
}

/// The bandwidth of one device.
pub fn bandwidth(way: Way, device: u32) -> Vec<String> {
    let way = match way {
        Way::HostToDevice => "h2d",
        Way::DeviceToHost => "d2h",
        Way::OnDevice => "d2d",
    };
    let device = device.to_string();
    vector(&["--bw", "-t", way, "-d", &device, "-q", "--fmt", "json"])
}

/// The bandwidth between all cards; text whatever is asked for.
pub fn between_cards() -> Vec<String> {
    vector(&["--bw", "-t", "p2p", "-m", "card", "-q"])
}

fn vector(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Understands any of its answers. `way` says what a table of bandwidths is about, which the table does not.
pub fn parse(text: &str, way: Option<Way>) -> Result<Parsed, NotUnderstood> {
    let start = text.find('{');
    if let Some(value) = start.and_then(|start| {
        // Remarks can stand before the JSON.
        serde_json::from_str::<Value>(text[start..].trim()).ok()
    }) {
        return json(&value, way).ok_or_else(|| refusal(&value, text));
    }
    let mut parsed = Parsed {
        checks: summary(text),
        samples: Vec::new(),
    };
    tables(text, way, &mut parsed);
    if parsed == Parsed::default() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

fn refusal(value: &Value, text: &str) -> NotUnderstood {
    match value.pointer("/error/description").and_then(Value::as_str) {
        Some(description) => NotUnderstood::Refused(description.to_owned()),
        None => NotUnderstood::form(text),
    }
}

fn json(value: &Value, way: Option<Way>) -> Option<Parsed> {
    let mut parsed = Parsed::default();
    if let Some(items) = value.get("DiagnosisItems").and_then(Value::as_array) {
        let all = items
            .iter()
            .filter_map(|item| item.get("sub_items")?.as_array());
        for item in all.flatten() {
            let name = item.get("item_name")?.as_str()?;
            let result = item.get("item_result")?.as_str()?;
            let notes = item.get("item_info").and_then(Value::as_array);
            let notes: Vec<&str> = notes
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            parsed
                .checks
                .push(Check::new(name, state(result)).with(notes.join("; ")));
        }
        return Some(parsed);
    }
    let of_device = |value: &Value| {
        let id = value.get("device_id")?;
        let id = id
            .as_u64()
            .map(|id| id.to_string())
            .or_else(|| Some(id.as_str()?.to_owned()))?;
        // `2/3` are the two chips of a card, tested as one.
        id.split('/').next()?.parse().ok()
    };
    if let Some(power) = value.get("computing_power") {
        let flops = power.get("tflops_fp16")?.as_f64()? * 1000.0;
        let part = Part::Device(of_device(power)?);
        parsed
            .samples
            .push((Metric::DeviceGemmF16, part.clone(), flops));
        if let Some(watts) = power.get("power").and_then(Value::as_str).and_then(number) {
            parsed.samples.push((Metric::Power, part, watts));
        }
        return Some(parsed);
    }
    if let Some(tests) = value.get("bandwidths").and_then(Value::as_array) {
        for test in tests {
            let device = |name: &str| u32::try_from(test.get(name)?.as_u64()?).ok();
            let (metric, part) = match (device("source_device_id"), device("target_device_id")) {
                (Some(from), Some(to)) => (Metric::CopyBandwidth, Part::DevicePair(from, to)),
                _ => (metric(way?), Part::Device(of_device(test)?)),
            };
            for result in test.get("results")?.as_array()? {
                let value = number(result.get("bandwidth")?.as_str()?)?;
                parsed.samples.push((metric, part.clone(), value));
            }
        }
        return Some(parsed);
    }
    let latency = value.pointer("/results/latency_ns")?.as_str()?;
    parsed
        .samples
        .push((Metric::CopyLatency, Part::Host, number(latency)?));
    Some(parsed)
}

fn metric(way: Way) -> Metric {
    match way {
        Way::HostToDevice => Metric::HostToDeviceBandwidth,
        Way::DeviceToHost => Metric::DeviceToHostBandwidth,
        Way::OnDevice => Metric::DeviceMemoryBandwidth,
    }
}

/// A key on a line of its own, its result on the next, farther in.
fn summary(text: &str) -> Vec<Check> {
    let lines: Vec<&str> = text.lines().collect();
    let mut checks = Vec::new();
    for pair in lines.windows(2) {
        let indent = |line: &str| line.len() - line.trim_start().len();
        let (key, word) = (pair[0].trim(), pair[1].trim());
        let Some(name) = key.strip_suffix(':') else {
            continue;
        };
        let is_word = !word.is_empty()
            && word
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_');
        if is_word && indent(pair[1]) > indent(pair[0]) {
            checks.push(Check::new(name, state(word)));
        }
    }
    checks
}

fn state(word: &str) -> CheckState {
    match word {
        "PASS" | "HEALTH" => CheckState::Pass,
        "SKIP" => CheckState::Skipped,
        "WARN" | "GENERAL_WARN" | "IMPORTANT_WARN" => CheckState::Warning,
        // To be replaced, says the vendor.
        "FAIL" | "EMERGENCY_WARN" => CheckState::Fail,
        other => CheckState::Unknown(other.to_owned()),
    }
}

/// Tables are told apart by their heads.
fn tables(text: &str, way: Option<Way>, parsed: &mut Parsed) {
    let mut head: Vec<&str> = Vec::new();
    let mut between = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.contains("Peer to Peer") {
            between = true;
            head.clear();
        } else if words.first() == Some(&"Device") || words.first() == Some(&"ID") {
            between = false;
            head.clone_from(&words);
        } else if between && head.is_empty() && words.iter().all(|word| word.parse::<u32>().is_ok())
        {
            head.clone_from(&words);
        } else if let Some(first) = words.first().filter(|_| !head.is_empty()) {
            let device = first.split('/').next().and_then(|text| text.parse().ok());
            let Some(device) = device else { continue };
            if between {
                for (to, cell) in head.iter().zip(&words[1..]) {
                    let to = to.parse().ok().filter(|to| *to != device);
                    if let (Some(to), Some(value)) = (to, number(cell)) {
                        let part = Part::DevicePair(device, to);
                        parsed.samples.push((Metric::CopyBandwidth, part, value));
                    }
                }
            } else if head.contains(&"TFLOPS@FP16") && words.len() == 5 {
                let part = Part::Device(device);
                if let (Some(flops), Some(watts)) = (number(words[3]), number(words[4])) {
                    parsed
                        .samples
                        .push((Metric::DeviceGemmF16, part.clone(), flops * 1000.0));
                    parsed.samples.push((Metric::Power, part, watts));
                }
            } else if let (Some(way), Some(value)) = (way, words.get(3).copied().and_then(number)) {
                parsed
                    .samples
                    .push((metric(way), Part::Device(device), value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Parsed {
        parse(text, None).expect("known")
    }

    #[test]
    fn a_diagnosis_as_text() {
        let text = "Summary:\n    Arch: aarch64\n    Mode: *****\n    Time: 20251111-16:16:23\nHardware:\n    driver:\n        HEALTH\n    hbm:\n        PASS\n    aicore:\n        EMERGENCY_WARN\n    edp:\n        SKIP\n    odd:\n        MAYBE\n";
        let states: Vec<(String, CheckState)> = check(text)
            .checks
            .into_iter()
            .map(|check| (check.name, check.state))
            .collect();
        assert_eq!(
            states,
            [
                ("driver".into(), CheckState::Pass),
                ("hbm".into(), CheckState::Pass),
                ("aicore".into(), CheckState::Fail),
                ("edp".into(), CheckState::Skipped),
                ("odd".into(), CheckState::Unknown("MAYBE".into())),
            ]
        );
    }

    #[test]
    fn a_diagnosis_as_json() {
        let parsed = check(
            r#"{"DiagnosisItems":[{"sub_items":[{"item_name":"driver","item_result":"HEALTH"},{"item_name":"device","item_result":"IMPORTANT_WARN","item_info":["Notice: Lost card diagnosis is not support on docker and virtual machine"]}]}]}"#,
        );
        assert_eq!(parsed.checks[0].state, CheckState::Pass);
        assert_eq!(parsed.checks[1].state, CheckState::Warning);
        assert!(parsed.checks[1].detail.starts_with("Notice"));
    }

    #[test]
    fn an_error_with_exit_status_zero_is_no_result() {
        let error = parse(
            r#"{"error":{"code":2,"description":"internal error"}}"#,
            None,
        );
        assert_eq!(error, Err(NotUnderstood::Refused("internal error".into())));
        assert!(matches!(parse("", None), Err(NotUnderstood::Form(_))));
    }

    #[test]
    fn numbers_as_json() {
        let parsed = check(
            r#"{"computing_power":{"device_id":"2/3","execute_times":432000000,"duration":"1703 ms","power":"432.413 W","tflops_fp16":730.1680297851563}}"#,
        );
        let [
            (Metric::DeviceGemmF16, Part::Device(2), flops),
            (Metric::Power, _, watts),
        ] = parsed.samples[..]
        else {
            panic!("{parsed:?}");
        };
        assert!((flops - 730_168.03).abs() < 0.01 && (watts - 432.413).abs() < 1e-9);
        let parsed = check(
            r#"{"bandwidths":[{"type":"Unidirectional Peer to Peer Test","source_device_id":2,"target_device_id":3,"results":[{"size":"33554432 Bytes","bandwidth":"198.9 GB/s","elapsed_time":"168.7 us","execute_times":5}]}]}"#,
        );
        assert_eq!(
            parsed.samples,
            [(Metric::CopyBandwidth, Part::DevicePair(2, 3), 198.9)]
        );
        let parsed = check(r#"{"results":{"latency_ns":"123.5 ns"}}"#);
        assert_eq!(parsed.samples, [(Metric::CopyLatency, Part::Host, 123.5)]);
    }

    #[test]
    fn numbers_as_tables() {
        let parsed = check(
            "    Device        Execute Times        Duration(ms)        TFLOPS@FP16        Power(W)\n    0/1           432,000,000          1703                752.465            338.5\n",
        );
        assert_eq!(parsed.samples[0].1, Part::Device(0));
        assert!((parsed.samples[0].2 - 752_465.0).abs() < 1e-6);
        let text = "ID  Size(Bytes)  Execute Times  Bandwidth(GB/s)  Elapsed Time(us)\n0   536870912    50             58.125           461900\n";
        let parsed = parse(text, Some(Way::HostToDevice)).expect("known");
        assert_eq!(
            parsed.samples,
            [(Metric::HostToDeviceBandwidth, Part::Device(0), 58.125)]
        );
        let parsed = check(
            "Unidirectional Peer to Peer Test\n       0       1       2\n0      0       391.2   389.7\n1      390.8   0       388.9\n",
        );
        assert_eq!(parsed.samples.len(), 4);
        assert_eq!(
            parsed.samples[3],
            (Metric::CopyBandwidth, Part::DevicePair(1, 2), 388.9)
        );
    }

    #[test]
    fn nothing_dangerous_is_asked_for() {
        let all = [
            diagnosis(&["driver", "hbm"]),
            computing(0),
            bandwidth(Way::OnDevice, 1),
            between_cards(),
        ];
        for words in all {
            assert!(words.contains(&"-q".to_owned()), "it must not ask back");
            assert!(
                !words
                    .iter()
                    .any(|word| word == "-r" || word == "prbs" || word == "-s")
            );
        }
    }
}
