//! `hccn_tool`: the RoCE ports of Ascend devices: state, counters, optics, and its own bandwidth test.
//!
//! Traps: the bandwidth is in MiB/s though it says MB; the receiving end prints a peak of 0.00; a test that was interrupted goes on until
//! it is reset; "not present" and "not supported" are answers, not failures; newer devices print hexadecimal.

use std::collections::BTreeMap;

use super::{Check, CheckState, NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// A question to one device: `-link`, `-net_health`, `-stat`, `-optical`, …
pub fn query(device: u32, question: &str) -> Vec<String> {
    ["-i", &device.to_string(), question, "-g"]
        .map(str::to_owned)
        .into()
}

/// The bandwidth test: the same on both ends, the asking end with the address of the other. Start the waiting end first.
pub fn bandwidth_test(device: u32, address: Option<std::net::IpAddr>) -> Vec<String> {
    let mut words: Vec<String> = [
        "-i",
        &device.to_string(),
        "-roce_test",
        "ib_write_bw",
        "-s",
        "2097152",
        "-n",
        "1000",
    ]
    .map(str::to_owned)
    .into();
    if let Some(address) = address {
        words.extend(["address".to_owned(), address.to_string()]);
    }
    words.push("-tcp".to_owned());
    words
}

/// Ends a bandwidth test that was left running.
pub fn reset_test(device: u32) -> Vec<String> {
    ["-i", &device.to_string(), "-roce_test", "reset"]
        .map(str::to_owned)
        .into()
}

/// Reads `name : value` and `name:value` lines, also several in a line where two spaces part them.
pub fn values(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        // A name in front of the colon has no double space in it, a value neither.
        for cell in line.split('|') {
            if let Some((name, value)) = cell.split_once(':') {
                let name = name.trim().trim_start_matches('[');
                if !name.is_empty() {
                    found.insert(name.to_owned(), value.trim().to_owned());
                }
            }
        }
    }
    found
}

/// Counters by name, decimal or hexadecimal; what is no number is left out.
pub fn counters(text: &str) -> BTreeMap<String, u64> {
    values(text)
        .into_iter()
        .filter_map(|(name, value)| {
            let number = match value.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => value.parse().ok(),
            };
            Some((name, number?))
        })
        .collect()
}

/// Whether a port is up and healthy, from the answers to `-link` and `-net_health`.
pub fn port(device: u32, text: &str) -> Result<Parsed, NotUnderstood> {
    let values = values(text);
    let mut parsed = Parsed::default();
    for (name, good) in [("link status", "UP"), ("net health status", "Success")] {
        if let Some(word) = values.get(name) {
            let state = match word.as_str() {
                word if word.eq_ignore_ascii_case(good) => CheckState::Pass,
                "DOWN" | "Socket fail" | "Receive timeout" | "Unreachable" | "Time exceeded"
                | "Fault" | "Init" | "Thread error" | "Detect ip set" | "Unknown" => {
                    CheckState::Fail
                }
                other => CheckState::Unknown(other.to_owned()),
            };
            parsed
                .checks
                .push(Check::new(name, state).of_device(Some(device)).with(word));
        }
    }
    if parsed.checks.is_empty() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

/// MiB/s as Gbit/s.
const GBIT_PER_MIB: f64 = 8.0 * 1_048_576.0 / 1e9;

/// The answer of the bandwidth test, at the asking end.
pub fn bandwidth(peer: &str, text: &str) -> Result<Parsed, NotUnderstood> {
    let mut parsed = Parsed::default();
    let mut in_table = false;
    for line in text.lines() {
        if line.trim_start().starts_with("#bytes") {
            in_table = true;
            continue;
        }
        let cells: Vec<Option<f64>> = line.split_whitespace().map(number).collect();
        if let [Some(_), Some(_), Some(_), Some(average), Some(_)] = cells[..]
            && in_table
            && average > 0.0
        {
            let part = Part::Peer(peer.to_owned());
            parsed
                .samples
                .push((Metric::NetworkSend, part, average * GBIT_PER_MIB));
        }
    }
    if parsed.samples.is_empty() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let state = |text| port(3, text).map(|parsed| parsed.checks[0].state.clone());
        assert_eq!(state("link status: UP\n"), Ok(CheckState::Pass));
        assert_eq!(state("link status: DOWN\n"), Ok(CheckState::Fail));
        assert_eq!(state("net health status: Success\n"), Ok(CheckState::Pass));
        assert_eq!(
            state("net health status: Odd\n"),
            Ok(CheckState::Unknown("Odd".into()))
        );
        assert!(matches!(port(0, "usage\n"), Err(NotUnderstood::Form(_))));
    }

    #[test]
    fn counters_are_decimal_or_hexadecimal() {
        let text = "packet statistics:\nmac_rx_pfc_pkt_num:1443890343\nmac_rx_fcs_err_pkt_num:0\nroce_new_pkt_rty_num:5\nst_fec_decoding_fail_num: 0x4\npresent              : not present\n";
        let found = counters(text);
        assert_eq!(found["mac_rx_pfc_pkt_num"], 1_443_890_343);
        assert_eq!(found["st_fec_decoding_fail_num"], 4);
        assert!(!found.contains_key("present"));
        let optical = values("Tx Power0            : 1.4035 mW\nHost SNR Lane0 : not supported\n");
        assert_eq!(number(&optical["Tx Power0"]), Some(1.4035));
        assert_eq!(optical["Host SNR Lane0"], "not supported");
    }

    #[test]
    fn the_bandwidth_is_in_mebibytes_and_the_receiver_has_none() {
        let text = "roce_report:\n #bytes       #iterations        BW peak[MB/sec]            BW average[MB/sec]          MsgRate[Mpps]\n 2097152      1000               23370.21                   23365.53                    0.011683\n";
        let parsed = bandwidth("node-b", text).expect("known");
        assert!((parsed.samples[0].2 - 196.0).abs() < 0.1, "{parsed:?}");
        let receiver = text.replace("23370.21", "0.00").replace("23365.53", "0.00");
        assert!(bandwidth("node-b", &receiver).is_err());
    }

    #[test]
    fn vectors() {
        assert_eq!(query(3, "-link"), ["-i", "3", "-link", "-g"]);
        let asking = bandwidth_test(0, Some([10, 0, 0, 1].into()));
        assert!(
            asking
                .windows(2)
                .any(|pair| pair == ["address", "10.0.0.1"])
        );
        assert_eq!(asking.last().map(String::as_str), Some("-tcp"));
        assert_eq!(reset_test(0).last().map(String::as_str), Some("reset"));
    }
}
