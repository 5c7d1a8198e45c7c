//! Kernels for int8 activations on any machine, one row at a time. Also what the others are tested against: their
//! integer sums are exact, so only the rounding of the last multiply-adds may differ.

use half::f16;

use super::tile::{Kernels, Tile, TileFn};
use super::{GROUP, Kind, PANEL};

/// The kernels of a kind whose activations are bytes.
pub(super) fn bytes(kind: Kind) -> Kernels {
    let by_rows: &'static [TileFn] = match kind {
        Kind::Q8 => &[q8],
        Kind::Q4 => &[q4],
        Kind::Q4Affine => &[q4_affine],
        _ => &[int8],
    };
    Kernels::of_bytes(kind, by_rows)
}

/// # Safety
/// As for [`TileFn`].
unsafe fn int8(tile: &Tile) {
    // SAFETY: the caller's promise: a panel of `steps` quads and a scale for each lane, a row of as many bytes, one
    // scale and bias, and sums for the lanes.
    unsafe {
        let weights = std::slice::from_raw_parts(tile.panel.cast::<[[u8; 4]; PANEL]>(), tile.steps);
        let x = std::slice::from_raw_parts(tile.x.cast::<[i8; 4]>(), tile.steps);
        let scales = tile.panel.add(tile.steps * PANEL * 4).cast::<[u8; 4]>();
        let mut dots = [*tile.biases; PANEL];
        for (weights, x) in weights.iter().zip(x) {
            add_dots(&mut dots, weights, *x);
        }
        for (lane, dot) in dots.into_iter().enumerate() {
            let scale = f32::from_le_bytes(*scales.add(lane));
            *tile.sums.add(lane) = dot as f32 * (scale * *tile.scales);
        }
    }
}

fn add_dots(dots: &mut [i32; PANEL], weights: &[[u8; 4]; PANEL], x: [i8; 4]) {
    for (dot, weights) in dots.iter_mut().zip(weights) {
        for (weight, x) in weights.iter().zip(x) {
            *dot += i32::from(*weight) * i32::from(x);
        }
    }
}

/// # Safety
/// As for [`TileFn`].
unsafe fn q8(tile: &Tile) {
    // SAFETY: the caller's promise, passed on.
    unsafe { groups(tile, Kind::Q8) }
}

/// # Safety
/// As for [`TileFn`].
unsafe fn q4(tile: &Tile) {
    // SAFETY: the caller's promise, passed on.
    unsafe { groups(tile, Kind::Q4) }
}

/// # Safety
/// As for [`TileFn`].
unsafe fn q4_affine(tile: &Tile) {
    // SAFETY: the caller's promise, passed on.
    unsafe { groups(tile, Kind::Q4Affine) }
}

/// One row by a panel of groups.
///
/// # Safety
/// As for [`TileFn`], for a panel of this kind.
#[inline(always)]
unsafe fn groups(tile: &Tile, kind: Kind) {
    let mut sums = [0.0f32; PANEL];
    for step in 0..tile.steps {
        // SAFETY: the caller's promise: `steps` groups in panel and row, a scale and a bias for each.
        let (group, x, scale, bias) = unsafe {
            (
                std::slice::from_raw_parts(tile.panel.add(step * kind.step_bytes()), kind.step_bytes()),
                std::slice::from_raw_parts(tile.x.cast::<[i8; 4]>().add(step * GROUP / 4), GROUP / 4),
                *tile.scales.add(step),
                *tile.biases.add(step),
            )
        };
        let half = |at: usize| f16::from_le_bytes([group[at], group[at + 1]]).to_f32();
        let mut dots = [if kind == Kind::Q4Affine { 0 } else { bias }; PANEL];
        let quants = &group[PANEL * if kind == Kind::Q4Affine { 4 } else { 2 }..];
        let (quads, _) = quants.as_chunks::<4>();
        for (i, quads) in quads.as_chunks::<PANEL>().0.iter().enumerate() {
            if kind == Kind::Q8 {
                add_dots(&mut dots, quads, x[i]);
            } else {
                add_dots(&mut dots, &quads.map(|quad| quad.map(|byte| byte & 15)), x[i]);
                add_dots(&mut dots, &quads.map(|quad| quad.map(|byte| byte >> 4)), x[i + 4]);
            }
        }
        for (lane, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
            *sum += dot as f32 * (half(lane * 2) * scale);
            if kind == Kind::Q4Affine {
                *sum += half(PANEL * 2 + lane * 2) * f32::from_bits(bias as u32);
            }
        }
    }
    // SAFETY: the caller's promise of sums for the lanes.
    unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), tile.sums, PANEL) };
}
