//! `npu-smi info -t health|ecc`: health and memory errors of one Ascend device. Its tables are read by the inventory.
//!
//! Traps: `Health` on the newest chips and `Health Status` before; NA where a chip has nothing to say; "This device does not support
//! querying …" is a normal answer.

use crate::stress::fault::{self, Catalogue, Severity};

use super::{Check, CheckState, NotUnderstood, Parsed, hccn_tool};

/// A question to one device: `health`, `ecc`.
pub fn query(device: u32, question: &str) -> Vec<String> {
    ["info", "-t", question, "-i", &device.to_string()]
        .map(str::to_owned)
        .into()
}

/// Health, error code and double-bit errors.
pub fn parse(device: u32, text: &str) -> Result<Parsed, NotUnderstood> {
    if text.contains("does not support querying") {
        return Err(NotUnderstood::Refused(text.trim().to_owned()));
    }
    let mut parsed = Parsed::default();
    for (name, value) in hccn_tool::values(text) {
        let state = match (name.as_str(), value.as_str()) {
            ("Health Status" | "Health", "OK") => CheckState::Pass,
            ("Health Status" | "Health", "Warning") => CheckState::Warning,
            ("Health Status" | "Health", "Alarm" | "Critical") => CheckState::Fail,
            ("Health Status" | "Health", other) => CheckState::Unknown(other.to_owned()),
            ("Error Code", "NA") => continue,
            ("Error Code", codes) => {
                parsed.checks.extend(faults(device, codes));
                continue;
            }
            (name, count) if name.contains("Double Bit") && name.contains("Err") => {
                match count.parse::<u64>() {
                    Ok(0) => CheckState::Pass,
                    // A sum over its life; growth is what a verdict looks at.
                    Ok(_) => CheckState::Warning,
                    Err(_) => continue,
                }
            }
            _ => continue,
        };
        parsed
            .checks
            .push(Check::new(name, state).of_device(Some(device)).with(value));
    }
    if parsed.checks.is_empty() {
        return Err(NotUnderstood::form(text));
    }
    Ok(parsed)
}

/// What the codes of a device mean, by the vendor's catalogue. One that it does not have is suspicious.
fn faults(device: u32, codes: &str) -> Vec<Check> {
    let codes = codes
        .split(|letter: char| letter == ',' || letter.is_whitespace())
        .filter(|code| !code.is_empty());
    codes
        .map(|code| {
            let meaning = fault::meaning(Catalogue::Ascend, code);
            let state = if meaning.severity >= Severity::NoNewJobs {
                CheckState::Fail
            } else {
                CheckState::Warning
            };
            Check::new("Error Code", state)
                .of_device(Some(device))
                .with(format!("{code}: {}", meaning.text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_of_old_and_new_chips() {
        for (text, state) in [
            (
                "\tHealth Status                  : OK\n\tError Code                     : NA\n",
                CheckState::Pass,
            ),
            (
                "\tHealth                         : Alarm\n",
                CheckState::Fail,
            ),
            (
                "\tHealth Status                  : Strange\n",
                CheckState::Unknown("Strange".into()),
            ),
        ] {
            assert_eq!(parse(0, text).expect("known").checks[0].state, state);
        }
    }

    #[test]
    fn memory_errors_and_codes() {
        let text = "\tHBM Double Bit Aggregate Total Err Cnt   : 1778\n\tHBM Double Bit Isolated Pages Count      : 5\n\tError Code : 0x80E18402 0x81AD8605, 0x12345678\n";
        let checks = parse(2, text).expect("known").checks;
        assert!(checks.iter().all(|check| check.device == Some(2)));
        let states: Vec<&CheckState> = checks.iter().map(|check| &check.state).collect();
        let (warning, fail) = (&CheckState::Warning, &CheckState::Fail);
        assert_eq!(states, [fail, warning, warning, warning]);
        assert!(
            checks[0]
                .detail
                .starts_with("0x80E18402: the isolated rows")
        );
        assert!(checks[2].detail.contains("in no catalogue"));
        let refused = parse(0, "This device does not support querying ecc.\n");
        assert!(matches!(refused, Err(NotUnderstood::Refused(_))));
    }
}
