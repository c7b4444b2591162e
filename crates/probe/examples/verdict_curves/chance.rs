//! Seeded chance in the shapes that the simulation needs.

use supernode_types::Entropy as _;
use supernode_types::entropy::SeededEntropy;

/// A stream of random numbers that belongs to a seed.
#[derive(Debug)]
pub(crate) struct Chance(SeededEntropy);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.next_u64()
    }

    /// In [0, 1).
    pub(crate) fn unit(&self) -> f64 {
        let word = u32::try_from(self.number() >> 32).expect("32 bits");
        f64::from(word) / 4_294_967_296.0
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).expect("below a usize")
    }

    /// Normal, with this deviation.
    pub(crate) fn normal(&self, deviation: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos() * deviation
    }

    /// Exponential, with mean one.
    pub(crate) fn exponential(&self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Between two positive numbers, every doubling as probable as any other.
    pub(crate) fn log_uniform(&self, least: f64, most: f64) -> f64 {
        least * (most / least).powf(self.unit())
    }
}

/// A share as percent, a dash where there is nothing to share.
pub(crate) fn share(part: u32, whole: u32) -> Option<f64> {
    (whole > 0).then(|| f64::from(part) / f64::from(whole))
}
