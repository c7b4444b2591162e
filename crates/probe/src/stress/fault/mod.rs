//! What the fault codes of vendors mean: two catalogues as data, and the lines of the kernel log that carry the codes.
//!
//! A code that is not in its catalogue is suspicious ([`Severity::Subhealth`], to be inspected), never ignored: new hardware brings new
//! codes before anybody has written them down. A code that keeps coming back is worse than it says ([`Recurrence`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use supernode_types::Timestamp;

const XID: &str = include_str!("xid.tsv");
const ASCEND: &str = include_str!("ascend.tsv");

/// How bad it is, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A program's own affair.
    Info,
    /// Noted; counts when it comes again.
    Watch,
    /// Works, but worse.
    Subhealth,
    /// No new job should begin on it.
    NoNewJobs,
    /// What runs may end; then it must be looked at.
    Drain,
    /// To be reset when nothing runs.
    ResetIdle,
    /// To be reset at once; what runs on it is lost anyway.
    ResetNow,
    /// Not to be used.
    Isolate,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    None,
    /// The job must begin again.
    RestartJob,
    /// Reset the device.
    ResetDevice,
    /// Restart the machine.
    Reboot,
    /// Somebody must look at it.
    Inspect,
    /// Driver or firmware must be renewed.
    UpdateSoftware,
    /// The device must be replaced.
    Replace,
}

/// Whose codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Catalogue {
    /// NVIDIA's XID, decimal.
    Xid,
    /// Ascend's, hexadecimal, and the nine decimal digits of its cluster software.
    Ascend,
}

/// What a code means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meaning {
    /// How bad.
    pub severity: Severity,
    /// What to do.
    pub action: Action,
    /// In words.
    pub text: String,
    /// Whether the catalogue knows it.
    pub known: bool,
}

/// Looks a code up. Case, `0x` and leading zeros do not matter.
pub fn meaning(catalogue: Catalogue, code: &str) -> Meaning {
    let table = match catalogue {
        Catalogue::Xid => XID,
        Catalogue::Ascend => ASCEND,
    };
    let wanted = normal(code);
    let found = lines(table).find(|line| normal(line.0) == wanted);
    found.map_or_else(
        || Meaning {
            severity: Severity::Subhealth,
            action: Action::Inspect,
            text: format!(
                "`{code}` is in no catalogue; it is suspicious until somebody says what it is"
            ),
            known: false,
        },
        |(_, severity, action, text)| Meaning {
            severity,
            action,
            text: text.to_owned(),
            known: true,
        },
    )
}

fn normal(code: &str) -> String {
    let code = code.trim().to_ascii_uppercase();
    let code = code.strip_prefix("0X").unwrap_or(&code);
    code.trim_start_matches('0').to_owned()
}

/// The lines of a catalogue that are whole; a test sees that all are.
fn lines(table: &str) -> impl Iterator<Item = (&str, Severity, Action, &str)> {
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut columns = line.splitn(4, '\t');
            let (code, severity, action) = (columns.next()?, columns.next()?, columns.next()?);
            Some((
                code,
                serde_json::from_value(severity.into()).ok()?,
                serde_json::from_value(action.into()).ok()?,
                columns.next()?,
            ))
        })
}

/// An XID of the kernel log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid {
    /// The PCI address of the GPU.
    pub address: String,
    /// The code.
    pub code: u32,
    /// The process, where one is named.
    pub pid: Option<u32>,
    /// The line from the code on, as evidence.
    pub text: String,
}

/// Reads `NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout …`, wherever in the line it stands.
pub fn xid(line: &str) -> Option<Xid> {
    let (_, rest) = line.split_once("NVRM: Xid (PCI:")?;
    let (address, rest) = rest.split_once("): ")?;
    let digits = rest
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(rest.len());
    let pid = rest.split_once("pid=").and_then(|(_, rest)| {
        let digits = rest.trim_start_matches(['\'', '"']);
        let end = digits
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end].parse().ok()
    });
    Some(Xid {
        address: address.to_owned(),
        code: rest[..digits].parse().ok()?,
        pid,
        text: rest.chars().take(500).collect(),
    })
}

/// From how many on, in which time, the same code on the same part is one step worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// So often.
    pub times: usize,
    /// In so long.
    pub within: Duration,
}

impl Default for Recurrence {
    /// Twice in a day, as Ascend's own cluster software has it.
    fn default() -> Self {
        Self {
            times: 2,
            within: Duration::from_hours(24),
        }
    }
}

/// The severity of codes on one part, those that came again made worse: they keep the part from new jobs at least.
pub fn judged(
    catalogue: Catalogue,
    events: &[(Timestamp, String)],
    recurrence: Recurrence,
) -> Option<Severity> {
    let mut by_code: BTreeMap<String, Vec<Timestamp>> = BTreeMap::new();
    for (moment, code) in events {
        by_code.entry(normal(code)).or_default().push(*moment);
    }
    by_code
        .into_iter()
        .map(|(code, mut moments)| {
            moments.sort_unstable();
            let severity = meaning(catalogue, &code).severity;
            let again = recurrence.times > 0
                && moments.windows(recurrence.times).any(|window| {
                    let (first, last) = (window[0], window[window.len() - 1]);
                    last.since(first) <= recurrence.within
                });
            // A program's own affair stays that, however often it fails.
            if again && severity > Severity::Info {
                severity.max(Severity::NoNewJobs)
            } else {
                severity
            }
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_catalogues_is_whole_and_every_code_once() {
        for table in [XID, ASCEND] {
            let written = table.lines().filter(|line| !line.starts_with('#')).count();
            let mut codes: Vec<String> = lines(table).map(|line| normal(line.0)).collect();
            assert_eq!(codes.len(), written);
            codes.sort_unstable();
            codes.dedup();
            assert_eq!(codes.len(), written, "a code stands twice");
        }
    }

    #[test]
    fn known_codes() {
        let of_xid = |code| meaning(Catalogue::Xid, code);
        assert_eq!(
            (of_xid("79").severity, of_xid("79").action),
            (Severity::Isolate, Action::Reboot)
        );
        assert_eq!(of_xid("94").action, Action::RestartJob);
        assert_eq!(of_xid("95").action, Action::ResetDevice);
        let of_ascend = meaning(Catalogue::Ascend, "0x80e18402");
        assert_eq!(
            (of_ascend.severity, of_ascend.known),
            (Severity::Isolate, true)
        );
    }

    #[test]
    fn an_unknown_code_is_suspicious_never_ignored() {
        for (catalogue, code) in [(Catalogue::Xid, "9999"), (Catalogue::Ascend, "0xDEADBEEF")] {
            let meaning = meaning(catalogue, code);
            assert!(!meaning.known && meaning.severity == Severity::Subhealth);
            assert!(meaning.text.contains(code));
        }
    }

    #[test]
    fn lines_of_the_kernel_log() {
        let line = "[  12.3] NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU4 GSP!";
        let found = xid(line).expect("an XID");
        assert_eq!(
            (found.address.as_str(), found.code, found.pid),
            ("0000:9b:00", 119, Some(2_024_380))
        );
        let found =
            xid("NVRM: Xid (PCI:0000:05:00): 79, GPU has fallen off the bus.").expect("an XID");
        assert_eq!((found.code, found.pid), (79, None));
        for other in ["", "NVRM: loading", "NVRM: Xid (PCI:0000:05:00): many"] {
            assert_eq!(xid(other), None);
        }
    }

    #[test]
    fn what_comes_again_is_worse() {
        let hour = |hours: i64| Timestamp(hours * 3_600_000_000);
        let events = |hours: &[i64], code: &str| -> Vec<(Timestamp, String)> {
            hours
                .iter()
                .map(|hours| (hour(*hours), code.to_owned()))
                .collect()
        };
        let judge = |events: &[_]| judged(Catalogue::Xid, events, Recurrence::default());
        assert_eq!(judge(&events(&[1], "63")), Some(Severity::Watch));
        assert_eq!(judge(&events(&[1, 20], "63")), Some(Severity::NoNewJobs));
        assert_eq!(judge(&events(&[1, 30], "63")), Some(Severity::Watch));
        assert_eq!(judge(&events(&[1, 2, 3], "13")), Some(Severity::Info));
        assert_eq!(judge(&[]), None);
    }
}
