//! Layer norm (Ba, Kiros and Hinton 2016, arXiv:1607.06450).

use super::lanes::{Kernel, LANES, Lanes, dispatch};
use super::rows::for_each_row;

/// `out = weight · (x − mean) / √(variance + epsilon) + bias` for each row; `x` and `out` are `(rows, weight.len())`.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    for_each_row(out, width, |index, out| {
        dispatch(Row { x: &x[index * width..][..width], weight, bias, epsilon, out });
    });
}

struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { x, weight, bias, epsilon, out } = self;
        let mean = sum(x, |x| x) / x.len() as f32;
        // The mean first and then the squares: what they differ by would be lost in the squares of large means.
        let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (x - mean) * scale * weight;
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    }
}

/// A sum in sixteen parts, in an order fixed by the length.
#[inline(always)]
fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += term(x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane += term(x));
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::kernels::tests::noise;

    #[test]
    fn agrees_with_candle_on_any_width() {
        for (rows, width) in [(1, 3), (3, 15), (7, 64), (40, 900)] {
            let (weight, bias) = (noise(2, width), noise(3, width));
            let x: Vec<f32> = noise(1, rows * width).iter().map(|x| x + 5.0).collect();
            let tensor = |x: &[f32], shape: &[usize]| Tensor::from_slice(x, shape, &Device::Cpu).unwrap();
            for bias in [None, Some(&bias[..])] {
                let mut out = vec![0.0; x.len()];
                layer_norm(&x, &weight, bias, 1e-12, &mut out);
                let zeros = vec![0.0; width];
                let expected = candle_nn::ops::layer_norm_slow(
                    &tensor(&x, &[rows, width]),
                    &tensor(&weight, &[width]),
                    &tensor(bias.unwrap_or(&zeros), &[width]),
                    1e-12,
                );
                let expected: Vec<f32> = expected.unwrap().flatten_all().unwrap().to_vec1().unwrap();
                for (found, expected) in out.iter().zip(expected) {
                    assert!((found - expected).abs() < 2e-5, "{rows} {width}: {found}, not {expected}");
                }
            }
        }
    }
}
