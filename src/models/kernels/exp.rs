//! The exponential, in a form that compilers turn into vector code, and the sums built on it.
//!
//! Reduction to 2ⁿ·eʳ with |r| ≤ ln 2 / 2 and a polynomial, as in Cephes' `expf` (Moshier, netlib.org/cephes); within
//! two units in the last place. Multiplications and additions are not fused, so that every instruction set gives the
//! same bits.

use super::lanes::{Kernel, LANES, Lanes, dispatch};

/// e^x; zero below the smallest normal number, and no larger than e^88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it puts the nearest integer into the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons that a NaN fails, so that it goes through.
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { e * power }
}

/// The largest element; −∞ for none. A NaN is passed over.
pub(crate) fn max(x: &[f32]) -> f32 {
    dispatch(Max(x))
}

struct Max<'a>(&'a [f32]);

impl Kernel for Max<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = self.0.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
    }
}

/// Replaces each element by e^(x − shift) and returns their sum, in an order fixed by the length.
pub(crate) fn exp_in_place(x: &mut [f32], shift: f32) -> f32 {
    dispatch(ExpInPlace { x, shift })
}

struct ExpInPlace<'a> {
    x: &'a mut [f32],
    shift: f32,
}

impl Kernel for ExpInPlace<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f32 {
        let mut lanes = [0.0; LANES];
        let mut chunks = self.x.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                *x = exp(*x - self.shift);
                *lane += *x;
            }
        }
        for (x, lane) in chunks.into_remainder().iter_mut().zip(&mut lanes) {
            *x = exp(*x - self.shift);
            *lane += *x;
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        lanes[0]
    }
}

/// ln Σ e^x, for log-probabilities over a vocabulary. Partial sums are added up in double precision.
pub(crate) fn log_sum_exp(x: &[f32]) -> f32 {
    const PART: usize = 512;
    let max = max(x);
    let mut part = [0.0; PART];
    let mut sum = 0.0f64;
    for chunk in x.chunks(PART) {
        let part = &mut part[..chunk.len()];
        part.copy_from_slice(chunk);
        sum += f64::from(exp_in_place(part, max));
    }
    (f64::from(max) + sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::level::tests::on_every_level;
    use crate::kernels::tests::noise;

    #[test]
    fn is_the_exponential() {
        for step in -87_000..88_000 {
            let x = step as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() / exact < 2.5e-7, "e^{x}: {}, not {exact}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_are_right_for_any_length() {
        on_every_level(|| {
            for len in [1, 15, 16, 17, 600, 5000] {
                let x = noise(4, len);
                assert_eq!(max(&x), x.iter().copied().fold(f32::MIN, f32::max));
                let exact = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                assert!((f64::from(log_sum_exp(&x)) - exact).abs() < 1e-5);
            }
        });
    }
}
