//! Lanes in the registers of 64-bit Arm. Every such machine has NEON, so nothing has to be enabled for it.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Registers of the lanes.
const REGISTERS: usize = LANES / 4;

/// Lanes 0–3, 4–7, 8–11 and 12–15.
#[derive(Clone, Copy)]
pub(crate) struct Neon([float32x4_t; REGISTERS]);

/// Four bf16, the upper halves of four `f32`.
#[inline(always)]
fn widen_bf16(halves: uint16x4_t) -> float32x4_t {
    // SAFETY: the target has NEON.
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(halves))) }
}

impl Lanes for Neon {
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the target has NEON, here and below.
        unsafe { Self([vdupq_n_f32(0.0); REGISTERS]) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Self([vdupq_n_f32(value); REGISTERS]) }
    }

    #[inline(always)]
    unsafe fn splat_from(from: *const f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { Self([vld1q_dup_f32(from); REGISTERS]) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe {
            Self([
                vld1q_f32(from),
                vld1q_f32(from.wrapping_add(4)),
                vld1q_f32(from.wrapping_add(8)),
                vld1q_f32(from.wrapping_add(12)),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (vld1q_u16(from.cast()), vld1q_u16(from.wrapping_add(8).cast()));
            Self([
                widen_bf16(vget_low_u16(low)),
                widen_bf16(vget_high_u16(low)),
                widen_bf16(vget_low_u16(high)),
                widen_bf16(vget_high_u16(high)),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = vreinterpretq_f16_u16(vld1q_u16(from.cast()));
            let high = vreinterpretq_f16_u16(vld1q_u16(from.wrapping_add(8).cast()));
            Self([
                vcvt_f32_f16(vget_low_f16(low)),
                vcvt_high_f32_f16(low),
                vcvt_f32_f16(vget_low_f16(high)),
                vcvt_high_f32_f16(high),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let bytes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            Self([
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let upper = vdupq_n_u32(0xFFFF_0000);
            let (mut first, mut second) = (Self::zero(), Self::zero());
            for register in 0..REGISTERS {
                let pairs = vld1q_u32(from.wrapping_add(register * 16).cast());
                first.0[register] = vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs));
                second.0[register] = vreinterpretq_f32_u32(vandq_u32(pairs, upper));
            }
            (first, second)
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (register, lanes) in self.0.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_f32(to.wrapping_add(register * 4), lanes) };
        }
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for register in 0..REGISTERS {
            // SAFETY: as above.
            self.0[register] = unsafe { vfmaq_f32(self.0[register], a.0[register], b.0[register]) };
        }
        self
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: as above.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::*;
    use crate::kernels::tests::noise;

    /// The bits of lanes.
    fn bits<L: Lanes>(lanes: L) -> [u32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: sixteen elements; every machine of the target has both kinds of lanes.
        unsafe { lanes.store(out.as_mut_ptr()) };
        out.map(f32::to_bits)
    }

    /// Reads sixteen elements of every type from the same bytes, and computes with them.
    fn all<L: Lanes>(bytes: &[u8; 64]) -> Vec<[u32; LANES]> {
        let from = bytes.as_ptr();
        // SAFETY: sixteen elements of at most four bytes; as above.
        unsafe {
            let (first, second) = L::load_bf16_pairs(from);
            let (low, high) = (L::load_i8(from.cast()), L::load_i8(from.wrapping_add(16).cast()));
            let product = L::splat(0.1).add_product(low, high).add_product(L::splat_from(&0.3), low);
            let sum = L::zero().add_product(L::splat(product.sum()), L::splat(1.0));
            [
                L::load_f32(from.cast()),
                L::load_bf16(from.cast()),
                L::load_f16(from.cast()),
                first,
                second,
                low,
                high,
                product,
                sum,
            ]
            .map(bits)
            .to_vec()
        }
    }

    #[test]
    fn neon_gives_the_bits_of_the_portable_lanes() {
        for seed in 0..200 {
            // Any bits but those of a NaN, of which f16 has a payload that may be kept or not.
            let bytes: Vec<u8> = noise(seed, 64).iter().map(|x| (x * 128.0).floor() as i8 as u8).collect();
            let mut bytes: [u8; 64] = bytes.try_into().unwrap();
            for pair in bytes.as_chunks_mut::<2>().0 {
                if half::f16::from_le_bytes(*pair).is_nan() {
                    pair[1] &= 0x83;
                }
            }
            assert_eq!(all::<Neon>(&bytes), all::<Portable>(&bytes), "{bytes:?}");
        }
    }
}
