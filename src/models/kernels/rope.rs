//! What lies between the projections to queries, keys and values and the attention: norms of heads, rotary position
//! embedding (Su et al. 2021, arXiv:2104.09864), and the way into the cache, in one pass.
//!
//! The rotation is in the layout of Hugging Face checkpoints: the first half of a head is rotated against the second.

use super::attention::{HeadShape, Segment};
use super::dot::sum_of_squares;
use super::kv::KvWriter;
use super::packed::Norm;
use super::pool::share;
use super::rows::SharedOutput;

/// Elements that are worth a task.
const TASK_ELEMENTS: usize = 8 * 1024;

/// Cosines and sines of a batch, each `(rows, head_dim / 2)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotation<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
}

/// What is done to heads on the way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeadOptions<'a> {
    /// Norm of each query head.
    pub(crate) q_norm: Option<Norm<'a>>,
    /// Norm of each key head.
    pub(crate) k_norm: Option<Norm<'a>>,
    /// Rotation of queries and keys.
    pub(crate) rotation: Option<Rotation<'a>>,
}

/// Takes `qkv`, rows of all query, key and value heads: queries go to `q`, `(rows, heads × head_dim)`, keys and values to
/// the cache.
pub(crate) fn place(
    qkv: &[f32],
    segments: &[Segment<'_>],
    heads: HeadShape,
    options: HeadOptions<'_>,
    cache: KvWriter<'_>,
    block_size: usize,
    q: &mut [f32],
) {
    let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
    let (q_width, kv_width) = (num_heads * head_dim, num_kv_heads * head_dim);
    let width = q_width + 2 * kv_width;
    let q = SharedOutput::new(q);
    for segment in segments {
        share(segment.num_rows, TASK_ELEMENTS.div_ceil(width), |tokens| {
            let mut keys = vec![0.0; kv_width];
            for token in tokens {
                let row = segment.first_row + token;
                let (queries_in, rest) = qkv[row * width..][..width].split_at(q_width);
                let (keys_in, values) = rest.split_at(kv_width);
                // SAFETY: each row is filled by the one thread that was given it.
                let queries = unsafe { q.slice(row * q_width, q_width) };
                head_by_head(queries_in, head_dim, row, options.q_norm, options.rotation, queries);
                head_by_head(keys_in, head_dim, row, options.k_norm, options.rotation, &mut keys);
                let position = segment.start + token;
                let block = segment.block_table[position / block_size].0 as usize;
                // SAFETY: a token has a slot of its own, and a plan in which two sequences write one block is refused.
                unsafe { cache.write_shared(block, position % block_size, &keys, values) };
            }
        });
    }
}

/// Norm and rotation of each head of a row.
fn head_by_head(
    x: &[f32],
    head_dim: usize,
    row: usize,
    norm: Option<Norm<'_>>,
    rotation: Option<Rotation<'_>>,
    out: &mut [f32],
) {
    out.copy_from_slice(x);
    for head in out.chunks_exact_mut(head_dim) {
        if let Some(norm) = norm {
            let scale = 1.0 / (sum_of_squares(head) / head_dim as f32 + norm.epsilon).sqrt();
            head.iter_mut().zip(norm.weight).for_each(|(x, weight)| *x = weight * (*x * scale));
        }
        if let Some(Rotation { cos, sin }) = rotation {
            let half = head_dim / 2;
            let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
            let (first, second) = head.split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
