//! Tiles of dot products: the one reduction that linear layers, norms and attention scores share.

use super::lanes::{Element, Kernel, LANES, Lanes};

/// The dot products of `R` rows of `x` with `C` rows of `w`, each `k` long.
///
/// Each product has sixteen partial sums of its own, in steps of sixteen along `k`, and a last step padded with zeros:
/// the order does not depend on `R` and `C`.
///
/// Loops count and pointers wrap, so that the compiler unrolls the one and checks neither: the sums then live in
/// registers, also in a build with debug assertions.
///
/// # Safety
/// `x` is valid for `R` rows of `k` at distance `x_stride`, `w` for `C` rows of `k` at distance `w_stride`; `L` is
/// enabled.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(crate) unsafe fn tile<L: Lanes, W: Element, const R: usize, const C: usize>(
    x: *const f32,
    x_stride: usize,
    w: *const W,
    w_stride: usize,
    k: usize,
) -> [[f32; C]; R] {
    // SAFETY: the caller's promise; offsets stay below `k` in each row.
    unsafe {
        let mut sums = [[L::zero(); C]; R];
        let (mut x, mut w) = (x, w);
        for _ in 0..k / LANES {
            let mut weights = [L::zero(); C];
            for c in 0..C {
                weights[c] = W::load::<L>(w.wrapping_add(c.wrapping_mul(w_stride)));
            }
            for r in 0..R {
                let input = L::load_f32(x.wrapping_add(r.wrapping_mul(x_stride)));
                for c in 0..C {
                    sums[r][c] = sums[r][c].add_product(input, weights[c]);
                }
            }
            (x, w) = (x.wrapping_add(LANES), w.wrapping_add(LANES));
        }
        let rest = k % LANES;
        if rest > 0 {
            let mut weights = [L::zero(); C];
            for c in 0..C {
                weights[c] = W::load::<L>(padded(w.wrapping_add(c.wrapping_mul(w_stride)), rest).as_ptr());
            }
            for r in 0..R {
                let input = L::load_f32(padded(x.wrapping_add(r.wrapping_mul(x_stride)), rest).as_ptr());
                for c in 0..C {
                    sums[r][c] = sums[r][c].add_product(input, weights[c]);
                }
            }
        }
        let mut out = [[0.0; C]; R];
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum.sum();
            }
        }
        out
    }
}

/// The last elements of a row, with zeros up to sixteen.
///
/// # Safety
/// `from` is valid for `len` elements, and `len` is below sixteen.
#[inline(always)]
unsafe fn padded<W: Element>(from: *const W, len: usize) -> [W; LANES] {
    let mut out = [W::ZERO; LANES];
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), len) };
    out
}

/// The dot product of a row with itself.
pub(crate) fn sum_of_squares(row: &[f32]) -> f32 {
    super::lanes::dispatch(SumOfSquares(row))
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f32 {
        let row = self.0;
        // SAFETY: one row on each side, of the slice's length; `dispatch` enabled `L`.
        unsafe { tile::<L, f32, 1, 1>(row.as_ptr(), 0, row.as_ptr(), 0, row.len())[0][0] }
    }
}
