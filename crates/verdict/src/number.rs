//! Counts become measurements here, and nowhere else: every lossy conversion of the stress kernels has a name and a reason.

/// A count as a measurement. Exact below 2^53, which no counter here reaches in a test's time.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test stay far below 2^53; a rounded byte counter would not matter either"
)]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// A length as a measurement.
pub fn real_of(length: usize) -> f64 {
    real(length as u64)
}

/// A measurement as a count: truncated towards zero, nothing for what is negative or not a number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what is promised"
)]
pub fn count(value: f64) -> u64 {
    value as u64
}

/// A measurement as an index, truncated towards zero.
pub fn index(value: f64) -> usize {
    usize::try_from(count(value)).unwrap_or(usize::MAX)
}

/// The next number of the `SplitMix64` sequence: test data that is the same on every machine, never a secret.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A number in [0, 1) of the sequence, with all 53 bits of a double.
pub fn uniform(state: &mut u64) -> f64 {
    real(split_mix(state) >> 11) / 9_007_199_254_740_992.0
}
