//! Formats with a scale for 32 elements: half precision, before the elements.
//!
//! Of two elements that share a byte, the low half is the earlier one, and the other comes sixteen later.

use super::half_at;

/// `scale · (q − 8)`: 16 bits of scale, 32 × 4 bits.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    nibbles(&block[2..], out, |q, _| scale * (f32::from(q) - 8.0));
}

/// `scale · q + minimum`: scale, minimum, 32 × 4 bits.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |q, _| scale * f32::from(q) + minimum);
}

/// `scale · (q − 16)`: scale, 32 fifth bits, 32 × 4 bits.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let fifth = fifth_bits(&block[2..6]);
    nibbles(&block[6..], out, |q, index| scale * (f32::from(q | fifth(index)) - 16.0));
}

/// `scale · q + minimum`: scale, minimum, 32 fifth bits, 32 × 4 bits.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let fifth = fifth_bits(&block[4..8]);
    nibbles(&block[8..], out, |q, index| scale * f32::from(q | fifth(index)) + minimum);
}

/// `scale · q`: scale, 32 × 8 bits.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(*q as i8);
    }
}

/// The values that four bits of the `IQ4` formats stand for.
pub(super) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `scale · table[q]`: scale, 32 × 4 bits.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    nibbles(&block[2..], out, |q, _| scale * f32::from(IQ4_VALUES[usize::from(q)]));
}

/// Sixteen bytes as 32 elements, each of its four bits and its index.
fn nibbles(bytes: &[u8], out: &mut [f32; 32], value: impl Fn(u8, usize) -> f32) {
    for (index, byte) in bytes.iter().enumerate() {
        out[index] = value(byte & 15, index);
        out[index + 16] = value(byte >> 4, index + 16);
    }
}

/// The fifth bit of each element, in its place.
fn fifth_bits(bytes: &[u8]) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    move |index| ((bits >> index & 1) as u8) << 4
}
