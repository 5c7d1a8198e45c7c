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
