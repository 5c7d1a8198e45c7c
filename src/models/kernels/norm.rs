//! Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467).

use super::dot::sum_of_squares;
use super::rows::for_each_row;

/// `out = weight · x / √(mean(x²) + epsilon)` for each row; `x` and `out` are `(rows, weight.len())`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    for_each_row(out, width, |index, out| {
        let x = &x[index * width..][..width];
        let scale = 1.0 / (sum_of_squares(x) / width as f32 + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = weight * (x * scale);
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::kernels::level::tests::on_every_level;
    use crate::kernels::tests::noise;

    #[test]
    fn agrees_with_candle_on_any_width() {
        on_every_level(|| {
            for (rows, width) in [(1, 1), (3, 15), (7, 64), (40, 900)] {
                let (x, weight) = (noise(1, rows * width), noise(2, width));
                let mut out = vec![0.0; x.len()];
                rms_norm(&x, &weight, 1e-6, &mut out);
                let x = Tensor::from_slice(&x, (rows, width), &Device::Cpu).unwrap();
                let weight = Tensor::from_slice(&weight, width, &Device::Cpu).unwrap();
                let expected = candle_nn::ops::rms_norm_slow(&x, &weight, 1e-6).unwrap();
                let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
                for (found, expected) in out.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-5, "{rows} {width}: {found}, not {expected}");
                }
            }
        });
    }
}
