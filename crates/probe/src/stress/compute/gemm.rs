//! Matrix multiplication that is fast and has the same bits on every processor.
//!
//! The usual scheme (panels, a register tile of `ROWS` x `COLUMNS`) as plain loops, compiled once for each instruction set and chosen
//! at run time. The operands lie in the order in which the loops read them, so that nothing is copied and the processor computes.
//! Every element is the sum of its products in ascending order, each step one fused multiply-add, rounded once, and cut into blocks
//! of a fixed depth; tile and vector sizes do not enter. So one digest is right for AVX2, AVX-512, NEON and the portable loop, and the
//! speed test is a test of correctness at the same time. A library would be as fast, but promises no order of its sums.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a function with a target feature is compiled without it"
)]

use crate::stress::aligned::Aligned;
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
    const DEPTH: usize = 192;
    const GOLDEN: u64 = 0x1507_b4a8_1cca_7129;
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
    const DEPTH: usize = 128;
    const GOLDEN: u64 = 0xb7bb_778f_bfb6_aa85;
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

    /// Rows and columns of the product that are summed up in registers: 24 of the 32 that aarch64 and AVX-512 have, 12 of 16 else.
    fn tile<T: Element>(self) -> (usize, usize) {
        match (self, T::LANES) {
            (Self::Portable, 4) => (8, 12),
            (Self::Portable, _) => (6, 8),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, lanes) => (6, 4 * lanes),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, lanes) => (12, 8 * lanes),
        }
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

/// Two square matrices and their product.
#[derive(Debug)]
pub(crate) struct Work<T> {
    size: usize,
    instructions: Instructions,
    /// By its columns.
    left: Panels<T>,
    right: Panels<T>,
    product: Aligned<T>,
}

/// A square matrix cut into panels of a few columns each, one panel after the other, and each of them row by row.
#[derive(Debug)]
struct Panels<T> {
    size: usize,
    columns: usize,
    elements: Aligned<T>,
}

impl<T: Element> Panels<T> {
    fn random(size: usize, columns: usize, state: &mut u64) -> Self {
        let mut panels = Self {
            size,
            columns,
            elements: Aligned::new(size * size),
        };
        for row in 0..size {
            for column in 0..size {
                let place = panels.place(row, column);
                panels.elements[place] = T::random(state);
            }
        }
        panels
    }

    fn place(&self, row: usize, column: usize) -> usize {
        (column / self.columns * self.size + row) * self.columns + column % self.columns
    }

    /// Each with its first column.
    #[inline(always)]
    fn all(&self) -> impl Iterator<Item = (usize, &[T])> {
        let panels = self.elements.chunks_exact(self.size * self.columns);
        (0..).step_by(self.columns).zip(panels)
    }
}

impl<T: Element> Work<T> {
    /// Matrices of `size` rows and columns that belong to a seed, for these instructions. `size` is a multiple of [`GRAIN`].
    pub(crate) fn new(size: usize, seed: u64, instructions: Instructions) -> Self {
        assert_eq!(size % GRAIN, 0, "tiles divide the matrices");
        let mut state = seed;
        let (rows, columns) = instructions.tile::<T>();
        Self {
            size,
            instructions,
            left: Panels::random(size, rows, &mut state),
            right: Panels::random(size, columns, &mut state),
            product: Aligned::new(size * size),
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
    pub(crate) fn multiply(&mut self, stop: &Stop) -> bool {
        match self.instructions {
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

fn portable<T: Element>(work: &mut Work<T>, stop: &Stop) -> bool {
    if T::LANES == 4 {
        blocks::<T, 8, 12>(work, stop)
    } else {
        blocks::<T, 6, 8>(work, stop)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Element>(work: &mut Work<T>, stop: &Stop) -> bool {
    if T::LANES == 4 {
        blocks::<T, 6, 16>(work, stop)
    } else {
        blocks::<T, 6, 8>(work, stop)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn avx512<T: Element>(work: &mut Work<T>, stop: &Stop) -> bool {
    if T::LANES == 4 {
        blocks::<T, 12, 32>(work, stop)
    } else {
        blocks::<T, 12, 16>(work, stop)
    }
}

/// Inlined into each of the above, so that it is compiled for their instructions. Some rows are summed up to the end of the depth before
/// the next ones, so that their product stays in the second cache.
#[inline(always)]
fn blocks<T: Element, const ROWS: usize, const COLUMNS: usize>(
    work: &mut Work<T>,
    stop: &Stop,
) -> bool {
    assert_eq!((ROWS, COLUMNS), work.instructions.tile::<T>());
    let size = work.size;
    for row_start in (0..size).step_by(BLOCK_ROWS) {
        if stop.stopped() {
            return false;
        }
        for start in (0..size).step_by(T::DEPTH) {
            let depth = T::DEPTH.min(size - start);
            for (column, right) in work.right.all() {
                let right = &right[start * COLUMNS..][..depth * COLUMNS];
                let rows = work.left.all().skip(row_start / ROWS);
                for (row, left) in rows.take(BLOCK_ROWS / ROWS) {
                    let left = &left[start * ROWS..][..depth * ROWS];
                    let sums = tile::<T, ROWS, COLUMNS>(left, right);
                    let product = &mut work.product[row * size + column..];
                    for (line, sums) in product.chunks_mut(size).zip(sums) {
                        let line = line.first_chunk_mut().expect("tiles lie in the product");
                        *line = if start == 0 { sums } else { plus(*line, sums) };
                    }
                }
            }
        }
    }
    true
}

/// The sums of two lines.
#[inline(always)]
fn plus<T: Element, const COLUMNS: usize>(left: [T; COLUMNS], right: [T; COLUMNS]) -> [T; COLUMNS] {
    std::array::from_fn(|column| left[column].plus(right[column]))
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
                        let left = work.left.elements[work.left.place(step, row)];
                        let right = work.right.elements[work.right.place(step, column)];
                        sum = left.fused(right, sum);
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
            let mut work = Work::<T>::new(size, 7, instructions);
            assert!(work.multiply(&Stop::default()));
            assert_eq!(wrong_in(&work, size), 0, "{instructions:?}");
        }
    }

    fn wrong_in<T: Element>(work: &Work<T>, rows: usize) -> usize {
        by_definition(work, rows)
            .iter()
            .zip(work.product.iter())
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
        let instructions = Instructions::best();
        let mut work = Work::<T>::new(T::SIZE, crate::stress::compute::SEED, instructions);
        assert!(work.multiply(&Stop::default()));
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
        let mut work = Work::<f64>::new(96, 1, Instructions::best());
        assert!(work.multiply(&Stop::default()));
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
        assert!(!Work::<f32>::new(96, 1, Instructions::best()).multiply(&stop));
    }
}
