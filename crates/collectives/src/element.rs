//! Data types and reductions: what an element is, how large it is, and what "sum" means for it to the last bit.
//!
//! The 16-bit floating-point types are computed in `f32` and rounded to nearest, ties to even, after every single combination. So a
//! result depends on the order of combinations, and the order is part of a schedule (`schedule::order`), never of timing.
//!
//! Minimum and maximum propagate NaN and take -0 as smaller than +0, so that they are commutative to the bit. The payload of a NaN is
//! not specified. Sums and products of integers wrap. `avg` is the sum, divided once at the end; integers round towards zero.

use std::fmt;

/// The type of the elements of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl DataType {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::F32,
        Self::F64,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::F16,
        Self::Bf16,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// The number on the wire and in the C interface.
    pub const fn code(self) -> u8 {
        match self {
            Self::F32 => 0,
            Self::F64 => 1,
            Self::I32 => 2,
            Self::I64 => 3,
            Self::U8 => 4,
            Self::F16 => 5,
            Self::Bf16 => 6,
        }
    }

    /// The type with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.code() == code)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// How contributions are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// `a + b`.
    Sum,
    /// `a * b`.
    Product,
    /// The smaller one; NaN if either is.
    Min,
    /// The larger one; NaN if either is.
    Max,
    /// The sum, divided by the number of ranks.
    Avg,
}

impl Reduction {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Product, Self::Min, Self::Max, Self::Avg];

    /// The number on the wire and in the C interface.
    pub const fn code(self) -> u8 {
        match self {
            Self::Sum => 0,
            Self::Product => 1,
            Self::Min => 2,
            Self::Max => 3,
            Self::Avg => 4,
        }
    }

    /// The reduction with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.code() == code)
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sum => "sum",
            Self::Product => "product",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
        })
    }
}

/// The value of a binary16.
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff);
    // Moves exponent and fraction into place; the multiplication corrects the bias and makes subnormal numbers normal.
    let scaled = f32::from_bits(rest << 13) * f32::from_bits(0x7780_0000);
    let magnitude = if rest >= 0x7c00 {
        (rest << 13) | 0x7f80_0000
    } else {
        scaled.to_bits()
    };
    f32::from_bits(sign | magnitude)
}

/// The nearest binary16, ties to even; overflow is infinite.
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let rest = bits & 0x7fff_ffff;
    let magnitude = if rest > 0x7f80_0000 {
        0x7e00
    } else if rest >= 0x4780_0000 {
        0x7c00
    } else if rest < 0x3880_0000 {
        // Subnormal: adding 0.5 lets the adder round at the right place.
        (f32::from_bits(rest) + 0.5).to_bits() - 0x3f00_0000
    } else {
        (rest + 0xfff + ((rest >> 13) & 1) - 0x3800_0000) >> 13
    };
    low_half(sign | magnitude)
}

/// The value of a bfloat16.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bfloat16, ties to even.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return low_half((bits >> 16) | 0x40);
    }
    low_half((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)
}

fn low_half(bits: u32) -> u16 {
    (bits & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary16_survives_the_way_through_f32() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            if value.is_nan() {
                assert_eq!(bits & 0x7c00, 0x7c00);
                assert!(f16_to_f32(f32_to_f16(value)).is_nan());
                continue;
            }
            assert_eq!(f32_to_f16(value), bits, "{bits:#06x} is {value}");
        }
    }

    #[test]
    fn binary16_values_are_what_the_definition_says() {
        for bits in 0..0x7c00_u16 {
            let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 0x3ff));
            let expected = if exponent == 0 {
                fraction * 2f64.powi(-24)
            } else {
                (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15)
            };
            assert_eq!(f64::from(f16_to_f32(bits)).to_bits(), expected.to_bits());
        }
        assert!(f16_to_f32(0x7c00).is_infinite() && f16_to_f32(0xfc00) < 0.0);
    }

    /// Every `f32` between two neighbours goes to the nearer, the middle to the even one.
    #[test]
    fn rounding_is_to_nearest_even() {
        let mut pairs = 0;
        for low in 0..0x7bff_u16 {
            let (below, above) = (f16_to_f32(low), f16_to_f32(low + 1));
            let middle = f32::midpoint(below, above);
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(f32_to_f16(middle), even);
            assert_eq!(f32_to_f16(middle.next_down()), low);
            assert_eq!(f32_to_f16(middle.next_up()), low + 1);
            pairs += 1;
        }
        assert_eq!(pairs, 0x7bff);
        for low in 0..0x7f7f_u16 {
            let middle = f32::from_bits((u32::from(low) << 16) | 0x8000);
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(f32_to_bf16(middle), even);
            assert_eq!(f32_to_bf16(middle.next_down()), low);
            assert_eq!(f32_to_bf16(middle.next_up()), low + 1);
        }
    }

    #[test]
    fn codes_are_unique() {
        for one in DataType::ALL {
            assert_eq!(DataType::from_code(one.code()), Some(one));
        }
        for one in Reduction::ALL {
            assert_eq!(Reduction::from_code(one.code()), Some(one));
        }
    }
}
