//! The loops that combine two buffers.
//!
//! Buffers are bytes: memory of callers need not be aligned. Each loop is plain, and the compiler makes vectors of it. On x86-64 a
//! second copy of every loop is compiled for AVX2 and taken where the processor has it: same operations, same bits.
//!
//! It refuses buffers that differ in length or end inside an element; callers cut at elements.

use crate::element::{DataType, Reduction, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// `target[i] = target[i] ∘ source[i]`. `Avg` adds; [`divide`] finishes it.
pub fn combine(data_type: DataType, reduction: Reduction, target: &mut [u8], source: &[u8]) {
    check(data_type, target, source.len());
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the one feature that the function is compiled with.
        unsafe { combine_avx2(data_type, reduction, target, source) };
        return;
    }
    combine_with(data_type, reduction, target, source);
}

/// `target[i] = target[i] / ranks`: what `Avg` does once, when every contribution is in.
pub fn divide(data_type: DataType, target: &mut [u8], ranks: usize) {
    check(data_type, target, target.len());
    let small = u32::try_from(ranks).expect("ranks are counted in 32 bits");
    let float = f64::from(small);
    match data_type {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a count of ranks is exact in f32"
        )]
        DataType::F32 => each::<4>(target, |a| {
            (f32::from_ne_bytes(a) / float as f32).to_ne_bytes()
        }),
        DataType::F64 => each::<8>(target, |a| (f64::from_ne_bytes(a) / float).to_ne_bytes()),
        DataType::I32 => each::<4>(target, |a| {
            let wide = i64::from(i32::from_ne_bytes(a)) / i64::from(small);
            i32::try_from(wide)
                .expect("division makes no number larger")
                .to_ne_bytes()
        }),
        DataType::I64 => each::<8>(target, |a| {
            (i64::from_ne_bytes(a) / i64::from(small)).to_ne_bytes()
        }),
        DataType::U8 => each::<1>(target, |[a]| {
            [u8::try_from(u32::from(a) / small).expect("division makes no number larger")]
        }),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a count of ranks is exact in f32"
        )]
        DataType::F16 => each::<2>(target, |a| {
            f32_to_f16(f16_to_f32(u16::from_ne_bytes(a)) / float as f32).to_ne_bytes()
        }),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a count of ranks is exact in f32"
        )]
        DataType::Bf16 => each::<2>(target, |a| {
            f32_to_bf16(bf16_to_f32(u16::from_ne_bytes(a)) / float as f32).to_ne_bytes()
        }),
    }
}

fn check(data_type: DataType, target: &[u8], source_length: usize) {
    assert_eq!(
        target.len(),
        source_length,
        "buffers to combine have one length"
    );
    assert_eq!(
        target.len() % data_type.size(),
        0,
        "buffers end at an element"
    );
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn combine_avx2(data_type: DataType, reduction: Reduction, target: &mut [u8], source: &[u8]) {
    combine_with(data_type, reduction, target, source);
}

#[inline(always)]
fn combine_with(data_type: DataType, reduction: Reduction, target: &mut [u8], source: &[u8]) {
    use Reduction::{Avg, Max, Min, Product, Sum};
    macro_rules! number {
        ($type:ty, $size:literal, $sum:expr, $product:expr, $min:expr, $max:expr) => {{
            let convert = <$type>::from_ne_bytes;
            match reduction {
                Sum | Avg => pairs::<$size>(target, source, |a, b| {
                    $sum(convert(a), convert(b)).to_ne_bytes()
                }),
                Product => pairs::<$size>(target, source, |a, b| {
                    $product(convert(a), convert(b)).to_ne_bytes()
                }),
                Min => pairs::<$size>(target, source, |a, b| {
                    $min(convert(a), convert(b)).to_ne_bytes()
                }),
                Max => pairs::<$size>(target, source, |a, b| {
                    $max(convert(a), convert(b)).to_ne_bytes()
                }),
            }
        }};
    }
    macro_rules! half {
        ($widen:ident, $narrow:ident) => {{
            let lift = |f: fn(f32, f32) -> f32| {
                move |a, b| {
                    $narrow(f(
                        $widen(u16::from_ne_bytes(a)),
                        $widen(u16::from_ne_bytes(b)),
                    ))
                    .to_ne_bytes()
                }
            };
            match reduction {
                Sum | Avg => pairs::<2>(target, source, lift(|a, b| a + b)),
                Product => pairs::<2>(target, source, lift(|a, b| a * b)),
                Min => pairs::<2>(target, source, lift(min_f32)),
                Max => pairs::<2>(target, source, lift(max_f32)),
            }
        }};
    }
    match data_type {
        DataType::F32 => number!(f32, 4, |a, b| a + b, |a, b| a * b, min_f32, max_f32),
        DataType::F64 => number!(f64, 8, |a, b| a + b, |a, b| a * b, min_f64, max_f64),
        DataType::I32 => number!(
            i32,
            4,
            i32::wrapping_add,
            i32::wrapping_mul,
            Ord::min,
            Ord::max
        ),
        DataType::I64 => number!(
            i64,
            8,
            i64::wrapping_add,
            i64::wrapping_mul,
            Ord::min,
            Ord::max
        ),
        DataType::U8 => number!(
            u8,
            1,
            u8::wrapping_add,
            u8::wrapping_mul,
            Ord::min,
            Ord::max
        ),
        DataType::F16 => half!(f16_to_f32, f32_to_f16),
        DataType::Bf16 => half!(bf16_to_f32, f32_to_bf16),
    }
}

macro_rules! extremes {
    ($min:ident, $max:ident, $type:ty) => {
        #[inline]
        fn $min(a: $type, b: $type) -> $type {
            if a.is_nan() || b.is_nan() {
                <$type>::NAN
            } else if a < b {
                a
            } else if b < a {
                b
            } else {
                // Equal: the same bits, or zeros of which one may be negative.
                <$type>::from_bits(a.to_bits() | b.to_bits())
            }
        }

        #[inline]
        fn $max(a: $type, b: $type) -> $type {
            if a.is_nan() || b.is_nan() {
                <$type>::NAN
            } else if a > b {
                a
            } else if b > a {
                b
            } else {
                <$type>::from_bits(a.to_bits() & b.to_bits())
            }
        }
    };
}
extremes!(min_f32, max_f32, f32);
extremes!(min_f64, max_f64, f64);

#[inline]
fn pairs<const SIZE: usize>(
    target: &mut [u8],
    source: &[u8],
    f: impl Fn([u8; SIZE], [u8; SIZE]) -> [u8; SIZE],
) {
    let (target, _) = target.as_chunks_mut::<SIZE>();
    let (source, _) = source.as_chunks::<SIZE>();
    for (a, b) in target.iter_mut().zip(source) {
        *a = f(*a, *b);
    }
}

#[inline]
fn each<const SIZE: usize>(target: &mut [u8], f: impl Fn([u8; SIZE]) -> [u8; SIZE]) {
    for a in target.as_chunks_mut::<SIZE>().0 {
        *a = f(*a);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combined<const N: usize>(
        data_type: DataType,
        reduction: Reduction,
        a: [u8; N],
        b: [u8; N],
    ) -> [u8; N] {
        // Both orders, and at an odd address: none of it may matter.
        let mut there = vec![0; N + 1];
        there[1..].copy_from_slice(&a);
        combine(data_type, reduction, &mut there[1..], &b);
        let mut back = b;
        combine(data_type, reduction, &mut back, &a);
        assert_eq!(&there[1..], back);
        back
    }

    #[test]
    fn signed_zeros_and_nan_are_ordered() {
        let f = |reduction, a: f32, b: f32| {
            f32::from_ne_bytes(combined(
                DataType::F32,
                reduction,
                a.to_ne_bytes(),
                b.to_ne_bytes(),
            ))
        };
        assert!(f(Reduction::Min, 0.0, -0.0).is_sign_negative());
        assert!(f(Reduction::Max, 0.0, -0.0).is_sign_positive());
        assert!(f(Reduction::Min, f32::NAN, 1.0).is_nan());
        assert!(f(Reduction::Max, 1.0, f32::NAN).is_nan());
    }

    #[test]
    fn integers_wrap_and_average_rounds_towards_zero() {
        let sum = combined(
            DataType::I32,
            Reduction::Sum,
            i32::MAX.to_ne_bytes(),
            1_i32.to_ne_bytes(),
        );
        assert_eq!(i32::from_ne_bytes(sum), i32::MIN);
        assert_eq!(combined(DataType::U8, Reduction::Product, [16], [17]), [16]);
        let mut average = (-7_i64).to_ne_bytes();
        divide(DataType::I64, &mut average, 2);
        assert_eq!(i64::from_ne_bytes(average), -3);
    }

    #[test]
    fn small_floats_round_after_each_combination() {
        // 1 + 2^-8 is a tie between 1 and 1 + 2^-7 in bfloat16, and goes to the even one.
        let (one, tiny) = (f32_to_bf16(1.0), f32_to_bf16(2f32.powi(-8)));
        let sum = combined(
            DataType::Bf16,
            Reduction::Sum,
            one.to_ne_bytes(),
            tiny.to_ne_bytes(),
        );
        assert_eq!(u16::from_ne_bytes(sum), one);
        let large = f32_to_f16(60000.0);
        let sum = combined(
            DataType::F16,
            Reduction::Sum,
            large.to_ne_bytes(),
            large.to_ne_bytes(),
        );
        assert!(f16_to_f32(u16::from_ne_bytes(sum)).is_infinite());
    }
}
