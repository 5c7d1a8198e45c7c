//! Weights packed once at load into the order in which kernels stream them, and their products with activations.
//!
//! # The shape of it
//! A matrix of `n` outputs by `k` inputs is cut into panels of [`PANEL`] outputs. Within a panel the outputs lie side by
//! side for each step along `k`, so that a product reads each panel as one stream and no sum is ever taken across lanes:
//!
//! | kind | a step of a panel | bits a weight |
//! |---|---|---|
//! | [`Kind::F32`], [`Kind::F16`] | `[32]` for each `k` | 32, 16 |
//! | [`Kind::Bf16`] | `[32][2]` for two of `k` | 16 |
//! | [`Kind::Int8`] | `[32][4]` bytes, `q + 128`, for four of `k`; one `f32` scale for each output at the panel's end | 8 |
//! | [`Kind::Q8`] | for 32 of `k`: `[32]` scales in `f16`, then `[8][32][4]` bytes `q + 128` (the content of Q8_0) | 8.5 |
//! | [`Kind::Q4`] | for 32 of `k`: `[32]` scales in `f16`, then `[4][32][4]` bytes: element `4 i + b` in the low half, `16 + 4 i + b` in the high half; weight = scale · (q − 8) (the content of Q4_0) | 4.5 |
//! | [`Kind::Q4Affine`] | the same with `[32]` offsets in `f16` after the scales; weight = scale · q + offset (Q4_1, Q4_K) | 5 |
//!
//! # Making one
//! [`pack`](pack::pack) takes [`Source`](pack::Source)s: matrices over the same inputs whose outputs follow each other
//! (queries, keys and values as one product), or alternate panel by panel ([`Packing::Paired`](pack::Packing), for gate
//! and up). What a source's rows are stored as is [`Stored`](pack::Stored): bytes of a file (F32, F16, BF16, and the
//! blocks of Q8_0, Q4_0, Q4_1, Q4_K, which are moved bit for bit where the kind can hold them), or a function that
//! writes a row in `f32`. Rows are read a panel at a time: there are never two copies of a tensor in anonymous memory.
//!
//! # Multiplying
//! [`Packed::multiply`] chooses the kernel for this machine once. Activations come in `f32` and are turned to what the
//! kernel takes first: as they are, rounded to bf16 (for bf16 weights, unless they are few, where the machine has a bf16 dot product), or to
//! int8 with a scale for each 32 of them or for each row. Norm before and bias, residual or gate after are done on the
//! way. [`Packed::best`] keeps the largest output of each row and writes none.
//!
//! Invariant: each (row, output) is one sum over `k` in ascending order, in steps that only the kind and the machine
//! decide. Neither the number of rows, nor which other rows there are, nor threads, nor the tile a row falls into change
//! a bit of it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod best;
mod blocks;
mod float;
mod input;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod pack;
mod portable;
mod product;
#[cfg(test)]
mod tests;
mod tile;

use half::{bf16, f16};

use super::pages::Region;
pub(crate) use best::BestOutput;
pub(crate) use product::{Epilogue, Norm};

/// Outputs of a panel.
pub(crate) const PANEL: usize = 32;
/// Inputs that share a scale in the kinds that have one for each group.
pub(crate) const GROUP: usize = 32;

/// Weights up to which a matrix lies in the second-level cache. Rounding activations for it would save nothing that is
/// felt, so they stay in `f32`.
pub(crate) const EXACT_MAX: usize = 256 * 1024;

/// What packed weights are kept as; see the [module](self) for the layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// Brain floats.
    Bf16,
    /// 8 bits, one scale for each output.
    Int8,
    /// 8 bits, one scale for 32 inputs.
    Q8,
    /// 4 bits, one scale for 32 inputs.
    Q4,
    /// 4 bits, one scale and one offset for 32 inputs.
    Q4Affine,
}

impl Kind {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] =
        [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Q8, Self::Q4, Self::Q4Affine];

    /// Inputs that one step of a panel covers; a panel's `k` is rounded up to it.
    pub(crate) const fn step(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
            Self::Q8 | Self::Q4 | Self::Q4Affine => GROUP,
        }
    }

    /// Bytes of one step of a panel.
    pub(crate) const fn step_bytes(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::Int8 => PANEL * 4,
            Self::F16 => PANEL * 2,
            Self::Q8 => PANEL * (2 + GROUP),
            Self::Q4 => PANEL * (2 + GROUP / 2),
            Self::Q4Affine => PANEL * (4 + GROUP / 2),
        }
    }

    /// Bytes of a panel of `k` inputs.
    pub(crate) const fn panel_bytes(self, k: usize) -> usize {
        let tail = if matches!(self, Self::Int8) { PANEL * 4 } else { 0 };
        k.div_ceil(self.step()) * self.step_bytes() + tail
    }
}

/// A matrix of `n` outputs by `k` inputs, packed.
#[derive(Debug)]
pub(crate) struct Packed {
    kind: Kind,
    k: usize,
    /// Panels in the order of memory.
    panels: Vec<Panel>,
    /// Outputs of each source, in order.
    outputs: Vec<usize>,
    paired: bool,
    /// Activations are not rounded to bf16 for it.
    exact: bool,
    memory: Region,
}

/// Which outputs a panel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Panel {
    /// The source they come from.
    source: usize,
    /// The first of them, among the source's.
    first: usize,
    /// How many there are; the lanes after them are zero.
    width: usize,
}

impl Packed {
    /// What the weights are kept as.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Inputs.
    pub(crate) fn num_in(&self) -> usize {
        self.k
    }

    /// Outputs of all sources together.
    pub(crate) fn num_out(&self) -> usize {
        self.outputs.iter().sum()
    }

    /// Bytes in memory.
    pub(crate) fn num_bytes(&self) -> usize {
        self.memory.as_slice().len()
    }

    /// The bytes of a panel.
    fn panel(&self, index: usize) -> &[u8] {
        let len = self.kind.panel_bytes(self.k);
        &self.memory.as_slice()[index * len..][..len]
    }

    /// All weights in `f32`, an output after the other: `(outputs, inputs)`.
    pub(crate) fn rows(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.num_out() * self.k];
        for (index, panel) in self.panels.iter().enumerate() {
            let first = self.outputs[..panel.source].iter().sum::<usize>() + panel.first;
            let rows = &mut rows[first * self.k..][..panel.width * self.k];
            for (lane, row) in rows.chunks_exact_mut(self.k).enumerate() {
                unpack_lane(self.kind, self.panel(index), lane, row);
            }
        }
        rows
    }

    /// The weights of one output of the first source, in `f32`: a token's embedding, where a table is the head too.
    ///
    /// # Panics
    /// If there is no such output, or `out` is not as long as there are inputs.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        assert!(output < self.outputs[0] && out.len() == self.k, "an output of {} inputs", self.k);
        let stride = if self.paired { 2 } else { 1 };
        let (panel, lane) = (self.panel(output / PANEL * stride), output % PANEL);
        unpack_lane(self.kind, panel, lane, out);
    }
}

/// Reads one lane of a panel.
fn unpack_lane(kind: Kind, panel: &[u8], lane: usize, out: &mut [f32]) {
    let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
    let single = |at: usize| f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]]);
    let step_bytes = kind.step_bytes();
    match kind {
        Kind::F32 => {
            out.iter_mut().enumerate().for_each(|(k, out)| *out = single(k * step_bytes + lane * 4));
        }
        Kind::F16 => out.iter_mut().enumerate().for_each(|(k, out)| *out = half(k * step_bytes + lane * 2)),
        Kind::Bf16 => {
            for (step, out) in out.chunks_mut(2).enumerate() {
                for (i, out) in out.iter_mut().enumerate() {
                    let at = step * step_bytes + lane * 4 + i * 2;
                    *out = bf16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
                }
            }
        }
        Kind::Int8 => {
            let scale = single(out.len().div_ceil(4) * step_bytes + lane * 4);
            for (step, out) in out.chunks_mut(4).enumerate() {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = scale * (f32::from(panel[step * step_bytes + lane * 4 + i]) - 128.0);
                }
            }
        }
        Kind::Q8 | Kind::Q4 | Kind::Q4Affine => {
            for (step, out) in out.chunks_mut(GROUP).enumerate() {
                let start = step * step_bytes;
                let scale = half(start + lane * 2);
                for (i, out) in out.iter_mut().enumerate() {
                    let byte =
                        |base: usize, i: usize| panel[start + base + i / 4 * (PANEL * 4) + lane * 4 + i % 4];
                    let nibble = |base: usize| {
                        let byte = byte(base, i % 16);
                        f32::from(if i < 16 { byte & 15 } else { byte >> 4 })
                    };
                    *out = match kind {
                        Kind::Q8 => scale * (f32::from(byte(PANEL * 2, i)) - 128.0),
                        Kind::Q4 => scale * (nibble(PANEL * 2) - 8.0),
                        _ => scale * nibble(PANEL * 4) + half(start + PANEL * 2 + lane * 2),
                    };
                }
            }
        }
    }
}
