//! nccl-tests: collective operations of NVIDIA GPUs, as text or as the JSON of newer releases.
//!
//! Traps: lines of `NCCL_DEBUG` stand in between; the column of wrong results is `N/A` when nothing was checked; the JSON says
//! "unchecked" where the text says OK.

use serde_json::Value;

use super::{Check, CheckState, NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// Arguments of `all_reduce_perf` over so many GPUs of a process: from 8 KiB to 1 GiB, checked.
pub fn arguments(gpus: u32) -> Vec<String> {
    let gpus = gpus.to_string();
    [
        "-b", "8K", "-e", "1G", "-f", "2", "-g", &gpus, "-w", "10", "-n", "20", "-c", "1",
    ]
    .map(str::to_owned)
    .into()
}

/// Understands both forms.
pub fn parse(text: &str) -> Result<Parsed, NotUnderstood> {
    if let Ok(value) = serde_json::from_str::<Value>(text.trim()) {
        return json(&value).ok_or_else(|| NotUnderstood::form(text));
    }
    let mut parsed = Parsed::default();
    for line in text.lines() {
        let line = line.trim();
        if let Some(bounds) = line.strip_prefix("# Out of bounds values :") {
            let state = match bounds.split_whitespace().next() {
                Some("0") => CheckState::Pass,
                _ => CheckState::Fail,
            };
            parsed
                .checks
                .push(Check::new("values", state).with(bounds.trim()));
        } else if let Some(average) = line.strip_prefix("# Avg bus bandwidth") {
            let average = number(average.trim_start_matches([' ', ':']));
            let average = average.ok_or_else(|| NotUnderstood::form(line))?;
            parsed
                .samples
                .push((Metric::BusBandwidth, Part::Host, average));
        } else if row_is_unchecked(line) {
            parsed
                .checks
                .push(Check::new("values", CheckState::Skipped).with("not checked"));
        }
    }
    // A row that was not checked makes the OK of the footer worth nothing.
    if parsed
        .checks
        .iter()
        .any(|check| check.state == CheckState::Skipped)
    {
        parsed
            .checks
            .retain(|check| check.state != CheckState::Pass);
        parsed.checks.dedup();
    }
    if parsed.samples.is_empty() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

/// A row begins with size and count.
fn row_is_unchecked(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let numbers = words
        .by_ref()
        .take(2)
        .filter(|word| word.parse::<u64>().is_ok());
    numbers.count() == 2 && words.any(|word| word == "N/A")
}

fn json(value: &Value) -> Option<Parsed> {
    let mut parsed = Parsed::default();
    let bandwidth = value
        .pointer("/average_bus_bandwidth/bandwidth")?
        .as_f64()?;
    parsed
        .samples
        .push((Metric::BusBandwidth, Part::Host, bandwidth));
    let okay = value.pointer("/out_of_bounds/okay")?;
    let state = match (okay.as_bool(), okay.as_str()) {
        (Some(true), _) => CheckState::Pass,
        (Some(false), _) => CheckState::Fail,
        (None, Some("unchecked")) => CheckState::Skipped,
        (None, other) => CheckState::Unknown(other.unwrap_or("?").to_owned()),
    };
    parsed.checks.push(Check::new("values", state));
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong\nnode1:12:12 [0] NCCL INFO Channel 00\n        8192          2048     float     sum      -1    31.24    0.26    0.46      0    30.97    0.26    0.46      0\n# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 123.4\n";

    #[test]
    fn text_with_remarks_in_between() {
        let parsed = parse(TEXT).expect("known");
        assert_eq!(parsed.samples, [(Metric::BusBandwidth, Part::Host, 123.4)]);
        assert_eq!(parsed.checks[0].state, CheckState::Pass);
        let wrong = parse(&TEXT.replace("values : 0 OK", "values : 4 FAILED")).expect("known");
        assert_eq!(wrong.checks[0].state, CheckState::Fail);
    }

    #[test]
    fn unchecked_is_not_a_pass() {
        let text = TEXT.replace("    0    30.97", "  N/A    30.97");
        let states: Vec<CheckState> = parse(&text)
            .expect("known")
            .checks
            .into_iter()
            .map(|check| check.state)
            .collect();
        assert_eq!(states, [CheckState::Skipped]);
        let json = r#"{"version":"2.17","out_of_bounds":{"count":0,"okay":"unchecked"},"average_bus_bandwidth":{"bandwidth":45.5,"okay":true}}"#;
        assert_eq!(
            parse(json).expect("known").checks[0].state,
            CheckState::Skipped
        );
        assert!(parse("mpirun was unable to launch").is_err());
    }
}
