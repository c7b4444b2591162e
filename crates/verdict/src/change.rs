//! What a machine said by itself between two moments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// What only grows, by name.
    pub counters: BTreeMap<String, u64>,
    /// What goes up and down, by name.
    pub readings: BTreeMap<String, f64>,
}

/// What happened between two moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// By how much counters grew; those that did not are left out. One that was reset counts from zero.
    pub grown: BTreeMap<String, u64>,
    /// The lowest and the highest reading.
    pub readings: BTreeMap<String, (f64, f64)>,
}

impl Change {
    /// What happened from the first to the last of these moments.
    pub fn over(moments: &[Counters]) -> Self {
        let mut change = Self::default();
        for moment in moments {
            for (name, value) in &moment.readings {
                let range = change
                    .readings
                    .entry(name.clone())
                    .or_insert((*value, *value));
                *range = (range.0.min(*value), range.1.max(*value));
            }
        }
        for pair in moments.windows(2) {
            for (name, after) in &pair[1].counters {
                // A counter that appears during a test (a device that came back) is not growth.
                let Some(before) = pair[0].counters.get(name) else {
                    continue;
                };
                let grown = after.checked_sub(*before).unwrap_or(*after);
                if grown > 0 {
                    *change.grown.entry(name.clone()).or_default() += grown;
                }
            }
        }
        change
    }

    /// What two sources said that have no name in common.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.grown.extend(other.grown);
        self.readings.extend(other.readings);
        self
    }

    /// The growth of all counters whose name begins and ends so.
    pub fn grown(&self, begin: &str, end: &str) -> u64 {
        self.grown
            .iter()
            .filter(|(name, _)| name.starts_with(begin) && name.ends_with(end))
            .map(|(_, grown)| grown)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(counter: u64, reading: f64) -> Counters {
        Counters {
            counters: [("nic/eth0/rx_errors".to_owned(), counter)].into(),
            readings: [("load".to_owned(), reading)].into(),
        }
    }

    #[test]
    fn growth_and_range_are_taken_over_all_moments() {
        let change = Change::over(&[moment(5, 1.0), moment(7, 3.0), moment(8, 2.0)]);
        assert_eq!(change.grown["nic/eth0/rx_errors"], 3);
        assert_eq!(change.readings["load"], (1.0, 3.0));
        assert_eq!(change.grown("nic/", "/rx_errors"), 3);
        assert_eq!(change.grown("nic/", "/tx_errors"), 0);
    }

    #[test]
    fn a_reset_counter_counts_from_zero_and_a_new_one_not_at_all() {
        let change = Change::over(&[moment(5, 1.0), moment(2, 1.0)]);
        assert_eq!(change.grown["nic/eth0/rx_errors"], 2);
        let change = Change::over(&[Counters::default(), moment(5, 1.0)]);
        assert!(change.grown.is_empty());
    }
}
