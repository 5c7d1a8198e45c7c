//! Kernels in 128 bits for bf16 with `bfdot`, and for bytes with `sdot` or, where there is none, the widening
//! multiplications that all NEON has.
//!
//! Four steps of a row come in one register, and the instructions take the step they want from its lanes. A tile of three
//! rows keeps its sums in 24 registers of 32. Where there are sums of the whole beside those of a group, a tile has four
//! rows and takes half of the lanes at a time through a group: the other sums wait in memory.
//!
//! NEON multiplies signed bytes with signed ones: weights of eight bits are taken down by 128 on the way, and the input's
//! bias stays out. Without `sdot` two products meet in 16 bits: 2 · 128 · 127 < 2¹⁵. Either way a group's sum is exact.
//!
//! `sdot` and `bfdot` are assembly, since their intrinsics are not stable.

#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::input::InputKind;
use super::tile::{Kernels, Tile};
use super::{GROUP, Kind, PANEL};

/// Registers of a panel's lanes.
const PARTS: usize = PANEL / 4;
/// Half of them.
const HALF: usize = PARTS / 2;
/// Bytes of a step of four bytes or two bf16 for each lane.
const STEP_BYTES: usize = PANEL * 4;
/// Steps that a row has in a register.
const STEPS: usize = 4;

pub(super) const BF16: Kernels =
    Kernels { input: InputKind::Bf16, by_rows: &[bf16::<1>, bf16::<2>, bf16::<3>], splits: true };

/// The kernels of a kind with NEON alone.
pub(super) fn plain(kind: Kind) -> Kernels {
    Kernels::of_bytes(
        kind,
        match kind {
            Kind::Q8 => &[q8::<Plain, 1>, q8::<Plain, 2>, q8::<Plain, 3>, q8::<Plain, 4>],
            Kind::Q4 => {
                &[q4::<Plain, 1, false>, q4::<Plain, 2, false>, q4::<Plain, 3, false>, q4::<Plain, 4, false>]
            }
            Kind::Q4Affine => {
                &[q4::<Plain, 1, true>, q4::<Plain, 2, true>, q4::<Plain, 3, true>, q4::<Plain, 4, true>]
            }
            _ => &[int8::<Plain, 1>, int8::<Plain, 2>],
        },
    )
}

/// The kernels of a kind with `sdot`.
pub(super) fn dotprod(kind: Kind) -> Kernels {
    Kernels::of_bytes(
        kind,
        match kind {
            Kind::Q8 => &[dotprod_q8::<1>, dotprod_q8::<2>, dotprod_q8::<3>, dotprod_q8::<4>],
            Kind::Q4 => &[
                dotprod_q4::<1, false>,
                dotprod_q4::<2, false>,
                dotprod_q4::<3, false>,
                dotprod_q4::<4, false>,
            ],
            Kind::Q4Affine => {
                &[dotprod_q4::<1, true>, dotprod_q4::<2, true>, dotprod_q4::<3, true>, dotprod_q4::<4, true>]
            }
            _ => &[dotprod_int8::<1>, dotprod_int8::<2>, dotprod_int8::<3>],
        },
    )
}

/// Adds dot products of four bytes.
trait Dot {
    /// To each sum that of its four weights with the four bytes in a lane of `x`.
    ///
    /// # Safety
    /// What the type stands for is enabled.
    unsafe fn add<const LANE: i32>(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t;
}

struct Plain;
struct Dotprod;

impl Dot for Plain {
    #[inline(always)]
    unsafe fn add<const LANE: i32>(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the target has NEON.
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(x)));
            let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
            let high = vmull_high_s8(weights, x);
            vpadalq_s16(sums, vpaddq_s16(low, high))
        }
    }
}

impl Dot for Dotprod {
    #[inline(always)]
    unsafe fn add<const LANE: i32>(mut sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's promise; registers alone are read and written.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.4b[{lane}]",
                sums = inout(vreg) sums,
                weights = in(vreg) weights,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// To each sum the product of its two weights with the two bf16 in a lane of `x`.
///
/// # Safety
/// The machine has bf16.
#[inline(always)]
unsafe fn add_bf16<const LANE: i32>(
    mut sums: float32x4_t,
    weights: uint8x16_t,
    x: uint8x16_t,
) -> float32x4_t {
    // SAFETY: the caller's promise; registers alone are read and written.
    unsafe {
        asm!(
            "bfdot {sums:v}.4s, {weights:v}.8h, {x:v}.2h[{lane}]",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The same address, but what is read from there is read anew: the compiler would keep what it made of the rows for the
/// first lanes until the others come, in registers that there are not.
#[inline(always)]
fn anew(mut x: *const u8) -> *const u8 {
    // SAFETY: it does nothing.
    unsafe { asm!("/* {} */", inout(reg) x, options(readonly, nostack, preserves_flags)) };
    x
}

/// Four steps of each row.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn four_steps<const R: usize>(tile: &Tile, x: *const u8) -> [uint8x16_t; R] {
    // SAFETY: the target has NEON; the caller's promise.
    unsafe {
        let mut rows = [vdupq_n_u8(0); R];
        for r in 0..R {
            rows[r] = vld1q_u8(x.wrapping_add(r.wrapping_mul(tile.x_stride)));
        }
        rows
    }
}

/// One step of each row, in every lane.
///
/// # Safety
/// It is there.
#[inline(always)]
unsafe fn one_step<const R: usize>(tile: &Tile, x: *const u8) -> [uint8x16_t; R] {
    // SAFETY: the target has NEON; the caller's promise.
    unsafe {
        let mut rows = [vdupq_n_u8(0); R];
        for r in 0..R {
            let x = x.wrapping_add(r.wrapping_mul(tile.x_stride));
            rows[r] = vreinterpretq_u8_u32(vld1q_dup_u32(x.cast()));
        }
        rows
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "bf16")]
unsafe fn bf16<const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; the feature is enabled here.
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
#[inline(always)]
unsafe fn bf16_steps<const R: usize, const LINES: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); PARTS]; R];
        if !tile.is_first {
            for r in 0..R {
                for part in 0..PARTS {
                    sums[r][part] = vld1q_f32(tile.sums.wrapping_add(r * PANEL + part * 4));
                }
            }
        }
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for _ in 0..tile.steps / STEPS {
            for _ in 0..STEPS {
                ahead.bring::<LINES>();
            }
            let rows = four_steps::<R>(tile, x);
            add_bf16_step::<R, 0>(&mut sums, panel, &rows);
            add_bf16_step::<R, 1>(&mut sums, panel.wrapping_add(STEP_BYTES), &rows);
            add_bf16_step::<R, 2>(&mut sums, panel.wrapping_add(2 * STEP_BYTES), &rows);
            add_bf16_step::<R, 3>(&mut sums, panel.wrapping_add(3 * STEP_BYTES), &rows);
            (panel, x) = (panel.wrapping_add(STEPS * STEP_BYTES), x.wrapping_add(STEPS * 4));
        }
        for _ in 0..tile.steps % STEPS {
            add_bf16_step::<R, 0>(&mut sums, panel, &one_step(tile, x));
            (panel, x) = (panel.wrapping_add(STEP_BYTES), x.wrapping_add(4));
        }
        store(tile, &sums);
    }
}

/// A step of a panel of bf16 with that in a lane of each row.
///
/// # Safety
/// The panel has it; the machine has bf16.
#[inline(always)]
unsafe fn add_bf16_step<const R: usize, const LANE: i32>(
    sums: &mut [[float32x4_t; PARTS]; R],
    panel: *const u8,
    rows: &[uint8x16_t; R],
) {
    for part in 0..PARTS {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = vld1q_u8(panel.wrapping_add(part * 16));
            for r in 0..R {
                sums[r][part] = add_bf16::<LANE>(sums[r][part], weights, rows[r]);
            }
        }
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn), with what `D` stands for.
#[inline(always)]
unsafe fn int8<D: Dot, const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.ahead.lines {
            1 => int8_steps::<D, R, 1>(tile),
            _ => int8_steps::<D, R, 2>(tile),
        }
    }
}

/// The same, with so many lines to bring near at each step.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn int8_steps<D: Dot, const R: usize, const LINES: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut dots = [[vdupq_n_s32(0); PARTS]; R];
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for _ in 0..tile.steps / STEPS {
            for _ in 0..STEPS {
                ahead.bring::<LINES>();
            }
            add_four_steps::<D, R, PARTS>(&mut dots, panel, &four_steps(tile, x));
            (panel, x) = (panel.wrapping_add(STEPS * STEP_BYTES), x.wrapping_add(STEPS * 4));
        }
        for _ in 0..tile.steps % STEPS {
            add_step::<D, R, PARTS, 0>(&mut dots, panel, &one_step(tile, x));
            (panel, x) = (panel.wrapping_add(STEP_BYTES), x.wrapping_add(4));
        }
        let mut sums = [[vdupq_n_f32(0.0); PARTS]; R];
        for r in 0..R {
            let scale = tile.scales.wrapping_add(r.wrapping_mul(tile.group_stride)).read();
            for part in 0..PARTS {
                // The scales follow the last step.
                let scales = vreinterpretq_f32_u8(vld1q_u8(panel.wrapping_add(part * 16)));
                sums[r][part] = vmulq_f32(vcvtq_f32_s32(dots[r][part]), vmulq_n_f32(scales, scale));
            }
        }
        store(tile, &sums);
    }
}

/// Four steps of a panel's first lanes, or all, in bytes 128 above the weights, with those of each row.
///
/// # Safety
/// The panel has them; what `D` stands for is enabled.
#[inline(always)]
unsafe fn add_four_steps<D: Dot, const R: usize, const N: usize>(
    dots: &mut [[int32x4_t; N]; R],
    panel: *const u8,
    rows: &[uint8x16_t; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        add_step::<D, R, N, 0>(dots, panel, rows);
        add_step::<D, R, N, 1>(dots, panel.wrapping_add(STEP_BYTES), rows);
        add_step::<D, R, N, 2>(dots, panel.wrapping_add(2 * STEP_BYTES), rows);
        add_step::<D, R, N, 3>(dots, panel.wrapping_add(3 * STEP_BYTES), rows);
    }
}

/// A step of a panel's first lanes, or all, in bytes 128 above the weights, with that in a lane of each row.
///
/// # Safety
/// The panel has it; what `D` stands for is enabled.
#[inline(always)]
unsafe fn add_step<D: Dot, const R: usize, const N: usize, const LANE: i32>(
    dots: &mut [[int32x4_t; N]; R],
    panel: *const u8,
    rows: &[uint8x16_t; R],
) {
    for part in 0..N {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = veorq_u8(vld1q_u8(panel.wrapping_add(part * 16)), vdupq_n_u8(128));
            for r in 0..R {
                let (weights, x) = (vreinterpretq_s8_u8(weights), vreinterpretq_s8_u8(rows[r]));
                dots[r][part] = D::add::<LANE>(dots[r][part], weights, x);
            }
        }
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn), with what `D` stands for.
#[inline(always)]
unsafe fn q8<D: Dot, const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        store(tile, &[[vdupq_n_f32(0.0); PARTS]; R]);
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for step in 0..tile.steps {
            ahead.bring_all();
            for half in 0..PARTS / HALF {
                let x = anew(x);
                let (first, second) = (four_steps(tile, x), four_steps(tile, x.wrapping_add(GROUP / 2)));
                let mut dots = [[vdupq_n_s32(0); HALF]; R];
                let quants = panel.wrapping_add(PANEL * 2 + half * HALF * 16);
                add_four_steps::<D, R, HALF>(&mut dots, quants, &first);
                add_four_steps::<D, R, HALF>(&mut dots, quants.wrapping_add(STEPS * STEP_BYTES), &second);
                add_group(tile, step, panel, half, &dots);
            }
            (panel, x) = (panel.wrapping_add(Kind::Q8.step_bytes()), x.wrapping_add(GROUP));
        }
    }
}

/// Four bits, with offsets or without.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn), with what `D` stands for.
#[inline(always)]
unsafe fn q4<D: Dot, const R: usize, const AFFINE: bool>(tile: &Tile) {
    let (kind, quants) = if AFFINE { (Kind::Q4Affine, PANEL * 4) } else { (Kind::Q4, PANEL * 2) };
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        store(tile, &[[vdupq_n_f32(0.0); PARTS]; R]);
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for step in 0..tile.steps {
            ahead.bring_all();
            for half in 0..PARTS / HALF {
                let x = anew(x);
                let (low, high) = (four_steps(tile, x), four_steps(tile, x.wrapping_add(GROUP / 2)));
                let mut dots = [[vdupq_n_s32(0); HALF]; R];
                if !AFFINE {
                    for r in 0..R {
                        let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                        dots[r] = [vld1q_dup_s32(tile.biases.wrapping_add(at)); HALF];
                    }
                }
                let quants = panel.wrapping_add(quants + half * HALF * 16);
                add_nibbles::<D, R, 0>(&mut dots, quants, &low, &high);
                add_nibbles::<D, R, 1>(&mut dots, quants.wrapping_add(STEP_BYTES), &low, &high);
                add_nibbles::<D, R, 2>(&mut dots, quants.wrapping_add(2 * STEP_BYTES), &low, &high);
                add_nibbles::<D, R, 3>(&mut dots, quants.wrapping_add(3 * STEP_BYTES), &low, &high);
                add_group(tile, step, panel, half, &dots);
            }
            if AFFINE {
                add_offsets::<R>(tile, step, panel.wrapping_add(PANEL * 2));
            }
            (panel, x) = (panel.wrapping_add(kind.step_bytes()), x.wrapping_add(GROUP));
        }
    }
}

/// Two steps of half a panel in the halves of its bytes, each with that in a lane of each row.
///
/// # Safety
/// The panel has them; what `D` stands for is enabled.
#[inline(always)]
unsafe fn add_nibbles<D: Dot, const R: usize, const LANE: i32>(
    dots: &mut [[int32x4_t; HALF]; R],
    panel: *const u8,
    low_rows: &[uint8x16_t; R],
    high_rows: &[uint8x16_t; R],
) {
    for part in 0..HALF {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = vld1q_u8(panel.wrapping_add(part * 16));
            let low = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
            let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes));
            for r in 0..R {
                let dot = D::add::<LANE>(dots[r][part], low, vreinterpretq_s8_u8(low_rows[r]));
                dots[r][part] = D::add::<LANE>(dot, high, vreinterpretq_s8_u8(high_rows[r]));
            }
        }
    }
}

/// Adds half a group's integer sums, scaled, to the tile's.
///
/// # Safety
/// As for [`TileFn`](super::tile::TileFn), for a panel that begins a step with scales, and for sums that there are already.
#[inline(always)]
unsafe fn add_group<const R: usize>(
    tile: &Tile,
    step: usize,
    panel: *const u8,
    half: usize,
    dots: &[[int32x4_t; HALF]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for part in 0..HALF {
            let lane = (half * HALF + part) * 4;
            let scales = load_f16(panel.wrapping_add(lane * 2));
            for r in 0..R {
                let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                let scales = vmulq_n_f32(scales, tile.scales.wrapping_add(at).read());
                let sums = tile.sums.wrapping_add(r * PANEL + lane);
                vst1q_f32(sums, vfmaq_f32(vld1q_f32(sums), vcvtq_f32_s32(dots[r][part]), scales));
            }
        }
    }
}

/// Adds a group's offsets, times the sums of the inputs, to the tile's sums.
///
/// # Safety
/// As for [`add_group`]; `offsets` is valid for those of a step.
#[inline(always)]
unsafe fn add_offsets<const R: usize>(tile: &Tile, step: usize, offsets: *const u8) {
    // SAFETY: the caller's promise.
    unsafe {
        for part in 0..PARTS {
            let offsets = load_f16(offsets.wrapping_add(part * 8));
            for r in 0..R {
                let at = step.wrapping_add(r.wrapping_mul(tile.group_stride));
                let input = tile.biases.wrapping_add(at).cast::<f32>().read();
                let sums = tile.sums.wrapping_add(r * PANEL + part * 4);
                vst1q_f32(sums, vfmaq_n_f32(vld1q_f32(sums), offsets, input));
            }
        }
    }
}

/// Four `f16`, widened.
#[inline(always)]
unsafe fn load_f16(from: *const u8) -> float32x4_t {
    // SAFETY: the caller's promise of eight bytes.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))) }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[inline(always)]
unsafe fn store<const R: usize>(tile: &Tile, sums: &[[float32x4_t; PARTS]; R]) {
    for (r, sums) in sums.iter().enumerate() {
        for (part, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise of sums for each row.
            unsafe { vst1q_f32(tile.sums.wrapping_add(r * PANEL + part * 4), *sums) };
        }
    }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "dotprod")]
unsafe fn dotprod_int8<const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; the feature is enabled here.
    unsafe { int8::<Dotprod, R>(tile) }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "dotprod")]
unsafe fn dotprod_q8<const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; the feature is enabled here.
    unsafe { q8::<Dotprod, R>(tile) }
}

/// # Safety
/// As for [`TileFn`](super::tile::TileFn).
#[target_feature(enable = "dotprod")]
unsafe fn dotprod_q4<const R: usize, const AFFINE: bool>(tile: &Tile) {
    // SAFETY: the caller's promise; the feature is enabled here.
    unsafe { q4::<Dotprod, R, AFFINE>(tile) }
}
