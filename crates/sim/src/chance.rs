//! Every choice of a simulated world comes from here, so a seed is a whole run.

use std::time::Duration;

/// A seeded source of choices (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds should not begin alike.
        Self(
            seed.wrapping_mul(0xd134_2543_de82_ef95)
                .wrapping_add(0x2545_f491_4f6c_dd1d),
        )
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from 0 to `bound` - 1; 0 when there is none.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound < 2 { 0 } else { self.number() % bound }
    }

    /// A number from `first` to `last`, both included.
    pub(crate) fn range(&mut self, first: u32, last: u32) -> u32 {
        let span = u64::from(last.saturating_sub(first)) + 1;
        first + u32::try_from(self.below(span)).expect("the span is below 2^32")
    }

    /// True in `percent` of all cases. Nothing is drawn when it cannot happen, so that calm worlds stay as they are.
    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        percent > 0 && self.below(100) < u64::from(percent)
    }

    /// A time between `range.0` and `range.1`; nothing is drawn when they are the same.
    pub(crate) fn between(&mut self, range: (Duration, Duration)) -> Duration {
        let span = range.1.saturating_sub(range.0);
        if span.is_zero() {
            return range.0;
        }
        range.0
            + Duration::from_micros(self.below(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn milliseconds(&mut self, first: u64, last: u64) -> Duration {
        self.between((Duration::from_millis(first), Duration::from_millis(last)))
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index fits")
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            Some(&items[self.index(items.len())])
        }
    }
}
