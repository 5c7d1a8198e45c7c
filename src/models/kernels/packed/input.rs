//! Activations in the form that a kernel takes.

use half::bf16;

use super::product::Norm;
use super::{GROUP, Kind};
use crate::kernels::dot::sum_of_squares;
use crate::kernels::lanes::{Kernel, Lanes, dispatch};
use crate::kernels::pool::share;
use crate::kernels::rows::SharedOutput;

/// Elements that are worth a task.
const TASK_ELEMENTS: usize = 8 * 1024;

/// What activations are turned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputKind {
    /// Left as they are.
    F32,
    /// Rounded.
    Bf16,
    /// Signed bytes with one scale for each row. The bias is −128 times their sum: what `q + 128` adds to a product.
    Int8Rows,
    /// Signed bytes with a scale for each [`GROUP`].
    Int8Groups(GroupBias),
}

/// What goes with each group beside its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupBias {
    /// −128 times the sum of the bytes.
    Times128,
    /// −8 times the sum of the bytes.
    Times8,
    /// The sum of the bytes times the scale, as the bits of an `f32`.
    Sum,
}

impl InputKind {
    fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8Rows | Self::Int8Groups(_) => 1,
        }
    }

    /// Scales of a row of `k`.
    fn num_scales(self, k: usize) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 0,
            Self::Int8Rows => 1,
            Self::Int8Groups(_) => k.div_ceil(GROUP),
        }
    }
}

/// Rows of activations, ready for a kernel. Kept from one product to the next, so that nothing is allocated once it has
/// grown to the largest.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The rows, in words so that any element is aligned.
    words: Vec<u32>,
    scales: Vec<f32>,
    biases: Vec<i32>,
    /// Bytes from one row to the next.
    stride: usize,
    /// Scales of a row.
    num_scales: usize,
}

impl Input {
    /// Takes rows of `k`, through a norm if there is one, for weights of `kind`.
    pub(super) fn fill(&mut self, input: InputKind, kind: Kind, x: &[f32], k: usize, norm: Option<Norm<'_>>) {
        let rows = x.len() / k;
        // Whole steps, and whole groups so that every conversion can write its last one.
        let padded = k.next_multiple_of(kind.step()).next_multiple_of(GROUP);
        let row_words = padded * input.element_bytes() / 4;
        self.stride = row_words * 4;
        self.num_scales = input.num_scales(k);
        grow(&mut self.words, rows * row_words);
        grow(&mut self.scales, rows * self.num_scales);
        grow(&mut self.biases, rows * self.num_scales);
        let num_scales = self.num_scales;
        let words = SharedOutput::new(&mut self.words);
        let scales = SharedOutput::new(&mut self.scales);
        let biases = SharedOutput::new(&mut self.biases);
        share(rows, TASK_ELEMENTS.div_ceil(k), |range| {
            let mut normed = vec![0.0f32; if norm.is_some() { k } else { 0 }];
            for row in range {
                // SAFETY: each row is filled by the one thread that was given it.
                let (words, scales, biases) = unsafe {
                    (
                        words.slice(row * row_words, row_words),
                        scales.slice(row * num_scales, num_scales),
                        biases.slice(row * num_scales, num_scales),
                    )
                };
                let x = &x[row * k..][..k];
                let x = match norm {
                    Some(norm) => {
                        norm.apply(x, &mut normed);
                        &normed[..]
                    }
                    None => x,
                };
                convert(input, x, words, scales, biases);
            }
        });
    }

    /// Where a row begins, from an element on; and how far it is to the next.
    pub(super) fn row(&self, input: InputKind, row: usize, element: usize) -> *const u8 {
        self.words.as_ptr().cast::<u8>().wrapping_add(row * self.stride + element * input.element_bytes())
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Scales and biases of a row, and how far it is to the next.
    pub(super) fn scales(&self, row: usize) -> (*const f32, *const i32, usize) {
        let at = row * self.num_scales;
        (self.scales.as_ptr().wrapping_add(at), self.biases.as_ptr().wrapping_add(at), self.num_scales)
    }
}

fn grow<T: Default + Clone>(of: &mut Vec<T>, len: usize) {
    if of.len() < len {
        of.resize(len, T::default());
    }
}

impl Norm<'_> {
    /// The row, normed.
    fn apply(&self, x: &[f32], out: &mut [f32]) {
        let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + self.epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
            *out = weight * (x * scale);
        }
    }
}

fn convert(input: InputKind, x: &[f32], words: &mut [u32], scales: &mut [f32], biases: &mut [i32]) {
    dispatch(Convert { input, x, words, scales, biases });
}

struct Convert<'a> {
    input: InputKind,
    x: &'a [f32],
    words: &'a mut [u32],
    scales: &'a mut [f32],
    biases: &'a mut [i32],
}

impl Kernel for Convert<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { input, x, words, scales, biases } = self;
        match input {
            InputKind::F32 => {
                let (body, padding) = words.split_at_mut(x.len());
                body.iter_mut().zip(x).for_each(|(word, x)| *word = x.to_bits());
                padding.fill(0);
            }
            InputKind::Bf16 => {
                let (pairs, rest) = x.as_chunks::<2>();
                let (body, padding) = words.split_at_mut(pairs.len());
                for (word, [low, high]) in body.iter_mut().zip(pairs) {
                    *word = round(*low) | round(*high) << 16;
                }
                padding.fill(0);
                if let (Some(word), [last]) = (padding.first_mut(), rest) {
                    *word = round(*last);
                }
            }
            InputKind::Int8Rows => {
                let scale = scale_of(x);
                let mut sum = 0;
                for (index, words) in words.as_chunks_mut().0.iter_mut().enumerate() {
                    sum += quantize(group(x, index, &mut [0.0; GROUP]), scale, words);
                }
                (scales[0], biases[0]) = (scale, -128 * sum);
            }
            InputKind::Int8Groups(bias) => {
                let out = words.as_chunks_mut().0.iter_mut().zip(scales.iter_mut().zip(biases));
                for (index, (words, (scale_out, bias_out))) in out.enumerate() {
                    let mut padded = [0.0; GROUP];
                    let x = group(x, index, &mut padded);
                    let scale = scale_of(x);
                    let sum = quantize(x, scale, words);
                    *scale_out = scale;
                    *bias_out = match bias {
                        GroupBias::Times128 => -128 * sum,
                        GroupBias::Times8 => -8 * sum,
                        GroupBias::Sum => (scale * sum as f32).to_bits() as i32,
                    };
                }
            }
        }
    }
}

/// A group of a row: in place if it is whole, so that its length is known; else put into `padded`, with zeros after it.
#[inline(always)]
fn group<'a>(x: &'a [f32], index: usize, padded: &'a mut [f32; GROUP]) -> &'a [f32; GROUP] {
    let (whole, rest) = x.as_chunks();
    if index < whole.len() {
        return &whole[index];
    }
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// The nearest bf16, of two as near the even one; a NaN stays one.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7FFF).wrapping_add(bits >> 16 & 1)) >> 16;
    if x.is_nan() { u32::from(bf16::NAN.to_bits()) } else { rounded }
}

/// The scale that brings the largest magnitude to 127; not a number if the row has what is not one.
#[inline(always)]
fn scale_of(x: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits, with what is infinite and then what is not a number above all others; and
    // a maximum of whole numbers may be taken in any order, many at once.
    let largest = x.iter().fold(0, |largest: u32, x| largest.max(x.abs().to_bits()));
    if largest < f32::INFINITY.to_bits() { f32::from_bits(largest) / 127.0 } else { f32::NAN }
}

/// What is multiplied by before rounding.
#[inline(always)]
fn inverse_of(scale: f32) -> f32 {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    // Scales below the smallest normal number have no inverse.
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Rounds a group to bytes and returns their sum.
#[inline(always)]
fn quantize(x: &[f32; GROUP], scale: f32, words: &mut [u32; GROUP / 4]) -> i32 {
    let inverse = inverse_of(scale);
    // A loop, since `map` of an array may be compiled as a function without the instruction set; and a sum that wraps, since
    // to look for overflow is to go number by number.
    let (mut bytes, mut sum) = ([0; GROUP], 0i32);
    for (byte, x) in bytes.iter_mut().zip(x) {
        let rounded = to_byte(x * inverse);
        sum = rounded.wrapping_add(sum);
        *byte = rounded as u8;
    }
    // SAFETY: a group of words is as many bytes, and any bytes are words.
    unsafe { words.as_mut_ptr().cast::<[u8; GROUP]>().write(bytes) };
    sum
}

/// The nearest whole number by adding and taking away 1.5 · 2²³: it stays within ±127.
#[inline(always)]
fn to_byte(x: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).clamp(-127, 127)
}
