//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the layout of Hugging Face checkpoints: the first
//! half of a head is rotated against the second half.

use super::rows::for_each_row;

/// Rotates each head of each row. `x` and `out` are `(rows, heads × head_dim)`; `cos` and `sin` are
/// `(rows, head_dim / 2)`.
pub(crate) fn rotate(x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize, width: usize, out: &mut [f32]) {
    let half = head_dim / 2;
    for_each_row(out, width, |row, out| {
        let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
        let heads = x[row * width..][..width].chunks_exact(head_dim);
        for (out, head) in out.chunks_exact_mut(head_dim).zip(heads) {
            let (first, second) = head.split_at(half);
            let (out_first, out_second) = out.split_at_mut(half);
            for i in 0..half {
                out_first[i] = first[i] * cos[i] - second[i] * sin[i];
                out_second[i] = second[i] * cos[i] + first[i] * sin[i];
            }
        }
    });
}
