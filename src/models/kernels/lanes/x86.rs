//! Lanes in the registers of x86.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Lanes};

/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are enabled here.
    unsafe { kernel.run::<Avx2>() }
}

/// # Safety
/// The machine has AVX-512F and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are enabled here.
    unsafe { kernel.run::<Avx512>() }
}

/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// The sum of eight lanes, halves onto each other.
#[inline(always)]
unsafe fn sum8(eight: __m256) -> f32 {
    // SAFETY: called by the two sets below only, which both have AVX.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

impl Lanes for Avx2 {
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn splat_from(from: *const f32) -> Self {
        // SAFETY: as above; the other lanes are not read.
        unsafe {
            let one = _mm_maskload_ps(from, _mm_setr_epi32(-1, 0, 0, 0));
            let all = _mm256_broadcastss_ps(one);
            Self(all, all)
        }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe {
            let all = _mm256_set1_epi32(-1);
            Self(_mm256_maskload_ps(from, all), _mm256_maskload_ps(from.wrapping_add(8), all))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let widen = |from: *const bf16| {
                let halves = _mm256_cvtepu16_epi32(_mm_maskload_epi32(from.cast(), _mm_set1_epi32(-1)));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            };
            Self(widen(from), widen(from.wrapping_add(8)))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_maskload_epi32(from.cast(), _mm_set1_epi32(-1));
            let widen = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            Self(widen(bytes), widen(_mm_unpackhi_epi64(bytes, bytes)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let all = _mm256_set1_epi32(-1);
            let pairs = [
                _mm256_maskload_epi32(from.cast(), all),
                _mm256_maskload_epi32(from.wrapping_add(32).cast(), all),
            ];
            let first = pairs.map(|pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)));
            let upper = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
            let second = pairs.map(|pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, upper)));
            (Self(first[0], first[1]), Self(second[0], second[1]))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        unsafe {
            let widen =
                |from: *const f16| _mm256_cvtph_ps(_mm_maskload_epi32(from.cast(), _mm_set1_epi32(-1)));
            Self(widen(from), widen(from.wrapping_add(8)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe {
            let all = _mm256_set1_epi32(-1);
            _mm256_maskstore_ps(to, all, self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), all, self.1);
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe { sum8(_mm256_add_ps(self.0, self.1)) }
    }
}

/// One register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

impl Lanes for Avx512 {
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { Self(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn splat_from(from: *const f32) -> Self {
        // SAFETY: as above; the other lanes are not read.
        unsafe { Self(_mm512_broadcastss_ps(_mm_maskz_loadu_ps(1, from))) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_maskz_loadu_epi32(0xF, from.cast());
            Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let pairs = _mm512_maskz_loadu_epi32(0xFFFF, from.cast());
            let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
            (
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))),
                Self(_mm512_castsi512_ps(_mm512_and_si512(pairs, upper))),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_maskz_loadu_ps(0xFFFF, from)) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi32(0xFF, from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_maskz_loadu_epi32(0xFF, from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(to, 0xFFFF, self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let low = _mm512_castps512_ps256(self.0);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0)));
            sum8(_mm256_add_ps(low, high))
        }
    }
}
