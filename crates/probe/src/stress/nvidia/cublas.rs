//! Matrix multiplication by the vendor's cuBLAS: what training programs use, so what has to be fast and right.
//!
//! Source: the cuBLAS reference (`cublas_api.h`), versions 11 to 13.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use serde::{Deserialize, Serialize};

use super::driver::{Failure, Gpu, Memory};
use super::library::{functions, open};
use crate::stress::sample::Metric;

type Handle = *mut c_void;

functions! {
    /// Functions of `libcublas.so`.
    Functions {
        create = "cublasCreate_v2"(*mut Handle);
        destroy = "cublasDestroy_v2"(Handle);
        multiply = "cublasGemmEx"(
            Handle, c_int, c_int, c_int, c_int, c_int, *const c_void,
            *const c_void, c_int, c_int, *const c_void, c_int, c_int, *const c_void,
            *mut c_void, c_int, c_int, c_int, c_int
        );
    }
}

/// Which numbers a device multiplies. They are always added in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits, on the ordinary units.
    F32,
    /// 32 bits of which 19 are used, on the matrix units.
    Tf32,
    /// 16 bits with the exponent of 32.
    Bf16,
    /// 16 bits.
    F16,
}

impl Precision {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::F16 => "fp16",
        }
    }

    pub(super) fn metric(self) -> Metric {
        match self {
            Self::F32 => Metric::DeviceGemmF32,
            Self::Tf32 => Metric::DeviceGemmTf32,
            Self::Bf16 => Metric::DeviceGemmBf16,
            Self::F16 => Metric::DeviceGemmF16,
        }
    }

    /// The first generation of devices that has it.
    pub(super) fn needs(self) -> (i32, i32) {
        match self {
            Self::F32 => (3, 0),
            Self::F16 => (5, 3),
            Self::Tf32 | Self::Bf16 => (8, 0),
        }
    }

    pub(super) fn element_bytes(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Writes a whole number between -64 and 64, which all of them hold exactly.
    pub(super) fn encode(self, number: i8, to: &mut Vec<u8>) {
        let wide = f32::from(number).to_bits();
        match self {
            Self::F32 | Self::Tf32 => to.extend(wide.to_le_bytes()),
            // The upper half of the same number.
            Self::Bf16 => to.extend(&wide.to_le_bytes()[2..]),
            Self::F16 => to.extend(half(wide).to_le_bytes()),
        }
    }

    /// `cudaDataType`.
    fn data_type(self) -> c_int {
        match self {
            Self::F32 | Self::Tf32 => 0,
            Self::F16 => 2,
            Self::Bf16 => 14,
        }
    }

    /// `cublasComputeType_t`.
    fn compute_type(self) -> c_int {
        match self {
            Self::Tf32 => 77,
            _ => 68,
        }
    }
}

/// A small whole number from 32 to 16 bits: the exponent moves, nothing is rounded.
fn half(wide: u32) -> u16 {
    let upper = |bits: u32| u16::try_from(bits >> 16).expect("sixteen bits");
    let sign = upper(wide & 0x8000_0000);
    if wide << 1 == 0 {
        return sign;
    }
    // Exponent and fraction lie together in both, three bits farther to the left in the narrow one.
    let moved = (wide & 0x7fff_ffff) - ((127 - 15) << 23);
    sign | upper(moved << 3)
}

/// The library, ready for one device.
pub(super) struct Blas<'a> {
    gpu: &'a Gpu,
    functions: Functions,
    handle: Handle,
}

impl<'a> Blas<'a> {
    pub(super) fn open(gpu: &'a Gpu) -> Result<Self, Failure> {
        let load = || -> Result<Functions, String> {
            let names = [
                "libcublas.so.13",
                "libcublas.so.12",
                "libcublas.so.11",
                "libcublas.so",
            ];
            let library = open(&names).map_err(|why| {
                format!("{why}; install the CUDA toolkit, or start the agent with LD_LIBRARY_PATH set to the folder that has it")
            })?;
            Functions::of(library)
        };
        let functions = load().map_err(|answer| Failure {
            what: "load cuBLAS",
            answer,
            broke: false,
        })?;
        let mut handle = null_mut();
        // SAFETY: writes a handle, which is destroyed in `drop`.
        let status = unsafe { (functions.create)(&raw mut handle) };
        if status != 0 {
            return Err(Failure {
                what: "begin with cuBLAS",
                answer: name(status),
                broke: false,
            });
        }
        Ok(Self {
            gpu,
            functions,
            handle,
        })
    }

    /// Begins `result = left * right`, square matrices in columns; the result is in 32 bits.
    pub(super) fn multiply(
        &self,
        precision: Precision,
        size: usize,
        left: &Memory<'_>,
        right: &Memory<'_>,
        result: &Memory<'_>,
    ) -> Result<(), Failure> {
        let element = precision.element_bytes();
        assert!(
            left.bytes.min(right.bytes) >= size * size * element && result.bytes >= size * size * 4
        );
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (edge, kind) = (
            c_int::try_from(size).expect("a matrix fits"),
            precision.data_type(),
        );
        let pointer = |memory: &Memory<'_>| memory.pointer as *mut c_void;
        // SAFETY: the matrices are as large as said; the factors are read before this returns; the library works for this thread's device.
        let status = unsafe {
            (self.functions.multiply)(
                self.handle,
                0,
                0,
                edge,
                edge,
                edge,
                (&raw const one).cast(),
                pointer(left),
                kind,
                edge,
                pointer(right),
                kind,
                edge,
                (&raw const zero).cast(),
                pointer(result),
                0,
                edge,
                precision.compute_type(),
                -1,
            )
        };
        if status == 0 {
            return Ok(());
        }
        // What the device itself says is worth more than what the library makes of it.
        self.gpu.wait()?;
        Err(Failure {
            what: "multiply matrices",
            answer: name(status),
            broke: status != 15,
        })
    }
}

impl Drop for Blas<'_> {
    fn drop(&mut self) {
        // SAFETY: made in `open`, destroyed once, before its device is left.
        let _ = unsafe { (self.functions.destroy)(self.handle) };
    }
}

/// `cublasStatus_t`.
fn name(status: c_int) -> String {
    let name = match status {
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        _ => return format!("status {status} of cuBLAS"),
    };
    format!("{name} ({status})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_whole_numbers_are_exact_in_every_precision() {
        for number in -64_i8..=64 {
            let encoded = |precision: Precision| {
                let mut bytes = Vec::new();
                precision.encode(number, &mut bytes);
                assert_eq!(bytes.len(), precision.element_bytes());
                bytes
            };
            let wide = encoded(Precision::F32);
            assert_eq!(wide, f32::from(number).to_le_bytes());
            assert_eq!(encoded(Precision::Bf16), wide[2..], "and the rest is zero");
            assert_eq!(wide[..2], [0, 0]);
            let half = encoded(Precision::F16);
            let bits = u16::from_le_bytes([half[0], half[1]]);
            let (exponent, fraction) = (bits >> 10 & 0x1f, bits & 0x3ff);
            let value = if bits << 1 == 0 {
                0.0
            } else {
                (1.0 + f32::from(fraction) / 1024.0) * 2.0_f32.powi(i32::from(exponent) - 15)
            };
            let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
            assert_eq!(
                (sign * value).to_bits() << 1,
                f32::from(number).to_bits() << 1
            );
            assert_eq!(sign < 0.0, number < 0);
        }
    }
}
