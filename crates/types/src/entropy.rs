//! Randomness as a parameter, so that a simulation can replay a run from its seed.

use std::fmt::Debug;
use std::io::Read;

/// A source of random bytes.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A random number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The kernel's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(buffer))
            .expect("/dev/urandom is readable on every Linux host");
    }
}

/// A seeded source (`SplitMix64`) for tests and simulations; never for secrets.
#[derive(Debug)]
pub struct SeededEntropy(std::sync::Mutex<u64>);

impl SeededEntropy {
    /// Starts the sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(std::sync::Mutex::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().expect("no holder of this lock panics");
        for chunk in buffer.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = *state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (first, second) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let numbers: Vec<u64> = (0..4).map(|_| first.next_u64()).collect();
        assert_eq!(
            numbers,
            (0..4).map(|_| second.next_u64()).collect::<Vec<_>>()
        );
        assert_ne!(numbers[0], numbers[1]);
    }
}
