//! In which order blocks are visited.

/// Visits every number below a bound once, in an order that looks like chance: no block is under way twice at a time, and neither a
/// disk nor a cache can foresee the next one.
#[derive(Debug, Clone)]
pub(super) struct Shuffled {
    bound: u64,
    bits: u32,
    seed: u64,
    next: u64,
}

impl Shuffled {
    /// The order that belongs to a seed.
    pub(super) fn new(bound: u64, seed: u64) -> Self {
        Self {
            bound,
            bits: (64 - bound.saturating_sub(1).leading_zeros()).max(1),
            seed,
            next: 0,
        }
    }

    /// Each step can be undone within `bits` bits, so no two numbers become the same.
    fn mix(&self, number: u64) -> u64 {
        let mask = u64::MAX >> (64 - self.bits);
        let shift = self.bits.div_ceil(2);
        let mut mixed = number.wrapping_add(self.seed) & mask;
        for factor in [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9] {
            mixed = mixed.wrapping_mul(factor) & mask;
            mixed ^= mixed >> shift;
        }
        mixed
    }
}

impl Iterator for Shuffled {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.next >> self.bits == 0 {
            let mixed = self.mix(self.next);
            self.next += 1;
            if mixed < self.bound {
                return Some(mixed);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_comes_once(bound in 0_u64..5000, seed in any::<u64>()) {
            let mut all: Vec<u64> = Shuffled::new(bound, seed).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..bound).collect::<Vec<_>>());
        }
    }
}
