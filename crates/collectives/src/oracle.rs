//! What an operator has to give, computed by one process from all inputs, element by element: the judge of every test and of
//! `supernode collective check`.
//!
//! It shares with the rest only the definition of the order (`schedule::order`) and of the 16-bit types (`element`). It knows no schedule, no
//! stream and no kernel, and is as slow as it is plain.

use crate::element::{DataType, Reduction, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::operator::{Operator, Rank};
use crate::schedule::order::{Fold, origins};

/// The output of `rank`, given the operators and inputs of all ranks.
pub fn output(operators: &[Operator], inputs: &[Vec<u8>], rank: Rank) -> Vec<u8> {
    let world = operators.len();
    let operator = &operators[rank];
    let size = operator.data_type.size();
    let mut output = vec![0; operator.output_count(rank, world) * size];
    for origin in origins(operators, rank) {
        let judge = Judge {
            data_type: operator.data_type,
            reduction: operator.kind.reduction(),
            inputs,
        };
        for index in 0..origin.len {
            let mut value = judge.value(&origin.fold, origin.input + index);
            if operator.kind.reduction() == Some(Reduction::Avg) && world > 1 {
                value = value.divided(world);
            }
            let at = (origin.output + index) * size;
            value.store(&mut output[at..at + size]);
        }
    }
    output
}

struct Judge<'a> {
    data_type: DataType,
    reduction: Option<Reduction>,
    inputs: &'a [Vec<u8>],
}

impl Judge<'_> {
    fn value(&self, fold: &Fold, element: usize) -> Scalar {
        match fold {
            Fold::One(rank) => Scalar::load(self.data_type, &self.inputs[*rank], element),
            Fold::Two(a, b) => {
                let reduction = self.reduction.expect("only reductions combine");
                let (a, b) = (self.value(a, element), self.value(b, element));
                a.combined(b, reduction)
            }
        }
    }
}

/// One element.
#[derive(Debug, Clone, Copy)]
enum Scalar {
    F32(f32),
    F64(f64),
    I32(i32),
    I64(i64),
    U8(u8),
    F16(f32),
    Bf16(f32),
}

impl Scalar {
    fn load(data_type: DataType, bytes: &[u8], element: usize) -> Self {
        fn array<const N: usize>(bytes: &[u8], element: usize) -> [u8; N] {
            bytes[element * N..(element + 1) * N]
                .try_into()
                .expect("the range has this length")
        }
        match data_type {
            DataType::F32 => Self::F32(f32::from_ne_bytes(array(bytes, element))),
            DataType::F64 => Self::F64(f64::from_ne_bytes(array(bytes, element))),
            DataType::I32 => Self::I32(i32::from_ne_bytes(array(bytes, element))),
            DataType::I64 => Self::I64(i64::from_ne_bytes(array(bytes, element))),
            DataType::U8 => Self::U8(bytes[element]),
            DataType::F16 => Self::F16(f16_to_f32(u16::from_ne_bytes(array(bytes, element)))),
            DataType::Bf16 => Self::Bf16(bf16_to_f32(u16::from_ne_bytes(array(bytes, element)))),
        }
    }

    fn store(self, bytes: &mut [u8]) {
        match self {
            Self::F32(value) => bytes.copy_from_slice(&value.to_ne_bytes()),
            Self::F64(value) => bytes.copy_from_slice(&value.to_ne_bytes()),
            Self::I32(value) => bytes.copy_from_slice(&value.to_ne_bytes()),
            Self::I64(value) => bytes.copy_from_slice(&value.to_ne_bytes()),
            Self::U8(value) => bytes[0] = value,
            Self::F16(value) => bytes.copy_from_slice(&f32_to_f16(value).to_ne_bytes()),
            Self::Bf16(value) => bytes.copy_from_slice(&f32_to_bf16(value).to_ne_bytes()),
        }
    }

    fn combined(self, other: Self, reduction: Reduction) -> Self {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => {
                let wide = float(f64::from(a), f64::from(b), reduction);
                Self::F32(narrow(wide))
            }
            (Self::F64(a), Self::F64(b)) => Self::F64(float(a, b, reduction)),
            (Self::F16(a), Self::F16(b)) => {
                let wide = float(f64::from(a), f64::from(b), reduction);
                Self::F16(f16_to_f32(f32_to_f16(narrow(wide))))
            }
            (Self::Bf16(a), Self::Bf16(b)) => {
                let wide = float(f64::from(a), f64::from(b), reduction);
                Self::Bf16(bf16_to_f32(f32_to_bf16(narrow(wide))))
            }
            (Self::I32(a), Self::I32(b)) => {
                let wide = integer(i128::from(a), i128::from(b), reduction);
                #[expect(clippy::cast_possible_truncation, reason = "integers wrap")]
                Self::I32(wide as i32)
            }
            (Self::I64(a), Self::I64(b)) => {
                let wide = integer(i128::from(a), i128::from(b), reduction);
                #[expect(clippy::cast_possible_truncation, reason = "integers wrap")]
                Self::I64(wide as i64)
            }
            (Self::U8(a), Self::U8(b)) => {
                let wide = integer(i128::from(a), i128::from(b), reduction);
                Self::U8(
                    wide.rem_euclid(256)
                        .try_into()
                        .expect("a remainder of 256 is a byte"),
                )
            }
            _ => unreachable!("one operator has one data type"),
        }
    }

    fn divided(self, ranks: usize) -> Self {
        let count = i128::try_from(ranks).expect("a count of ranks is small");
        let float = f64::from(u32::try_from(ranks).expect("a count of ranks is small"));
        match self {
            Self::F32(value) => Self::F32(narrow(f64::from(value) / float)),
            Self::F64(value) => Self::F64(value / float),
            Self::F16(value) => Self::F16(narrow(f64::from(value) / float)),
            Self::Bf16(value) => Self::Bf16(narrow(f64::from(value) / float)),
            Self::I32(value) => Self::I32(
                (i128::from(value) / count)
                    .try_into()
                    .expect("it got no larger"),
            ),
            Self::I64(value) => Self::I64(
                (i128::from(value) / count)
                    .try_into()
                    .expect("it got no larger"),
            ),
            Self::U8(value) => Self::U8(
                (i128::from(value) / count)
                    .try_into()
                    .expect("it got no larger"),
            ),
        }
    }
}

/// Rounding an exact sum, product or quotient first to 53 and then to 24 bits gives the same as rounding once.
#[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn float(a: f64, b: f64, reduction: Reduction) -> f64 {
    match reduction {
        Reduction::Sum | Reduction::Avg => a + b,
        Reduction::Product => a * b,
        Reduction::Min | Reduction::Max if a.is_nan() || b.is_nan() => f64::NAN,
        Reduction::Min => {
            if a.total_cmp(&b).is_lt() {
                a
            } else {
                b
            }
        }
        Reduction::Max => {
            if a.total_cmp(&b).is_gt() {
                a
            } else {
                b
            }
        }
    }
}

fn integer(a: i128, b: i128, reduction: Reduction) -> i128 {
    match reduction {
        Reduction::Sum | Reduction::Avg => a + b,
        Reduction::Product => a * b,
        Reduction::Min => a.min(b),
        Reduction::Max => a.max(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    /// Random bits, every special value among them, through kernel and oracle.
    #[test]
    fn kernels_and_oracle_agree_to_the_bit() {
        let mut state = 1_u64;
        let mut bytes = |count: usize| -> Vec<u8> {
            let words = (0..count.div_ceil(8)).flat_map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state ^ (state >> 29)).to_le_bytes()
            });
            words.take(count).collect()
        };
        for data_type in DataType::ALL {
            for reduction in Reduction::ALL {
                let count = 4099;
                let (a, b) = (
                    bytes(count * data_type.size()),
                    bytes(count * data_type.size()),
                );
                let mut fast = a.clone();
                kernels::combine(data_type, reduction, &mut fast, &b);
                kernels::divide(data_type, &mut fast, 3);
                for index in 0..count {
                    let slow = Scalar::load(data_type, &a, index)
                        .combined(Scalar::load(data_type, &b, index), reduction)
                        .divided(3);
                    let fast = Scalar::load(data_type, &fast, index);
                    let (mut x, mut y) = ([0; 8], [0; 8]);
                    let size = data_type.size();
                    slow.store(&mut x[..size]);
                    fast.store(&mut y[..size]);
                    let is_nan =
                        format!("{slow:?}").contains("NaN") && format!("{fast:?}").contains("NaN");
                    assert!(
                        is_nan || x == y,
                        "{data_type} {reduction}: {slow:?} {fast:?}"
                    );
                }
            }
        }
    }
}
