//! Kernels with the dot products of AVX-512: `vdpbf16ps` for bf16, `vpdpbusd` for bytes.
//!
//! A tile's sums live in registers from the first step to the last: twelve rows by two registers where there is one set
//! of sums, six where integer sums of a group and floats of the whole are kept beside each other. What comes next is
//! brought near meanwhile ([`Ahead`](super::tile::Ahead)), so that memory and arithmetic work at the same time: the more rows there are, the
//! fewer steps a core has in flight, and the less it would see of what is to come.
//!
//! Memory is read by the masked instructions with every lane on (see [`lanes`](crate::kernels::lanes)).

use std::arch::x86_64::*;

use super::input::{GroupBias, InputKind};
use super::tile::{Kernels, Tile};
use super::{GROUP, Kind, PANEL};

pub(super) const BF16: Kernels = Kernels {
    input: InputKind::Bf16,
    by_rows: &[
        bf16::<1>, bf16::<2>, bf16::<3>, bf16::<4>, bf16::<5>, bf16::<6>, bf16::<7>, bf16::<8>, bf16::<9>,
        bf16::<10>, bf16::<11>, bf16::<12>,
    ],
    splits: true,
};

pub(super) const INT8: Kernels = Kernels {
    input: InputKind::Int8Rows,
    by_rows: &[
        int8::<1>, int8::<2>, int8::<3>, int8::<4>, int8::<5>, int8::<6>, int8::<7>, int8::<8>, int8::<9>,
        int8::<10>, int8::<11>, int8::<12>,
    ],
    splits: false,
};

pub(super) const Q8: Kernels = Kernels {
    input: InputKind::Int8Groups(GroupBias::Times128),
    by_rows: &[q8::<1>, q8::<2>, q8::<3>, q8::<4>, q8::<5>, q8::<6>],
    splits: false,
};

pub(super) const Q4: Kernels = Kernels {
    input: InputKind::Int8Groups(GroupBias::Times8),
    by_rows: &[
        q4::<1, false>,
        q4::<2, false>,
        q4::<3, false>,
        q4::<4, false>,
        q4::<5, false>,
        q4::<6, false>,
    ],
    splits: false,
};

pub(super) const Q4_AFFINE: Kernels = Kernels {
    input: InputKind::Int8Groups(GroupBias::Sum),
    by_rows: &[q4::<1, true>, q4::<2, true>, q4::<3, true>, q4::<4, true>, q4::<5, true>, q4::<6, true>],
    splits: false,
};

/// 64 bytes from memory.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_epi32(0xFFFF, from.cast()) }
}

/// Four bytes from memory, in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn splat(from: *const u8) -> __m512i {
    // SAFETY: the caller's promise of four bytes: the other lanes are not read.
    unsafe { _mm512_broadcastd_epi32(_mm_maskz_loadu_epi32(1, from.cast())) }
}

/// A scale in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn splat_f32(from: *const f32) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ps(splat(from.cast())) }
}

/// Sixteen `f16`, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn load_f16(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise of 32 bytes.
    unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi32(0xFF, from.cast())) }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16")]
unsafe fn bf16<const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.ahead.lines {
            1 => bf16_steps::<R, 1>(tile),
            _ => bf16_steps::<R, 2>(tile),
        }
    }
}

/// The same, with so many lines to bring near at each step.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16")]
#[allow(clippy::needless_range_loop)]
unsafe fn bf16_steps<const R: usize, const LINES: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes. Vectors of the same size are
    // the same bits whatever their lanes are.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        if !tile.is_first {
            for r in 0..R {
                for half in 0..2 {
                    sums[r][half] =
                        _mm512_castsi512_ps(load(tile.sums.wrapping_add(r * PANEL + half * 16).cast()));
                }
            }
        }
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for _ in 0..tile.steps {
            ahead.bring::<LINES>();
            let first: __m512bh = std::mem::transmute(load(panel));
            let second: __m512bh = std::mem::transmute(load(panel.wrapping_add(64)));
            for r in 0..R {
                let x: __m512bh = std::mem::transmute(splat(x.wrapping_add(r.wrapping_mul(tile.x_stride))));
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], first, x);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], second, x);
            }
            panel = panel.wrapping_add(128);
            x = x.wrapping_add(4);
        }
        store(tile, sums);
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
unsafe fn int8<const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.ahead.lines {
            1 => int8_steps::<R, 1>(tile),
            _ => int8_steps::<R, 2>(tile),
        }
    }
}

/// The same, with so many lines to bring near at each step.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
#[allow(clippy::needless_range_loop)]
unsafe fn int8_steps<const R: usize, const LINES: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut dots = [[_mm512_setzero_si512(); 2]; R];
        for r in 0..R {
            dots[r] = [splat(tile.biases.wrapping_add(r.wrapping_mul(tile.group_stride)).cast()); 2];
        }
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for _ in 0..tile.steps {
            ahead.bring::<LINES>();
            let (first, second) = (load(panel), load(panel.wrapping_add(64)));
            for r in 0..R {
                let x = splat(x.wrapping_add(r.wrapping_mul(tile.x_stride)));
                dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], first, x);
                dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], second, x);
            }
            panel = panel.wrapping_add(128);
            x = x.wrapping_add(4);
        }
        // The scales follow the last step.
        let scales = [_mm512_castsi512_ps(load(panel)), _mm512_castsi512_ps(load(panel.wrapping_add(64)))];
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for r in 0..R {
            let scale = splat_f32(tile.scales.wrapping_add(r.wrapping_mul(tile.group_stride)));
            for half in 0..2 {
                sums[r][half] =
                    _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r][half]), _mm512_mul_ps(scales[half], scale));
            }
        }
        store(tile, sums);
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
#[allow(clippy::needless_range_loop)]
unsafe fn q8<const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for step in 0..tile.steps {
            ahead.bring_all();
            let mut dots = [[_mm512_setzero_si512(); 2]; R];
            for r in 0..R {
                let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                dots[r] = [splat(tile.biases.wrapping_add(at).cast()); 2];
            }
            for i in 0..GROUP / 4 {
                let at = panel.wrapping_add(PANEL * 2 + i * 128);
                let (first, second) = (load(at), load(at.wrapping_add(64)));
                for r in 0..R {
                    let x = splat(x.wrapping_add(r.wrapping_mul(tile.x_stride)).wrapping_add(i * 4));
                    dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], first, x);
                    dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], second, x);
                }
            }
            add_group(tile, step, panel, &dots, &mut sums);
            panel = panel.wrapping_add(Kind::Q8.step_bytes());
            x = x.wrapping_add(GROUP);
        }
        store(tile, sums);
    }
}

/// Four bits, with offsets or without.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
#[allow(clippy::needless_range_loop)]
unsafe fn q4<const R: usize, const AFFINE: bool>(tile: &Tile) {
    let (kind, quants) = if AFFINE { (Kind::Q4Affine, PANEL * 4) } else { (Kind::Q4, PANEL * 2) };
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let low_half = _mm512_set1_epi8(15);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for step in 0..tile.steps {
            ahead.bring_all();
            let mut dots = [[_mm512_setzero_si512(); 2]; R];
            if !AFFINE {
                for r in 0..R {
                    let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                    dots[r] = [splat(tile.biases.wrapping_add(at).cast()); 2];
                }
            }
            for i in 0..GROUP / 8 {
                let at = panel.wrapping_add(quants + i * 128);
                let (first, second) = (load(at), load(at.wrapping_add(64)));
                let low = [_mm512_and_si512(first, low_half), _mm512_and_si512(second, low_half)];
                let high = [
                    _mm512_and_si512(_mm512_srli_epi16::<4>(first), low_half),
                    _mm512_and_si512(_mm512_srli_epi16::<4>(second), low_half),
                ];
                for r in 0..R {
                    let x = x.wrapping_add(r.wrapping_mul(tile.x_stride)).wrapping_add(i * 4);
                    let (x_low, x_high) = (splat(x), splat(x.wrapping_add(16)));
                    for half in 0..2 {
                        dots[r][half] = _mm512_dpbusd_epi32(dots[r][half], low[half], x_low);
                        dots[r][half] = _mm512_dpbusd_epi32(dots[r][half], high[half], x_high);
                    }
                }
            }
            add_group(tile, step, panel, &dots, &mut sums);
            if AFFINE {
                let offsets =
                    [load_f16(panel.wrapping_add(PANEL * 2)), load_f16(panel.wrapping_add(PANEL * 2 + 32))];
                for r in 0..R {
                    let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                    let sum = splat_f32(tile.biases.wrapping_add(at).cast());
                    for half in 0..2 {
                        sums[r][half] = _mm512_fmadd_ps(offsets[half], sum, sums[r][half]);
                    }
                }
            }
            panel = panel.wrapping_add(kind.step_bytes());
            x = x.wrapping_add(GROUP);
        }
        store(tile, sums);
    }
}

/// Adds a group's integer sums, scaled.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn), for a panel that begins a step with scales.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
#[allow(clippy::needless_range_loop)]
unsafe fn add_group<const R: usize>(
    tile: &Tile,
    step: usize,
    panel: *const u8,
    dots: &[[__m512i; 2]; R],
    sums: &mut [[__m512; 2]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = [load_f16(panel), load_f16(panel.wrapping_add(32))];
        for r in 0..R {
            let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
            let scale = splat_f32(tile.scales.wrapping_add(at));
            for half in 0..2 {
                let dot = _mm512_cvtepi32_ps(dots[r][half]);
                sums[r][half] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scales[half], scale), sums[r][half]);
            }
        }
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const R: usize>(tile: &Tile, sums: [[__m512; 2]; R]) {
    for (r, sums) in sums.into_iter().enumerate() {
        for (half, sums) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise of sums for each row.
            unsafe { _mm512_mask_storeu_ps(tile.sums.wrapping_add(r * PANEL + half * 16), 0xFFFF, sums) };
        }
    }
}
