//! Kernels for `f32` activations, written once over [`Lanes`]: weights are widened in registers.

use half::f16;

use super::input::InputKind;
use super::tile::{Kernels, Tile, TileFn};
use super::{Kind, PANEL};
#[cfg(target_arch = "aarch64")]
use crate::kernels::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use crate::kernels::lanes::{Avx2, Avx512};
use crate::kernels::lanes::{LANES, Lanes, Portable};

/// Registers of lanes in a panel.
const PARTS: usize = PANEL / LANES;

/// How a step of a panel is read.
trait Format {
    /// Inputs of a step.
    const INPUTS: usize;
    const STEP_BYTES: usize;

    /// The weights of the step's lanes, for each of its inputs.
    ///
    /// # Safety
    /// `step` is valid for a step; `L` is enabled.
    unsafe fn load<L: Lanes>(step: *const u8) -> [[L; PARTS]; 2];
}

struct F32;
struct F16;
struct Bf16;

impl Format for F32 {
    const INPUTS: usize = 1;
    const STEP_BYTES: usize = Kind::F32.step_bytes();

    #[inline(always)]
    unsafe fn load<L: Lanes>(step: *const u8) -> [[L; PARTS]; 2] {
        let step = step.cast::<f32>();
        // SAFETY: the caller's promise.
        let weights = unsafe { [L::load_f32(step), L::load_f32(step.wrapping_add(LANES))] };
        [weights, weights]
    }
}

impl Format for F16 {
    const INPUTS: usize = 1;
    const STEP_BYTES: usize = Kind::F16.step_bytes();

    #[inline(always)]
    unsafe fn load<L: Lanes>(step: *const u8) -> [[L; PARTS]; 2] {
        let step = step.cast::<f16>();
        // SAFETY: the caller's promise.
        let weights = unsafe { [L::load_f16(step), L::load_f16(step.wrapping_add(LANES))] };
        [weights, weights]
    }
}

impl Format for Bf16 {
    const INPUTS: usize = 2;
    const STEP_BYTES: usize = Kind::Bf16.step_bytes();

    #[inline(always)]
    unsafe fn load<L: Lanes>(step: *const u8) -> [[L; PARTS]; 2] {
        // SAFETY: the caller's promise.
        let [(a, b), (c, d)] =
            unsafe { [L::load_bf16_pairs(step), L::load_bf16_pairs(step.wrapping_add(LANES * 4))] };
        [[a, c], [b, d]]
    }
}

/// `R` rows by a panel.
///
/// # Safety
/// As for [`TileFn`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn tile<L: Lanes, F: Format, const R: usize>(tile: &Tile) {
    // SAFETY: the caller's promise; offsets stay within the tile's steps, rows and lanes.
    unsafe {
        let mut sums = [[L::zero(); PARTS]; R];
        if !tile.is_first {
            for r in 0..R {
                for part in 0..PARTS {
                    sums[r][part] = L::load_f32(tile.sums.wrapping_add(r * PANEL + part * LANES));
                }
            }
        }
        let (mut panel, mut x, mut ahead) = (tile.panel, tile.x, tile.ahead);
        for _ in 0..tile.steps {
            ahead.bring_all();
            let weights = F::load::<L>(panel);
            for i in 0..F::INPUTS {
                for r in 0..R {
                    let at = x.wrapping_add(r.wrapping_mul(tile.x_stride)).cast::<f32>().wrapping_add(i);
                    let x = L::splat_from(at);
                    for part in 0..PARTS {
                        sums[r][part] = sums[r][part].add_product(x, weights[i][part]);
                    }
                }
            }
            panel = panel.wrapping_add(F::STEP_BYTES);
            x = x.wrapping_add(F::INPUTS * size_of::<f32>());
        }
        for r in 0..R {
            for part in 0..PARTS {
                sums[r][part].store(tile.sums.wrapping_add(r * PANEL + part * LANES));
            }
        }
    }
}

/// A function for each number of rows, with an instruction set enabled.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($set:ident, $lanes:ty, $format:ty, $features:literal, [$($rows:literal),*]) => {{
        /// # Safety
        /// As for [`TileFn`].
        #[target_feature(enable = $features)]
        unsafe fn $set<const R: usize>(t: &Tile) {
            // SAFETY: the caller's promise; the features are enabled here.
            unsafe { tile::<$lanes, $format, R>(t) }
        }
        const BY_ROWS: &[TileFn] = &[$($set::<$rows>),*];
        BY_ROWS
    }};
}

fn kernels(by_rows: &'static [TileFn]) -> Kernels {
    Kernels { input: InputKind::F32, by_rows, splits: true }
}

/// For any machine.
pub(super) fn portable(kind: Kind) -> Kernels {
    kernels(match kind {
        Kind::F32 => &[tile::<Portable, F32, 1>],
        Kind::F16 => &[tile::<Portable, F16, 1>],
        _ => &[tile::<Portable, Bf16, 1>],
    })
}

/// For NEON.
#[cfg(target_arch = "aarch64")]
pub(super) fn neon(kind: Kind) -> Kernels {
    kernels(match kind {
        Kind::F32 => &[tile::<Neon, F32, 1>, tile::<Neon, F32, 2>, tile::<Neon, F32, 3>],
        Kind::F16 => &[tile::<Neon, F16, 1>, tile::<Neon, F16, 2>, tile::<Neon, F16, 3>],
        // Two steps of weights take half of the registers.
        _ => &[tile::<Neon, Bf16, 1>, tile::<Neon, Bf16, 2>],
    })
}

/// For AVX2 with FMA and F16C.
#[cfg(target_arch = "x86_64")]
pub(super) fn avx2(kind: Kind) -> Kernels {
    kernels(match kind {
        Kind::F32 => by_rows!(f32, Avx2, F32, "avx2,fma,f16c", [1, 2]),
        Kind::F16 => by_rows!(f16, Avx2, F16, "avx2,fma,f16c", [1, 2]),
        _ => by_rows!(bf16, Avx2, Bf16, "avx2,fma,f16c", [1, 2]),
    })
}

/// For AVX-512.
#[cfg(target_arch = "x86_64")]
pub(super) fn avx512(kind: Kind) -> Kernels {
    kernels(match kind {
        Kind::F32 => {
            by_rows!(
                f32,
                Avx512,
                F32,
                "avx512f,avx512vl,avx2,fma,f16c",
                [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
            )
        }
        Kind::F16 => {
            by_rows!(
                f16,
                Avx512,
                F16,
                "avx512f,avx512vl,avx2,fma,f16c",
                [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
            )
        }
        _ => by_rows!(bf16, Avx512, Bf16, "avx512f,avx512vl,avx2,fma,f16c", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    })
}
