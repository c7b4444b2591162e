//! Matrix products on a device: how fast, and whether each of them is exactly right.
//!
//! The matrices hold whole numbers between -63 and 63. All precisions hold those exactly, no sum of 8,192 of their products needs more
//! than 24 bits in any order of adding, and so there is one right result for every precision, device and algorithm, bit for bit.
//! It is proved once for each device on the host: for random vectors v, `result * v` must be `left * (right * v)`, in whole numbers
//! (Freivalds' check: a wrong result passes once in a million tries for each vector). From then on the device takes a digest of
//! every result, and each must be that of the proven one.

use std::sync::OnceLock;

use super::cublas::{Blas, Precision};
use super::{Halt, Present, digest, mix};
use crate::stress::compute::SEED;
use crate::stress::context::Context;
use crate::stress::number::real_of;
use crate::stress::sample::Wrong;

/// Rows of a matrix, and of one for a device with little memory.
const SIZE: usize = 8192;
const SMALL_SIZE: usize = 1024;
/// Vectors of the proof.
const VECTORS: u64 = 2;
/// A device that is wrong this often has been heard.
const MOST_WRONG: u32 = 8;
/// Devices are warmed up for so long before they are timed: clocks rise and the library chooses its way.
const WARM_UP_SECONDS: f64 = 0.5;

/// Products of one precision, with what all devices share.
pub(super) struct Task {
    precision: Precision,
    seconds: u32,
    large: OnceLock<Matrices>,
    small: OnceLock<Matrices>,
}

impl Task {
    pub(super) fn new(precision: Precision, seconds: u32) -> Self {
        Self {
            precision,
            seconds,
            large: OnceLock::new(),
            small: OnceLock::new(),
        }
    }

    pub(super) fn run(&self, context: &Context<'_>, present: &Present<'_>) -> Result<(), Halt> {
        let (gpu, precision) = (present.gpu, self.precision);
        if gpu.capability()? < precision.needs() {
            context.remark(format!("{} has no {}", present.part(), precision.name()));
            return Ok(());
        }
        let bytes = |size: usize| size * size * (2 * precision.element_bytes() + 4);
        let (size, shared) = if gpu.free_bytes()? > 2 * bytes(SIZE) {
            (SIZE, &self.large)
        } else {
            context.remark(format!(
                "{} has little memory: smaller matrices",
                present.part()
            ));
            (SMALL_SIZE, &self.small)
        };
        let matrices = shared.get_or_init(|| Matrices::new(size));
        let blas = Blas::open(gpu)?;
        let (left, right, result) = (
            gpu.allocate(size * size * precision.element_bytes())?,
            gpu.allocate(size * size * precision.element_bytes())?,
            gpu.allocate(size * size * 4)?,
        );
        gpu.write(&left, &encoded(&matrices.left, precision))?;
        gpu.write(&right, &encoded(&matrices.right, precision))?;
        let sum = gpu.allocate(8)?;
        let multiply = || gpu.timed(|| blas.multiply(precision, size, &left, &right, &result));

        multiply()?;
        let mut first = vec![0; size * size * 4];
        gpu.read(&mut first, &result)?;
        if let Some((row, expected, got)) = matrices.wrong(&first) {
            context.wrong(Wrong {
                part: present.part(),
                what: format!(
                    "row {row} of a product in {}, times a random vector",
                    precision.name()
                ),
                expected: expected.to_string(),
                got: got.to_string(),
            });
            return Ok(());
        }
        let golden = digest(&first);
        drop(first);

        let operations = 2.0 * real_of(size).powi(3);
        let (start, mut wrong) = (context.moment(), 0);
        for round in 1_u64.. {
            context.check()?;
            let seconds = multiply()?;
            let got = gpu.digest(&result, &sum)?;
            if got != golden && wrong < MOST_WRONG {
                wrong += 1;
                context.wrong(Wrong {
                    part: present.part(),
                    what: format!("digest of product {round} in {}", precision.name()),
                    expected: format!("{golden:#018x}"),
                    got: format!("{got:#018x}"),
                });
            }
            let elapsed = context.seconds_since(start);
            if elapsed >= WARM_UP_SECONDS {
                context.sample(
                    precision.metric(),
                    present.part(),
                    operations / seconds / 1e9,
                );
            }
            if elapsed >= WARM_UP_SECONDS + f64::from(self.seconds) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Two square matrices in columns, and what their product does to some vectors.
struct Matrices {
    size: usize,
    left: Vec<i8>,
    right: Vec<i8>,
    /// A vector, and the product times it.
    proofs: Vec<(Vec<i64>, Vec<i64>)>,
}

impl Matrices {
    fn new(size: usize) -> Self {
        let matrix = |seed: u64| -> Vec<i8> {
            (0..size as u64 * size as u64)
                .map(|place| i8::try_from(mix(seed ^ place) % 127).expect("below 127") - 63)
                .collect()
        };
        let (left, right) = (matrix(SEED), matrix(!SEED));
        let proofs = (0..VECTORS)
            .map(|number| {
                let value = |row: u64| {
                    i64::try_from(mix(SEED ^ number << 32 ^ row) >> 44).expect("20 bits")
                };
                let vector: Vec<i64> = (0..size as u64).map(value).collect();
                let product = times(&left, size, &times(&right, size, &vector));
                (vector, product)
            })
            .collect();
        Self {
            size,
            left,
            right,
            proofs,
        }
    }

    /// The first row of a product in 32 bits that cannot be right, with what it has to be and what it is.
    fn wrong(&self, product: &[u8]) -> Option<(usize, i128, i128)> {
        let values: Vec<f32> = product
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        for (vector, expected) in &self.proofs {
            let mut sums = vec![0_i128; self.size];
            for (column, factor) in values.chunks_exact(self.size).zip(vector) {
                for (sum, value) in sums.iter_mut().zip(column) {
                    // What is no whole number becomes one that is far away.
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "checked to be a small whole number"
                    )]
                    let whole = if value.fract() == 0.0 && value.abs() < 2.0_f32.powi(30) {
                        *value as i64
                    } else {
                        1 << 40
                    };
                    *sum += i128::from(whole * factor);
                }
            }
            let pairs = expected.iter().map(|value| i128::from(*value)).zip(sums);
            if let Some((row, (expected, got))) = pairs
                .enumerate()
                .find(|(_, (expected, got))| expected != got)
            {
                return Some((row, expected, got));
            }
        }
        None
    }
}

fn encoded(matrix: &[i8], precision: Precision) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(matrix.len() * precision.element_bytes());
    for number in matrix {
        precision.encode(*number, &mut bytes);
    }
    bytes
}

/// A matrix in columns times a vector.
fn times(matrix: &[i8], size: usize, vector: &[i64]) -> Vec<i64> {
    let mut sums = vec![0; size];
    for (column, factor) in matrix.chunks_exact(size).zip(vector) {
        for (sum, value) in sums.iter_mut().zip(column) {
            *sum += i64::from(*value) * factor;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product as a device gives it.
    fn product(matrices: &Matrices) -> Vec<u8> {
        let size = matrices.size;
        let mut bytes = Vec::new();
        for column in 0..size {
            for row in 0..size {
                let sum: f32 = (0..size)
                    .map(|inner| {
                        let left = f32::from(matrices.left[inner * size + row]);
                        left * f32::from(matrices.right[column * size + inner])
                    })
                    .sum();
                bytes.extend(sum.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn the_right_product_is_proved_and_one_wrong_bit_is_not() {
        let matrices = Matrices::new(48);
        let right = product(&matrices);
        assert_eq!(matrices.wrong(&right), None);
        for (byte, bit) in [(4 * 48 * 7 + 4 * 5 + 2, 3), (4 * 48 * 47 + 3, 7), (1, 6)] {
            let mut wrong = right.clone();
            wrong[byte] ^= 1 << bit;
            let (row, ..) = matrices.wrong(&wrong).expect("it is wrong");
            assert_eq!(row, byte / 4 % 48);
            assert_ne!(digest(&wrong), digest(&right));
        }
    }

    #[test]
    fn no_number_is_a_wrong_one() {
        let matrices = Matrices::new(16);
        let mut wrong = product(&matrices);
        wrong[4 * 16..4 * 16 + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(matrices.wrong(&wrong).is_some());
    }

    #[test]
    fn no_sum_needs_more_than_twenty_four_bits() {
        // Half of the products of two matrices like these are positive, on the average 1,000 each; the whole is far below.
        let matrices = Matrices::new(256);
        let column = &matrices.right[..256];
        let largest: i64 = (0..256)
            .map(|row| {
                let products = (0..256).map(|inner| {
                    i64::from(matrices.left[inner * 256 + row]) * i64::from(column[inner])
                });
                products.filter(|product| *product > 0).sum::<i64>()
            })
            .max()
            .expect("there are rows");
        let rows = i64::try_from(SIZE / 256).expect("a few");
        assert!(largest * rows < 1 << 23, "{largest}");
    }
}
