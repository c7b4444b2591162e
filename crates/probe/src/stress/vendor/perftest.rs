//! perftest (`ib_write_bw`, `ib_write_lat`): bandwidth and latency over RDMA.
//!
//! Traps: the same number is called MiB/sec or MB/sec; `--report_gbits` makes it Gb/sec; the JSON of some releases is not JSON (`sl:`
//! without quotes), so text is what is asked for, and JSON is read leniently where somebody else made it.

use super::{NotUnderstood, Parsed, number};
use crate::stress::sample::{Metric, Part};

/// Bandwidth in both ends' words; the asking end with the address of the other.
pub fn bandwidth_arguments(
    device: &str,
    peer: Option<std::net::IpAddr>,
    seconds: u32,
) -> Vec<String> {
    let mut words: Vec<String> = [
        "-d",
        device,
        "-F",
        "--report_gbits",
        "-D",
        &seconds.to_string(),
    ]
    .map(str::to_owned)
    .into();
    words.extend(peer.map(|peer| peer.to_string()));
    words
}

/// Latency, likewise.
pub fn latency_arguments(device: &str, peer: Option<std::net::IpAddr>) -> Vec<String> {
    let mut words: Vec<String> = ["-d", device, "-F", "-s", "8", "-n", "5000"]
        .map(str::to_owned)
        .into();
    words.extend(peer.map(|peer| peer.to_string()));
    words
}

/// Understands a bandwidth test.
pub fn bandwidth(peer: &str, text: &str) -> Result<Parsed, NotUnderstood> {
    let mut unit = None;
    for line in text.lines() {
        if line.contains("BW average") {
            unit = if line.contains("[Gb/sec]") {
                Some(1.0)
            } else if line.contains("[MiB/sec]") || line.contains("[MB/sec]") {
                // Both are mebibytes.
                Some(8.0 * 1_048_576.0 / 1e9)
            } else {
                None
            };
            continue;
        }
        let cells: Vec<Option<f64>> = line.split_whitespace().map(number).collect();
        if let ([Some(_), Some(_), Some(_), Some(average), Some(_), ..], Some(unit)) =
            (&cells[..], unit)
        {
            return Ok(sample(Metric::NetworkSend, peer, average * unit));
        }
    }
    // The JSON has the unit in the name of the test's options, and its default is Gbit/s as we ask for it.
    lenient(text, "BW_average")
        .map(|average| sample(Metric::NetworkSend, peer, average))
        .ok_or_else(|| NotUnderstood::form(text))
}

/// Understands a latency test: typical and 99 % in microseconds, one way.
pub fn latency(peer: &str, text: &str) -> Result<Parsed, NotUnderstood> {
    let mut head = false;
    for line in text.lines() {
        if line.contains("t_typical") && line.contains("#bytes") {
            head = true;
            continue;
        }
        let cells: Vec<Option<f64>> = line.split_whitespace().map(number).collect();
        // bytes, iterations, t_min, t_max, t_typical, …
        if let [Some(_), Some(_), Some(_), Some(_), Some(typical), ..] = cells[..]
            && head
        {
            return Ok(sample(Metric::RoundTrip, peer, 2.0 * typical));
        }
    }
    lenient(text, "t_typical")
        .map(|typical| sample(Metric::RoundTrip, peer, 2.0 * typical))
        .ok_or_else(|| NotUnderstood::form(text))
}

fn sample(metric: Metric, peer: &str, value: f64) -> Parsed {
    Parsed {
        checks: Vec::new(),
        samples: vec![(metric, Part::Peer(peer.to_owned()), value)],
    }
}

/// The number behind a name, with or without quotes around the name, whatever else is wrong with the text.
fn lenient(text: &str, name: &str) -> Option<f64> {
    let after = text[text.find(name)? + name.len()..].trim_start_matches(['"', ' ']);
    number(after.strip_prefix(':')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gbits(text: &str) -> f64 {
        bandwidth("b", text).expect("known").samples[0].2
    }

    #[test]
    fn bandwidth_in_all_units() {
        let row = "\n 65536      5000             %P                 %A                    0.37\n";
        let text = |unit: &str, average: &str| {
            format!(
                " #bytes     #iterations    BW peak[{unit}]    BW average[{unit}]   MsgRate[Mpps]{}",
                row.replace("%P", average).replace("%A", average)
            )
        };
        assert!((gbits(&text("Gb/sec", "393.12")) - 393.12).abs() < 1e-9);
        for unit in ["MiB/sec", "MB/sec"] {
            assert!(
                (gbits(&text(unit, "23365.53")) - 196.0).abs() < 0.1,
                "{unit}"
            );
        }
    }

    #[test]
    fn json_that_is_none() {
        let broken = "{\"test_info\":{sl: 3,\"x\":1},\"results\":{\"MsgSize\":65536,\"BW_average\": 391.5,\"MsgRate\":0.7}}";
        assert!((gbits(broken) - 391.5).abs() < 1e-9);
        assert!(bandwidth("b", "Couldn't connect to 10.0.0.1:18515\n").is_err());
    }

    #[test]
    fn latencies() {
        let text = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]\n 8       5000          1.02           6.10         1.05              1.06            0.05            1.20\n";
        let parsed = latency("b", text).expect("known");
        assert_eq!(
            parsed.samples,
            [(Metric::RoundTrip, Part::Peer("b".into()), 2.1)]
        );
        assert!(latency("b", "").is_err());
    }

    #[test]
    fn vectors() {
        let words = bandwidth_arguments("mlx5_0", Some([10, 0, 0, 1].into()), 30);
        assert_eq!(words.last().map(String::as_str), Some("10.0.0.1"));
        assert!(latency_arguments("mlx5_0", None).contains(&"mlx5_0".to_owned()));
    }
}
