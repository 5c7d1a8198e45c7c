//! ggml's block formats as numbers (`ggml-quants.c`): some elements in few bits each, with the scales they share.
//!
//! Each format is a function from the bytes of a block to its elements, in the arithmetic of ggml's own reference: what a
//! GGUF file means is what comes out here, whatever the kernels that compute with it do. `scale_32` has the formats with
//! one scale for 32 elements, `super_block` those of 256.

mod scale_32;
mod super_block;
#[cfg(test)]
mod tests;

use candlewick_engine::gguf::TensorType;
use half::{bf16, f16};

/// Writes the elements of whole blocks to `out`. `bytes` are exactly those of `out.len()` elements; `false` if the type
/// is not read.
pub(crate) fn decode(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) -> bool {
    match tensor_type {
        TensorType::F32 => {
            each(bytes, out, |block: &[u8; 4], out: &mut [f32; 1]| *out = [f32::from_le_bytes(*block)])
        }
        TensorType::F16 => each(bytes, out, |block: &[u8; 2], out: &mut [f32; 1]| {
            *out = [f16::from_le_bytes(*block).to_f32()]
        }),
        TensorType::BF16 => each(bytes, out, |block: &[u8; 2], out: &mut [f32; 1]| {
            *out = [bf16::from_le_bytes(*block).to_f32()]
        }),
        TensorType::Q4_0 => each(bytes, out, scale_32::q4_0),
        TensorType::Q4_1 => each(bytes, out, scale_32::q4_1),
        TensorType::Q5_0 => each(bytes, out, scale_32::q5_0),
        TensorType::Q5_1 => each(bytes, out, scale_32::q5_1),
        TensorType::Q8_0 => each(bytes, out, scale_32::q8_0),
        TensorType::IQ4_NL => each(bytes, out, scale_32::iq4_nl),
        TensorType::Q2_K => each(bytes, out, super_block::q2_k),
        TensorType::Q3_K => each(bytes, out, super_block::q3_k),
        TensorType::Q4_K => each(bytes, out, super_block::q4_k),
        TensorType::Q5_K => each(bytes, out, super_block::q5_k),
        TensorType::Q6_K => each(bytes, out, super_block::q6_k),
        TensorType::IQ4_XS => each(bytes, out, super_block::iq4_xs),
        TensorType::Other(_) => return false,
    }
    true
}

/// A block of `B` bytes as `N` elements.
fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let (blocks, torn) = bytes.as_chunks::<B>();
    let (out, rest) = out.as_chunks_mut::<N>();
    assert!(
        blocks.len() == out.len() && torn.is_empty() && rest.is_empty(),
        "the bytes are those of the elements"
    );
    blocks.iter().zip(out).for_each(|(block, out)| decode(block, out));
}

/// The half-precision number at a place of a block.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
