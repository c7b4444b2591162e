//! Matrix multiplication that is fast and has the same bits on every processor.
//!
//! The usual scheme (packed panels, a register tile of `ROWS` x `COLUMNS`) as plain loops, compiled once for each instruction set
//! and chosen at run time. Every element is the sum of its products in ascending order, each step one fused multiply-add, rounded
//! once, and cut into blocks of a fixed depth; tile and vector sizes do not enter. So one digest is right for AVX2, AVX-512, NEON
//! and the portable loop, and the speed test is a test of correctness at the same time. A library would be as fast, but promises
//! no order of its sums.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a function with a target feature is compiled without it"
)]

use crate::stress::context::Stop;
use crate::stress::number::{split_mix, uniform};

/// A floating-point type with the sizes that belong to it.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Rows and columns of the matrices of the test. A multiple of [`GRAIN`].
    const SIZE: usize;
    /// Products that are summed up before they are added to the result. Part of the definition of the digest.
    const DEPTH: usize;
    /// The digest of the product of the matrices of the test.
    const GOLDEN: u64;
    /// Elements in 16 bytes.
    const LANES: usize;
    /// `self * factor + sum`, rounded once.
    fn fused(self, factor: Self, sum: Self) -> Self;
    /// The sum.
    fn plus(self, other: Self) -> Self;
    /// The bits.
    fn bits(self) -> u64;
    /// A number in [-1, 1) that uses all bits of the fraction.
    fn random(state: &mut u64) -> Self;
}

/// Sizes are multiples of this, which every tile divides.
pub(crate) const GRAIN: usize = 96;
/// Rows of the left matrix that stay in the second cache; every tile divides it.
const BLOCK_ROWS: usize = 96;

impl Element for f32 {
    const SIZE: usize = 1152;
    const DEPTH: usize = 288;
    const GOLDEN: u64 = 0x4bd3_9e51_f577_0cdf;
    const LANES: usize = 4;
    #[inline(always)]
    fn fused(self, factor: Self, sum: Self) -> Self {
        self.mul_add(factor, sum)
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
    fn random(state: &mut u64) -> Self {
        // 23 bits of fraction for a number in [1, 2), moved to [-1, 1): exact.
        let fraction = u32::try_from(split_mix(state) >> 41).expect("23 bits");
        (Self::from_bits(0x3f80_0000 | fraction) - 1.5) * 2.0
    }
}

impl Element for f64 {
    const SIZE: usize = 768;
    const DEPTH: usize = 256;
    const GOLDEN: u64 = 0xd194_d387_3a44_f4e2;
    const LANES: usize = 2;
    #[inline(always)]
    fn fused(self, factor: Self, sum: Self) -> Self {
        self.mul_add(factor, sum)
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn random(state: &mut u64) -> Self {
        uniform(state) * 2.0 - 1.0
    }
}

/// How it is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// Whatever the compiler assumes of every processor of this kind; on aarch64 that includes NEON.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// The best of this processor.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn best() -> Self {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    /// The best of this processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn best() -> Self {
        Self::Portable
    }

    /// As it is said to people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable if cfg!(target_arch = "aarch64") => "NEON",
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512",
        }
    }
}

/// Two square matrices, their product, and the packed pieces.
#[derive(Debug)]
pub(crate) struct Work<T> {
    size: usize,
    left: Vec<T>,
    right: Vec<T>,
    product: Vec<T>,
    packed_left: Vec<T>,
    packed_right: Vec<T>,
}

impl<T: Element> Work<T> {
    /// Matrices of `size` rows and columns that belong to a seed. `size` is a multiple of [`GRAIN`].
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        assert_eq!(size % GRAIN, 0, "tiles divide the matrices");
        let mut state = seed;
        let mut matrix = || {
            (0..size * size)
                .map(|_| T::random(&mut state))
                .collect::<Vec<T>>()
        };
        let (left, right) = (matrix(), matrix());
        let depth = T::DEPTH.min(size);
        Self {
            size,
            left,
            right,
            product: vec![T::default(); size * size],
            packed_left: vec![T::default(); BLOCK_ROWS * depth],
            packed_right: vec![T::default(); size * depth],
        }
    }

    /// Floating-point operations of one multiplication.
    pub(crate) fn operations(&self) -> u64 {
        2 * (self.size as u64).pow(3)
    }

    /// A digest of the product's bits that any single wrong bit changes: the sum of all words, each times an odd number of its own.
    pub(crate) fn digest(&self) -> u64 {
        self.product
            .iter()
            .zip((1_u64..).step_by(2))
            .fold(0, |sum, (element, weight)| {
                element.bits().wrapping_mul(weight).wrapping_add(sum)
            })
    }

    /// Multiplies once. Says whether it came to its end before the order to stop.
    pub(crate) fn multiply(&mut self, instructions: Instructions, stop: &Stop) -> bool {
        match instructions {
            Instructions::Portable => portable(self, stop),
            // SAFETY: `best` found the instructions on this processor; tests ask for them only after the same question.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { avx2(self, stop) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { avx512(self, stop) },
        }
    }
}

/// 24 vectors of 16 bytes hold a tile: the 32 registers of aarch64 leave room for the operands.
fn portable<T: Element>(work: &mut Work<T>, stop: &Stop) -> bool {
    if T::LANES == 4 {
        blocks::<T, 8, 12>(work, stop)
    } else {
        blocks::<T, 6, 8>(work, stop)
    }
}

/// 12 of 16 vector registers hold a tile.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Element>(work: &mut Work<T>, stop: &Stop) -> bool {
    if T::LANES == 4 {
        blocks::<T, 6, 16>(work, stop)
    } else {
        blocks::<T, 6, 8>(work, stop)
    }
}

/// 24 of 32 vector registers hold a tile.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512<T: Element>(work: &mut Work<T>, stop: &Stop) -> bool {
    if T::LANES == 4 {
        blocks::<T, 12, 32>(work, stop)
    } else {
        blocks::<T, 12, 16>(work, stop)
    }
}

/// Inlined into each of the above, so that it is compiled for their instructions.
#[inline(always)]
fn blocks<T: Element, const ROWS: usize, const COLUMNS: usize>(
    work: &mut Work<T>,
    stop: &Stop,
) -> bool {
    let size = work.size;
    for depth_start in (0..size).step_by(T::DEPTH) {
        let depth = T::DEPTH.min(size - depth_start);
        for (panel, packed) in work
            .packed_right
            .chunks_exact_mut(depth * COLUMNS)
            .take(size / COLUMNS)
            .enumerate()
        {
            for (step, packed) in packed.chunks_exact_mut(COLUMNS).enumerate() {
                let start = (depth_start + step) * size + panel * COLUMNS;
                packed.copy_from_slice(&work.right[start..start + COLUMNS]);
            }
        }
        for row_start in (0..size).step_by(BLOCK_ROWS) {
            if stop.stopped() {
                return false;
            }
            let rows = BLOCK_ROWS.min(size - row_start);
            for (panel, packed) in work
                .packed_left
                .chunks_exact_mut(depth * ROWS)
                .take(rows / ROWS)
                .enumerate()
            {
                for row in 0..ROWS {
                    let start = (row_start + panel * ROWS + row) * size + depth_start;
                    let source = &work.left[start..start + depth];
                    for (packed, element) in packed[row..].iter_mut().step_by(ROWS).zip(source) {
                        *packed = *element;
                    }
                }
            }
            for column in (0..size).step_by(COLUMNS) {
                let right = &work.packed_right[column * depth..(column + COLUMNS) * depth];
                for row in (0..rows).step_by(ROWS) {
                    let left = &work.packed_left[row * depth..(row + ROWS) * depth];
                    let tile = tile::<T, ROWS, COLUMNS>(left, right);
                    for (line, sums) in tile.iter().enumerate() {
                        let start = (row_start + row + line) * size + column;
                        let target = &mut work.product[start..start + COLUMNS];
                        if depth_start == 0 {
                            target.copy_from_slice(sums);
                        } else {
                            for (target, sum) in target.iter_mut().zip(sums) {
                                *target = target.plus(*sum);
                            }
                        }
                    }
                }
            }
        }
    }
    true
}

/// The sums of one register tile.
#[inline(always)]
fn tile<T: Element, const ROWS: usize, const COLUMNS: usize>(
    left: &[T],
    right: &[T],
) -> [[T; COLUMNS]; ROWS] {
    let mut sums = [[T::default(); COLUMNS]; ROWS];
    let (left, right) = (left.as_chunks::<ROWS>().0, right.as_chunks::<COLUMNS>().0);
    for (left, right) in left.iter().zip(right) {
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                sums[row][column] = left[row].fused(right[column], sums[row][column]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: products in ascending order, cut into blocks of a fixed depth. The first rows of the product.
    fn by_definition<T: Element>(work: &Work<T>, rows: usize) -> Vec<T> {
        let size = work.size;
        let mut product = vec![T::default(); rows * size];
        for row in 0..rows {
            for column in 0..size {
                for depth_start in (0..size).step_by(T::DEPTH) {
                    let mut sum = T::default();
                    for step in depth_start..(depth_start + T::DEPTH).min(size) {
                        sum = work.left[row * size + step]
                            .fused(work.right[step * size + column], sum);
                    }
                    let target = &mut product[row * size + column];
                    *target = if depth_start == 0 {
                        sum
                    } else {
                        target.plus(sum)
                    };
                }
            }
        }
        product
    }

    fn instructions() -> Vec<Instructions> {
        let mut all = vec![Instructions::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("fma");
            if fma && is_x86_feature_detected!("avx2") {
                all.push(Instructions::Avx2);
            }
            if fma && is_x86_feature_detected!("avx512f") {
                all.push(Instructions::Avx512);
            }
        }
        all
    }

    fn check<T: Element>(size: usize) {
        for instructions in instructions() {
            let mut work = Work::<T>::new(size, 7);
            assert!(work.multiply(instructions, &Stop::default()));
            assert_eq!(wrong_in(&work, size), 0, "{instructions:?}");
        }
    }

    fn wrong_in<T: Element>(work: &Work<T>, rows: usize) -> usize {
        by_definition(work, rows)
            .iter()
            .zip(&work.product)
            .filter(|(expected, got)| expected.bits() != got.bits())
            .count()
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        check::<f32>(96);
        check::<f64>(96);
        // More than one block of the depth, the last one shorter.
        check::<f32>(384);
        check::<f64>(288);
    }

    fn check_golden<T: Element>() {
        let mut work = Work::<T>::new(T::SIZE, crate::stress::compute::SEED);
        assert!(work.multiply(Instructions::best(), &Stop::default()));
        assert_eq!(work.digest(), T::GOLDEN, "{:#018x}", work.digest());
        assert_eq!(
            wrong_in(&work, 4),
            0,
            "the digest is that of the definition"
        );
    }

    #[test]
    fn the_golden_digests_are_those_of_the_definition() {
        check_golden::<f32>();
        check_golden::<f64>();
    }

    #[test]
    fn one_wrong_bit_changes_the_digest() {
        let mut work = Work::<f64>::new(96, 1);
        assert!(work.multiply(Instructions::best(), &Stop::default()));
        let right = work.digest();
        for (element, bit) in [(0, 0), (0, 63), (9215, 1), (4000, 52)] {
            let before = work.product[element];
            work.product[element] = f64::from_bits(before.to_bits() ^ (1 << bit));
            assert_ne!(work.digest(), right, "element {element}, bit {bit}");
            work.product[element] = before;
        }
    }

    #[test]
    fn the_order_to_stop_is_heard_inside_a_multiplication() {
        let stop = Stop::default();
        stop.stop();
        assert!(!Work::<f32>::new(96, 1).multiply(Instructions::best(), &stop));
    }
}
