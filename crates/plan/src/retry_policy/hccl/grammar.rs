//! How HCCL reads its two variables: what it would refuse is refused before a job is lost to it.

use supernode_types::retry_policy::RetryLevel;

/// The levels that are on; nothing if HCCL would end with EI0001. Blanks are removed, at most three items, none twice.
pub(super) fn enabled_levels(text: &str) -> Option<Vec<RetryLevel>> {
    let text: String = text.chars().filter(|letter| *letter != ' ').collect();
    let items: Vec<&str> = text.split(',').collect();
    let mut seen = Vec::new();
    let mut on = Vec::new();
    if items.len() > 3 {
        return None;
    }
    for item in items {
        let (level, value) = item.split_once(':')?;
        if seen.contains(&level) || !matches!(value, "0" | "1") {
            return None;
        }
        seen.push(level);
        match (level, value) {
            ("L1", "1") => on.push(RetryLevel::L1),
            ("L2", "1") => on.push(RetryLevel::L2),
            // Inside a server: it counts for nothing here.
            ("L0" | "L1" | "L2", _) => {}
            _ => return None,
        }
    }
    Some(on)
}

/// Whether HCCL can read the numbers: all three in this order, in their ranges; one blank after a comma is allowed.
pub(super) fn parameters_are_readable(text: &str) -> bool {
    let number = |text: &str, name: &str, range: std::ops::RangeInclusive<u32>| {
        text.strip_prefix(name)
            .and_then(|number| number.parse().ok())
            .is_some_and(|number: u32| range.contains(&number))
    };
    let parts: Vec<&str> = text
        .split(',')
        .enumerate()
        .map(|(index, part)| match part.strip_prefix(' ') {
            Some(rest) if index > 0 => rest,
            _ => part,
        })
        .collect();
    let [retries, hold, interval] = parts[..] else {
        return false;
    };
    number(retries, "MaxCnt:", 1..=10)
        && number(hold, "HoldTime:", 0..=60_000)
        && number(interval, "IntervalTime:", 0..=60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_hccl_reads_them() {
        use RetryLevel::{L1, L2};
        for (text, expected) in [
            ("L1:1,L2:0", Some(vec![L1])),
            ("L0:0, L1:1, L2:1", Some(vec![L1, L2])),
            ("L0:1", Some(vec![])),
            ("L1:1,", None),
            (",L1:1", None),
            ("L1:1,L1:0", None),
            ("L1:2", None),
            ("L3:1", None),
            ("", None),
            ("L0:0,L1:1,L2:1,L2:1", None),
        ] {
            assert_eq!(enabled_levels(text), expected, "{text}");
        }
    }

    #[test]
    fn parameters_have_a_fixed_order() {
        for (text, expected) in [
            ("MaxCnt:3,HoldTime:5000,IntervalTime:1000", true),
            ("MaxCnt:3, HoldTime:5000, IntervalTime:1000", true),
            ("HoldTime:5000,MaxCnt:3,IntervalTime:1000", false),
            ("MaxCnt:3,HoldTime:5000", false),
            ("MaxCnt:11,HoldTime:5000,IntervalTime:1000", false),
            ("MaxCnt:3,HoldTime:60001,IntervalTime:1000", false),
            ("MaxCnt:3,HoldTime:5000,IntervalTime:", false),
        ] {
            assert_eq!(parameters_are_readable(text), expected, "{text}");
        }
    }
}
