//! Groups of 32 weights that share a scale: those of ggml's blocks, and making them of floats as ggml does.

use half::f16;

use super::pack::Stored;
use super::{GROUP, Kind, PANEL};

/// Weights of a plain ggml block.
pub(super) const QUANTS: usize = 32;
/// Weights of a ggml super-block.
pub(super) const K_QUANTS: usize = 256;
/// Bytes of a Q8_0 block.
pub(super) const Q8_0_BYTES: usize = 34;
/// Bytes of a Q4_0 block.
pub(super) const Q4_0_BYTES: usize = 18;
/// Bytes of a Q4_1 block.
pub(super) const Q4_1_BYTES: usize = 20;
/// Bytes of a Q4_K block.
pub(super) const Q4_K_BYTES: usize = 144;

/// Bytes of a row of blocks.
pub(super) fn row_bytes(k: usize, quants: usize, block_bytes: usize) -> usize {
    assert!(k.is_multiple_of(quants), "rows of {k} are not whole blocks of {quants}");
    k / quants * block_bytes
}

/// 32 weights of one output: `scale · q + offset`, with `q` stored as a panel stores it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    scale: f16,
    offset: f16,
    /// `q + 128` for eight bits, the nibble for four.
    quants: [u8; GROUP],
}

impl Group {
    /// What lanes without an output hold.
    pub(super) fn zero(kind: Kind) -> Self {
        let quant = match kind {
            Kind::Q8 => 128,
            Kind::Q4 => 8,
            _ => 0,
        };
        Self { scale: f16::ZERO, offset: f16::ZERO, quants: [quant; GROUP] }
    }

    /// Rounds 32 floats: as ggml's `quantize_row_q8_0_ref`, `…_q4_0_ref` and `…_q4_1_ref` do.
    pub(super) fn quantize(kind: Kind, x: &[f32]) -> Self {
        let inverse = |scale: f32| if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut group = Self::zero(kind);
        match kind {
            Kind::Q4 => {
                // The weight that is farthest from zero becomes −8.
                let far = x.iter().copied().reduce(|far, x| if x.abs() > far.abs() { x } else { far });
                let scale = far.unwrap_or(0.0) / -8.0;
                group.scale = f16::from_f32(scale);
                let inverse = inverse(scale);
                for (quant, x) in group.quants.iter_mut().zip(x) {
                    *quant = (x * inverse + 8.5).clamp(0.0, 15.0) as u8;
                }
            }
            Kind::Q4Affine => {
                let low = x.iter().copied().fold(f32::INFINITY, f32::min);
                let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let scale = (high - low) / 15.0;
                (group.scale, group.offset) = (f16::from_f32(scale), f16::from_f32(low));
                let inverse = inverse(scale);
                for (quant, x) in group.quants.iter_mut().zip(x) {
                    *quant = ((x - low) * inverse + 0.5).clamp(0.0, 15.0) as u8;
                }
            }
            _ => {
                let (scale, inverse) = int8_scale(x);
                group.scale = f16::from_f32(scale);
                for (quant, x) in group.quants.iter_mut().zip(x) {
                    *quant = to_int8(*x, inverse).wrapping_add(-128) as u8;
                }
            }
        }
        group
    }

    /// Writes the group to its lane of a panel's step.
    pub(super) fn put(&self, kind: Kind, lane: usize, step: &mut [u8]) {
        step[lane * 2..][..2].copy_from_slice(&self.scale.to_le_bytes());
        let quants = match kind {
            Kind::Q4Affine => {
                step[PANEL * 2 + lane * 2..][..2].copy_from_slice(&self.offset.to_le_bytes());
                &mut step[PANEL * 4..]
            }
            _ => &mut step[PANEL * 2..],
        };
        if kind == Kind::Q8 {
            for (out, quants) in quants.chunks_exact_mut(PANEL * 4).zip(self.quants.as_chunks::<4>().0) {
                out[lane * 4..][..4].copy_from_slice(quants);
            }
        } else {
            let (low, high) = self.quants.split_at(16);
            for (i, (low, high)) in low.iter().zip(high).enumerate() {
                quants[i / 4 * PANEL * 4 + lane * 4 + i % 4] = low | high << 4;
            }
        }
    }

    /// The weights of a group that is stored as this kind.
    fn decode(&self, kind: Kind, out: &mut [f32]) {
        let (scale, offset) = (self.scale.to_f32(), self.offset.to_f32());
        for (out, &quant) in out.iter_mut().zip(&self.quants) {
            *out = match kind {
                Kind::Q8 => scale * (f32::from(quant) - 128.0),
                Kind::Q4 => scale * (f32::from(quant) - 8.0),
                _ => scale * f32::from(quant) + offset,
            };
        }
    }
}

/// The scale that brings the largest magnitude to 127, and its inverse; both zero for zeros alone.
pub(super) fn int8_scale(x: &[f32]) -> (f32, f32) {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 { (0.0, 0.0) } else { (largest / 127.0, 127.0 / largest) }
}

/// The nearest of −127 … 127, ties to even. Adding 1.5 · 2²³ leaves no bit for a fraction, which every
/// machine does in one instruction; the baseline of x86-64 has none for rounding.
pub(super) fn to_int8(x: f32, inverse_scale: f32) -> i8 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x * inverse_scale + NO_FRACTION).to_bits() as i8
}

/// The groups of a stored row, where they are the kind's own; `false` if they are not.
pub(super) fn take_row(kind: Kind, stored: Stored<'_>, row: usize, k: usize, out: &mut Vec<Group>) -> bool {
    match (kind, stored) {
        (Kind::Q8, Stored::Q8_0(bytes)) => out.extend(q8_0(row_of(bytes, row, k, QUANTS, Q8_0_BYTES))),
        (Kind::Q4, Stored::Q4_0(bytes)) => out.extend(q4_0(row_of(bytes, row, k, QUANTS, Q4_0_BYTES))),
        (Kind::Q4Affine, Stored::Q4_1(bytes)) => out.extend(q4_1(row_of(bytes, row, k, QUANTS, Q4_1_BYTES))),
        (Kind::Q4Affine, Stored::Q4K(bytes)) => {
            for block in row_of(bytes, row, k, K_QUANTS, Q4_K_BYTES).as_chunks().0 {
                out.extend(q4_k(block));
            }
        }
        _ => return false,
    }
    true
}

/// A stored row of blocks in `f32`.
pub(super) fn decode_row(stored: Stored<'_>, row: usize, out: &mut [f32]) {
    let k = out.len();
    let kind = match stored {
        Stored::Q8_0(_) => Kind::Q8,
        Stored::Q4_0(_) => Kind::Q4,
        _ => Kind::Q4Affine,
    };
    if let Stored::Q4K(bytes) = stored {
        // Scales and offsets are products of two numbers here, and rounded to f16 only where they are packed.
        let blocks = row_of(bytes, row, k, K_QUANTS, Q4_K_BYTES).as_chunks().0;
        for (block, out) in blocks.iter().zip(out.chunks_exact_mut(K_QUANTS)) {
            for (part, out) in q4_k_parts(block).zip(out.chunks_exact_mut(GROUP)) {
                for (out, quant) in out.iter_mut().zip(part.2) {
                    *out = part.0 * f32::from(quant) + part.1;
                }
            }
        }
        return;
    }
    let mut groups = Vec::with_capacity(k / GROUP);
    take_row(kind, stored, row, k, &mut groups);
    groups.iter().zip(out.chunks_exact_mut(GROUP)).for_each(|(group, out)| group.decode(kind, out));
}

fn row_of(bytes: &[u8], row: usize, k: usize, quants: usize, block_bytes: usize) -> &[u8] {
    let len = row_bytes(k, quants, block_bytes);
    &bytes[row * len..][..len]
}

fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn q8_0(row: &[u8]) -> impl Iterator<Item = Group> {
    row.as_chunks::<Q8_0_BYTES>().0.iter().map(|block| Group {
        scale: half(block, 0),
        offset: f16::ZERO,
        quants: std::array::from_fn(|i| block[2 + i] ^ 0x80),
    })
}

fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

fn q4_0(row: &[u8]) -> impl Iterator<Item = Group> {
    row.as_chunks::<Q4_0_BYTES>().0.iter().map(|block| Group {
        scale: half(block, 0),
        offset: f16::ZERO,
        quants: nibbles(&block[2..]),
    })
}

fn q4_1(row: &[u8]) -> impl Iterator<Item = Group> {
    row.as_chunks::<Q4_1_BYTES>().0.iter().map(|block| Group {
        scale: half(block, 0),
        offset: half(block, 2),
        quants: nibbles(&block[4..]),
    })
}

fn q4_k(block: &[u8; Q4_K_BYTES]) -> impl Iterator<Item = Group> {
    q4_k_parts(block).map(|(scale, offset, quants)| Group {
        scale: f16::from_f32(scale),
        offset: f16::from_f32(offset),
        quants,
    })
}

/// Scale, offset and quants of the eight groups of a Q4_K block: `f16 d, f16 dmin, u8 scales[12], u8 quants[128]`.
fn q4_k_parts(block: &[u8; Q4_K_BYTES]) -> impl Iterator<Item = (f32, f32, [u8; GROUP])> {
    let (d, dmin) = (half(block, 0).to_f32(), half(block, 2).to_f32());
    let packed: [u8; 12] = std::array::from_fn(|i| block[4 + i]);
    (0..8).map(move |group| {
        let (scale, min) = q4_k_scale(&packed, group);
        // Two groups share 32 bytes: the first has the low halves.
        let bytes = &block[16 + group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        let quants = std::array::from_fn(|i| bytes[i] >> shift & 15);
        (d * f32::from(scale), -dmin * f32::from(min), quants)
    })
}

/// The six-bit scale and minimum of a group, as ggml's `get_scale_min_k4` has them.
fn q4_k_scale(packed: &[u8; 12], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let (low, high) = (packed[group + 4], (packed[group - 4], packed[group]));
        (low & 15 | high.0 >> 6 << 4, low >> 4 | high.1 >> 6 << 4)
    }
}
