//! The same layers by plain candle (`--kernels reference`): its matrix products, its norms and its softmax over the same
//! weights and the same cache, for people and tests to compare with. Slow, and not bound by the invariant of our kernels:
//! candle chooses another loop for another number of rows, so an answer may depend on what else is computed.

use candle_core::{D, Device, Result, Tensor};

use super::linear::Around;
use super::norm::RmsNorm;
use crate::cache::PagedKv;
use crate::kernels::activation::Activation;
use crate::kernels::attention::{HeadShape, Segment};
use crate::kernels::packed::Packed;

/// The weights that a packed matrix holds, in `f32`: `(outputs, inputs)`.
pub(super) fn unpack(packed: &Packed) -> Result<Tensor> {
    Tensor::from_vec(packed.rows(), (packed.num_out(), packed.num_in()), &Device::Cpu)
}

/// `activation(norm(x) · weightᵀ + bias) + residual`, each where given; a gate's two halves lie one after the other.
pub(super) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&[f32]>,
    gate: Option<Activation>,
    around: Around<'_>,
) -> Result<Tensor> {
    let x = around.norm.map_or(Ok(x.clone()), |norm| rms_norm(x, norm))?;
    let mut y = x.matmul(&weight.t()?)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&Tensor::from_slice(bias, bias.len(), y.device())?)?;
    }
    if let Some(activation) = gate {
        let halves = y.chunk(2, D::Minus1)?;
        y = (activate(&halves[0], activation)? * &halves[1])?;
    }
    around.residual.map_or(Ok(y.clone()), |residual| y + residual)
}

fn rms_norm(x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
    let norm = norm.as_kernel();
    let weight = Tensor::from_slice(norm.weight, norm.weight.len(), x.device())?;
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(norm.epsilon))?.sqrt()?)?.broadcast_mul(&weight)
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::QuickGelu => (x * 1.702)?.silu()? / 1.702,
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Relu2 => x.relu()?.sqr(),
    }
}

/// Attention of `q`, `(rows, heads × head_dim)`, over the cache: the scores of all positions at once, sequence by sequence.
pub(super) fn attend(
    q: &Tensor,
    kv: PagedKv<'_>,
    segments: &[Segment<'_>],
    heads: HeadShape,
    window: Option<usize>,
) -> Result<Tensor> {
    let of_segments: Vec<_> = segments
        .iter()
        .map(|segment| attend_segment(q, kv, segment, heads, window))
        .collect::<Result<_>>()?;
    Tensor::cat(&of_segments, 0)
}

fn attend_segment(
    q: &Tensor,
    kv: PagedKv<'_>,
    segment: &Segment<'_>,
    heads: HeadShape,
    window: Option<usize>,
) -> Result<Tensor> {
    let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
    let (rows, context) = (segment.num_rows, segment.start + segment.num_rows);
    // (kv heads, group × rows, head_dim)
    let q = q
        .narrow(0, segment.first_row, rows)?
        .reshape((rows, num_heads, head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((num_kv_heads, num_heads / num_kv_heads * rows, head_dim))?;
    // (kv heads, context, head_dim)
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in 0..num_kv_heads {
        for position in 0..context {
            let block = segment.block_table[position / kv.block_size].0 as usize;
            kv.read(block, position % kv.block_size, head, &mut keys, &mut values);
        }
    }
    let shape = (num_kv_heads, context, head_dim);
    let (keys, values) =
        (Tensor::from_vec(keys, shape, q.device())?, Tensor::from_vec(values, shape, q.device())?);
    // What a row does not see: what is after it, and what its window has passed.
    let hidden = |row: usize, position: usize| {
        let own = segment.start + row;
        position > own || window.is_some_and(|window| position + window <= own)
    };
    let mask: Vec<f32> = (0..rows)
        .flat_map(|row| (0..context).map(move |at| if hidden(row, at) { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    let mask = Tensor::from_vec(mask, (1, rows, context), q.device())?;
    let scores = (q.matmul(&keys.t()?)? * (1.0 / (head_dim as f64).sqrt()))?;
    let weights = softmax(&scores.reshape((num_heads, rows, context))?.broadcast_add(&mask)?)?;
    weights
        .reshape((num_kv_heads, num_heads / num_kv_heads * rows, context))?
        .matmul(&values)?
        .reshape((num_heads, rows, head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((rows, num_heads * head_dim))
}

/// Over the last dimension.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}
