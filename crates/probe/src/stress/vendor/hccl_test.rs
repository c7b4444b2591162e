//! `hccl_test`: collective operations of Ascend.
//!
//! Traps: each rank knows only its own check, so the table can say `success` while a line of another rank says `check result failed`;
//! `NULL` means that nothing was checked; a retry inside the library hides a bad link unless it is turned off in the environment.

use super::{Check, CheckState, NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// Retries inside the library are off: a link that needs them is what we look for.
pub const ENVIRONMENT: [(&str, &str); 1] = [("HCCL_OP_RETRY_ENABLE", "L0:0, L1:0, L2:0")];

/// Arguments of one rank's program: from 8 KiB to 1 GiB, checked, over so many devices of a node.
pub fn arguments(devices: u32) -> Vec<String> {
    let devices = devices.to_string();
    [
        "-p", &devices, "-b", "8K", "-e", "1G", "-f", "2", "-d", "fp32", "-o", "sum", "-w", "10",
        "-n", "20", "-c", "1",
    ]
    .map(str::to_owned)
    .into()
}

/// Understands what all ranks printed together. The bandwidth is that of the algorithm, as the tool gives it, at the largest size.
pub fn parse(text: &str) -> Result<Parsed, NotUnderstood> {
    let mut parsed = Parsed::default();
    let mut best: Option<(u64, f64)> = None;
    for line in text.lines() {
        if line.contains("check result failed") {
            parsed
                .checks
                .push(Check::new("check of a rank", CheckState::Fail).with(line.trim()));
            continue;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [size, _, bandwidth, check] = cells[..] else {
            continue;
        };
        let (Ok(size), Some(bandwidth)) = (size.parse(), number(bandwidth)) else {
            continue;
        };
        let state = match check {
            "success" => CheckState::Pass,
            "failed" => CheckState::Fail,
            "NULL" => CheckState::Skipped,
            other => CheckState::Unknown(other.to_owned()),
        };
        parsed
            .checks
            .push(Check::new(format!("{size} bytes"), state));
        if best.is_none_or(|(largest, _)| size >= largest) {
            best = Some((size, bandwidth));
        }
    }
    let (_, bandwidth) = best.ok_or_else(|| NotUnderstood::form(text))?;
    parsed
        .samples
        .push((Metric::BusBandwidth, Part::Host, bandwidth));
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_failed_is_heard_although_the_table_says_success() {
        let text = "data_size(Bytes): | aveg_time(us): | alg_bandwidth(GB/s): | check_result:\n16384             | 13.00          | 31.50000             | success\nlocal rank_id 5, check result failed, 16384             | 13.00          | 31.50000             | failed\n32768             | 14.00          | 40.25000             | success\n";
        let parsed = parse(text).expect("known");
        assert_eq!(
            parsed
                .checks
                .iter()
                .filter(|check| check.state == CheckState::Fail)
                .count(),
            1
        );
        assert_eq!(parsed.samples, [(Metric::BusBandwidth, Part::Host, 40.25)]);
    }

    #[test]
    fn unchecked_is_not_a_pass() {
        let parsed = parse("16384 | 13.00 | 31.5 | NULL\n").expect("known");
        assert_eq!(parsed.checks[0].state, CheckState::Skipped);
        assert!(matches!(
            parse("mpirun: not found\n"),
            Err(NotUnderstood::Form(_))
        ));
    }
}
