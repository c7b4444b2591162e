//! A distribution of many durations in little space: buckets that grow with the value, at most 3 % wide.
//!
//! A latency test makes hundreds of thousands of values, of which the tail is what matters. The buckets of two histograms are the
//! same, so they can be added and compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::number::{count, real};

/// Buckets for each doubling.
const STEPS: u32 = 32;

/// How often values fell into each bucket. Values are positive; units are the metric's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bucket number to count. The bucket `b` holds values from 2^(b/32) on, in thousandths of the unit.
    buckets: BTreeMap<u32, u64>,
    maximum: f64,
    sum: f64,
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        *self.buckets.entry(bucket(value)).or_default() += 1;
        self.maximum = self.maximum.max(value);
        self.sum += value;
    }

    /// Adds all values of another one.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, number) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += number;
        }
        self.maximum = self.maximum.max(other.maximum);
        self.sum += other.sum;
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The mean; nothing without values.
    pub fn mean(&self) -> Option<f64> {
        let number = self.count();
        (number > 0).then(|| self.sum / real(number))
    }

    /// The largest value, exactly; nothing without values.
    pub fn maximum(&self) -> Option<f64> {
        (!self.buckets.is_empty()).then_some(self.maximum)
    }

    /// The value that a share (0 to 1) of all values does not exceed, 3 % too high at most; nothing without values.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = count((real(self.count()) * share).ceil()).max(1);
        let mut seen = 0;
        for (bucket, number) in &self.buckets {
            seen += number;
            if seen >= wanted {
                return Some(upper(*bucket).min(self.maximum));
            }
        }
        None
    }

    /// The buckets for a drawing: upper bound and count.
    pub fn bars(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets
            .iter()
            .map(|(bucket, number)| (upper(*bucket), *number))
    }
}

/// Thousandths of the unit are the finest that is told apart.
fn bucket(value: f64) -> u32 {
    let thousandths = (value * 1000.0).max(1.0);
    u32::try_from(count(thousandths.log2() * f64::from(STEPS))).unwrap_or(u32::MAX)
}

fn upper(bucket: u32) -> f64 {
    (f64::from(bucket + 1) / f64::from(STEPS)).exp2() / 1000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_one_knows_nothing() {
        let empty = Histogram::default();
        assert_eq!(
            (empty.quantile(0.5), empty.mean(), empty.maximum()),
            (None, None, None)
        );
    }

    proptest! {
        #[test]
        fn quantiles_are_right_within_a_bucket(
            mut values in prop::collection::vec(0.01_f64..1e6, 1..200),
            share in 0.01_f64..1.0,
        ) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.add(*value);
            }
            values.sort_by(f64::total_cmp);
            let rank = crate::number::index((crate::number::real_of(values.len()) * share).ceil()).max(1);
            let exact = values[rank - 1];
            let found = histogram.quantile(share).expect("there are values");
            prop_assert!(found >= exact * 0.999 && found <= exact * 1.06, "{found} for {exact}");
            prop_assert_eq!(histogram.maximum(), values.last().copied());
        }

        #[test]
        fn adding_up_is_the_same_as_adding(values in prop::collection::vec(0.01_f64..1e6, 0..50), cut in 0_usize..50) {
            let (mut whole, mut first, mut second) = (Histogram::default(), Histogram::default(), Histogram::default());
            for (position, value) in values.iter().enumerate() {
                whole.add(*value);
                if position < cut { first.add(*value) } else { second.add(*value) }
            }
            first.merge(&second);
            prop_assert_eq!(first.count(), whole.count());
            prop_assert_eq!(first.quantile(0.9), whole.quantile(0.9));
        }
    }
}
