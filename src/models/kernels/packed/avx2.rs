//! Kernels for int8 activations in 256 bits: with `vpdpbusd` where there is AVX-VNNI, else by the multiply-adds of AVX2.
//!
//! AVX2 multiplies unsigned by signed bytes and adds two products in 16 bits with saturation. Magnitudes of weights by
//! activations that carry the weights' signs stay below it: 2 · 128 · 127 < 2¹⁵. Either way a group's sum is exact.

use std::arch::x86_64::*;

use super::tile::{Kernels, Tile};
use super::{GROUP, Kind, PANEL};

/// Registers of a panel's lanes.
const PARTS: usize = PANEL / 8;

/// The kernels of a kind with AVX2 alone.
pub(super) fn plain(kind: Kind) -> Kernels {
    Kernels::of_bytes(
        kind,
        match kind {
            Kind::Q8 => &[plain_q8::<1>, plain_q8::<2>],
            Kind::Q4 => &[plain_q4::<1, false>, plain_q4::<2, false>],
            Kind::Q4Affine => &[plain_q4::<1, true>, plain_q4::<2, true>],
            _ => &[plain_int8::<1>, plain_int8::<2>],
        },
    )
}

/// The kernels of a kind with AVX-VNNI.
pub(super) fn vnni(kind: Kind) -> Kernels {
    Kernels::of_bytes(
        kind,
        match kind {
            Kind::Q8 => &[vnni_q8::<1>, vnni_q8::<2>],
            Kind::Q4 => &[vnni_q4::<1, false>, vnni_q4::<2, false>],
            Kind::Q4Affine => &[vnni_q4::<1, true>, vnni_q4::<2, true>],
            _ => &[vnni_int8::<1>, vnni_int8::<2>],
        },
    )
}

/// Adds dot products of four bytes.
trait Dot {
    /// Whether bytes are multiplied as they lie, 128 above the weights, so that the input's bias belongs to the sum.
    const BIASED: bool;

    /// Weights as a panel has them, 128 above.
    ///
    /// # Safety
    /// What the type stands for is enabled.
    unsafe fn add_bytes(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i;

    /// Weights of four bits.
    ///
    /// # Safety
    /// As above.
    unsafe fn add_nibbles(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i;
}

struct Plain;
struct Vnni;

impl Dot for Plain {
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn add_bytes(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let signed = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
            _mm256_add_epi32(sums, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn add_nibbles(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let products = _mm256_maddubs_epi16(weights, x);
            _mm256_add_epi32(sums, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
        }
    }
}

impl Dot for Vnni {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn add_bytes(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn add_nibbles(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, weights, x) }
    }
}

/// 32 bytes from memory.
#[inline(always)]
unsafe fn load(from: *const u8) -> __m256i {
    // SAFETY: the caller's promise. Masked, as in `lanes`.
    unsafe { _mm256_maskload_epi32(from.cast(), _mm256_set1_epi32(-1)) }
}

/// Four bytes from memory, in every lane.
#[inline(always)]
unsafe fn splat(from: *const u8) -> __m256i {
    // SAFETY: the caller's promise of four bytes: the other lanes are not read.
    unsafe { _mm256_broadcastd_epi32(_mm_maskload_epi32(from.cast(), _mm_setr_epi32(-1, 0, 0, 0))) }
}

/// Eight `f16`, widened.
#[inline(always)]
unsafe fn load_f16(from: *const u8) -> __m256 {
    // SAFETY: the caller's promise of sixteen bytes.
    unsafe { _mm256_cvtph_ps(_mm_maskload_epi32(from.cast(), _mm_set1_epi32(-1))) }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn), with what `D` stands for.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn int8<D: Dot, const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); PARTS]; R];
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for _ in 0..tile.steps {
            ahead.bring_all();
            for r in 0..R {
                let x = splat(x.wrapping_add(r.wrapping_mul(tile.x_stride)));
                for part in 0..PARTS {
                    dots[r][part] = D::add_bytes(dots[r][part], load(panel.wrapping_add(part * 32)), x);
                }
            }
            panel = panel.wrapping_add(PANEL * 4);
            x = x.wrapping_add(4);
        }
        for r in 0..R {
            let at = r.wrapping_mul(tile.group_stride);
            let scale = _mm256_castsi256_ps(splat(tile.scales.wrapping_add(at).cast()));
            let bias = splat(tile.biases.wrapping_add(at).cast());
            for part in 0..PARTS {
                let dot = if D::BIASED { _mm256_add_epi32(dots[r][part], bias) } else { dots[r][part] };
                // The scales follow the last step.
                let scales = _mm256_castsi256_ps(load(panel.wrapping_add(part * 32)));
                let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scales, scale));
                store(tile, r, part, sum);
            }
        }
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn), with what `D` stands for.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn q8<D: Dot, const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); PARTS]; R];
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for step in 0..tile.steps {
            ahead.bring_all();
            let mut dots = start::<R>(tile, step, D::BIASED);
            for i in 0..GROUP / 4 {
                let at = panel.wrapping_add(PANEL * 2 + i * PANEL * 4);
                for r in 0..R {
                    let x = splat(x.wrapping_add(r.wrapping_mul(tile.x_stride)).wrapping_add(i * 4));
                    for part in 0..PARTS {
                        dots[r][part] = D::add_bytes(dots[r][part], load(at.wrapping_add(part * 32)), x);
                    }
                }
            }
            add_group(tile, step, panel, &dots, &mut sums);
            panel = panel.wrapping_add(Kind::Q8.step_bytes());
            x = x.wrapping_add(GROUP);
        }
        for r in 0..R {
            for part in 0..PARTS {
                store(tile, r, part, sums[r][part]);
            }
        }
    }
}

/// Four bits, with offsets or without.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn), with what `D` stands for.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn q4<D: Dot, const R: usize, const AFFINE: bool>(tile: &Tile) {
    let (kind, quants) = if AFFINE { (Kind::Q4Affine, PANEL * 4) } else { (Kind::Q4, PANEL * 2) };
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let low_half = _mm256_set1_epi8(15);
        let mut sums = [[_mm256_setzero_ps(); PARTS]; R];
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for step in 0..tile.steps {
            ahead.bring_all();
            let mut dots = start::<R>(tile, step, !AFFINE);
            for i in 0..GROUP / 8 {
                let at = panel.wrapping_add(quants + i * PANEL * 4);
                for part in 0..PARTS {
                    let weights = load(at.wrapping_add(part * 32));
                    let low = _mm256_and_si256(weights, low_half);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(weights), low_half);
                    for r in 0..R {
                        let x = x.wrapping_add(r.wrapping_mul(tile.x_stride)).wrapping_add(i * 4);
                        dots[r][part] = D::add_nibbles(dots[r][part], low, splat(x));
                        dots[r][part] = D::add_nibbles(dots[r][part], high, splat(x.wrapping_add(16)));
                    }
                }
            }
            add_group(tile, step, panel, &dots, &mut sums);
            if AFFINE {
                for r in 0..R {
                    let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                    let sum = _mm256_castsi256_ps(splat(tile.biases.wrapping_add(at).cast()));
                    for part in 0..PARTS {
                        let offsets = load_f16(panel.wrapping_add(PANEL * 2 + part * 16));
                        sums[r][part] = _mm256_fmadd_ps(offsets, sum, sums[r][part]);
                    }
                }
            }
            panel = panel.wrapping_add(kind.step_bytes());
            x = x.wrapping_add(GROUP);
        }
        for r in 0..R {
            for part in 0..PARTS {
                store(tile, r, part, sums[r][part]);
            }
        }
    }
}

/// Where the integer sums of a group begin: at the input's bias, if it belongs to them.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn start<const R: usize>(tile: &Tile, step: usize, biased: bool) -> [[__m256i; PARTS]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); PARTS]; R];
        if biased {
            for r in 0..R {
                let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                dots[r] = [splat(tile.biases.wrapping_add(at).cast()); PARTS];
            }
        }
        dots
    }
}

/// Adds a group's integer sums, scaled.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn), for a panel that begins a step with scales.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn add_group<const R: usize>(
    tile: &Tile,
    step: usize,
    panel: *const u8,
    dots: &[[__m256i; PARTS]; R],
    sums: &mut [[__m256; PARTS]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for r in 0..R {
            let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
            let scale = _mm256_castsi256_ps(splat(tile.scales.wrapping_add(at).cast()));
            for part in 0..PARTS {
                let scales = _mm256_mul_ps(load_f16(panel.wrapping_add(part * 16)), scale);
                sums[r][part] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r][part]), scales, sums[r][part]);
            }
        }
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[inline(always)]
unsafe fn store(tile: &Tile, row: usize, part: usize, sums: __m256) {
    // SAFETY: the caller's promise of sums for each row.
    unsafe {
        _mm256_maskstore_ps(tile.sums.wrapping_add(row * PANEL + part * 8), _mm256_set1_epi32(-1), sums);
    }
}

/// A kernel with an instruction set enabled.
macro_rules! enabled {
    ($name:ident, $dot:ty, $features:literal, $body:ident, <$($constant:ident: $type:ty),*>) => {
        /// # Safety
        /// As for [`TileFn`](super::tile::TileFn).
        #[target_feature(enable = $features)]
        unsafe fn $name<$(const $constant: $type),*>(tile: &Tile) {
            // SAFETY: the caller's promise; the features are enabled here.
            unsafe { $body::<$dot, $($constant),*>(tile) }
        }
    };
}

enabled!(plain_int8, Plain, "avx2,fma,f16c", int8, <R: usize>);
enabled!(plain_q8, Plain, "avx2,fma,f16c", q8, <R: usize>);
enabled!(plain_q4, Plain, "avx2,fma,f16c", q4, <R: usize, AFFINE: bool>);
enabled!(vnni_int8, Vnni, "avx2,fma,f16c,avxvnni", int8, <R: usize>);
enabled!(vnni_q8, Vnni, "avx2,fma,f16c,avxvnni", q8, <R: usize>);
enabled!(vnni_q4, Vnni, "avx2,fma,f16c,avxvnni", q4, <R: usize, AFFINE: bool>);
