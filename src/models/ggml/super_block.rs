//! Formats of 256 elements: a half-precision scale for all, and small scales for each 16 or 32 of them.

use super::half_at;
use super::scale_32::IQ4_VALUES;

/// Scales and minima of 16 elements in 4 bits each, 256 × 2 bits, scale and minimum of all.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (index, out) in out.iter_mut().enumerate() {
        let q = two_bits(quants, index);
        let small = scales[index / 16];
        *out = scale * f32::from(small & 15) * f32::from(q) - minimum * f32::from(small >> 4);
    }
}

/// 256 third bits, 256 × 2 bits, scales of 16 elements in 6 bits each, scale of all.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (third, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    let small = |group: usize| {
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        i16::from(low | high << 4) - 32
    };
    for (index, out) in out.iter_mut().enumerate() {
        // A bit that is not set takes four away.
        let missing = third[index % 32] >> (index / 32) & 1 ^ 1;
        let q = i16::from(two_bits(quants, index)) - i16::from(missing << 2);
        *out = scale * f32::from(small(index / 16)) * f32::from(q);
    }
}

/// Scale and minimum of all, scales and minima of 32 elements in 6 bits each, 256 × 4 bits.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, quants) = (&block[4..16], &block[16..]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (small, least) = scale_and_minimum(scales, group);
        let (small, least) = (scale * small, minimum * least);
        let quants = &quants[group / 2 * 32..][..32];
        for (out, q) in out.iter_mut().zip(quants) {
            *out = small * f32::from(q >> (4 * (group % 2)) & 15) - least;
        }
    }
}

/// The same with 256 fifth bits between scales and elements.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, fifth, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (small, least) = scale_and_minimum(scales, group);
        let (small, least) = (scale * small, minimum * least);
        let quants = &quants[group / 2 * 32..][..32];
        for ((out, q), fifth) in out.iter_mut().zip(quants).zip(fifth) {
            let q = (q >> (4 * (group % 2)) & 15) | (fifth >> group & 1) << 4;
            *out = small * f32::from(q) - least;
        }
    }
}

/// 256 × 4 bits, 256 × 2 more, scales of 16 elements in 8 bits each, scale of all.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (index, out) in out.iter_mut().enumerate() {
        // Each half of the block has 64 bytes of low bits: the low halves of the bytes first.
        let (half, within) = (index / 128, index % 128);
        let low = low[half * 64 + within % 64] >> (4 * (within / 64)) & 15;
        let high = high[half * 32 + within % 32] >> (2 * (within / 32)) & 3;
        let q = i16::from(low | high << 4) - 32;
        *out = scale * f32::from(scales[index / 16] as i8) * f32::from(q);
    }
}

/// Scale of all, scales of 32 elements in 6 bits each, 256 × 4 bits into the table of the `IQ4` formats.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, quants) = (&block[4..8], &block[8..]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let small = (low[group / 2] >> (4 * (group % 2)) & 15) | ((high >> (2 * group) & 3) as u8) << 4;
        let small = scale * f32::from(i16::from(small) - 32);
        for (index, byte) in quants[group * 16..][..16].iter().enumerate() {
            out[index] = small * f32::from(IQ4_VALUES[usize::from(byte & 15)]);
            out[index + 16] = small * f32::from(IQ4_VALUES[usize::from(byte >> 4)]);
        }
    }
}

/// Two bits of an element: 32 bytes hold 128 of them, a quarter in each pair of bits.
fn two_bits(quants: &[u8], index: usize) -> u8 {
    let (half, within) = (index / 128, index % 128);
    quants[half * 32 + within % 32] >> (2 * (within / 32)) & 3
}

/// The 6-bit scale and minimum of 32 elements, of eight each in twelve bytes.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let both = packed[group + 4];
        (both & 15 | packed[group - 4] >> 6 << 4, both >> 4 | packed[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}
