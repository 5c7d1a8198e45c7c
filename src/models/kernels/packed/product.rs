//! The product of a packed matrix with rows of activations, and what is done to its outputs on the way to memory.

use std::cell::Cell;
use std::ops::Range;

use super::best::{Best, BestOutput};
use super::input::Input;
use super::tile::{Ahead, Kernels, LINE, Tile};
use super::{PANEL, Packed};
use crate::kernels::activation::Activation;
use crate::kernels::lanes::{Kernel, Lanes, dispatch};
use crate::kernels::level::Level;
use crate::kernels::pool::share;
use crate::kernels::rows::SharedOutput;

/// Multiply-adds that are worth a task.
const TASK_PRODUCTS_MIN: usize = 64 * 1024;
/// Bytes of a panel that stay in the first-level cache's reach while rows pass over them; longer panels are taken in
/// parts when there are rows enough.
const PART_BYTES: usize = 96 * 1024;
/// Rows from which on it pays to take panels in parts.
const PARTS_ROWS_MIN: usize = 48;
/// How far ahead of itself a tile reads that is alone on its panel. A core takes in 25 to 40 bytes a nanosecond, and the
/// memory takes 100 to 150 to answer.
const AHEAD_BYTES: usize = 6 * 1024;
/// The largest tile of any kernel.
const TILE_ROWS_MAX: usize = 16;

/// A root-mean-square norm of the inputs, before the product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    /// One for each input.
    pub(crate) weight: &'a [f32],
    /// Added to the mean square.
    pub(crate) epsilon: f32,
}

/// What becomes of the sums.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added to each output: of all sources, in order.
    pub(crate) bias: Option<&'a [f32]>,
    /// Added to the result: `(rows, outputs)`, a residual connection.
    pub(crate) residual: Option<&'a [f32]>,
    /// `activation(first) · second`, for matrices that were packed in pairs; they give half as many outputs.
    pub(crate) gate: Option<Activation>,
}

thread_local! {
    /// The inputs of a thread's last product.
    static INPUT: Cell<Input> = Cell::default();
    /// The sums of a thread's panel that is taken in parts.
    static SUMS: Cell<Vec<f32>> = Cell::default();
}

impl Packed {
    /// `out = epilogue(norm(x) · weightᵀ)`, with `x` of `(rows, inputs)` and `out` of `(rows, outputs)`.
    ///
    /// # Panics
    /// If shapes do not agree.
    pub(crate) fn multiply(
        &self,
        x: &[f32],
        norm: Option<Norm<'_>>,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) {
        self.multiply_on(Level::chosen(), x, norm, epilogue, out);
    }

    pub(super) fn multiply_on(
        &self,
        level: Level,
        x: &[f32],
        norm: Option<Norm<'_>>,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) {
        let rows = x.len() / self.num_in();
        assert!(self.paired == epilogue.gate.is_some(), "pairs are gated, and nothing else is");
        let width = if self.paired { self.outputs[0] } else { self.num_out() };
        assert!(out.len() == rows * width, "shapes of a product agree");
        let (residual, len) = (epilogue.residual, out.len());
        assert!(
            residual.is_none_or(|residual| residual.len() == len),
            "a residual is as large as the result"
        );
        self.compute(level, x, norm, epilogue, width, Sink::Memory(SharedOutput::new(out)));
    }

    /// The largest output of each row of `norm(x) · weightᵀ + bias`, of equals the first: which, and what it is. `None` for
    /// a row with an output that is no number. Bits are those of [`multiply`](Self::multiply).
    ///
    /// # Panics
    /// If shapes do not agree, or outputs are gated in pairs.
    pub(crate) fn best(&self, x: &[f32], norm: Option<Norm<'_>>, bias: Option<&[f32]>) -> Vec<BestOutput> {
        self.best_on(Level::chosen(), x, norm, bias)
    }

    pub(super) fn best_on(
        &self,
        level: Level,
        x: &[f32],
        norm: Option<Norm<'_>>,
        bias: Option<&[f32]>,
    ) -> Vec<BestOutput> {
        assert!(!self.paired, "pairs are gated");
        let mut best = Vec::new();
        best.resize_with(x.len() / self.num_in(), Best::default);
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        self.compute(level, x, norm, epilogue, self.num_out(), Sink::Best(&best));
        best.into_iter().map(Best::into_output).collect()
    }

    /// A product into a sink, for rows of `width` outputs.
    fn compute(
        &self,
        level: Level,
        x: &[f32],
        norm: Option<Norm<'_>>,
        epilogue: Epilogue<'_>,
        width: usize,
        sink: Sink<'_>,
    ) {
        let k = self.num_in();
        let rows = x.len() / k;
        assert!(x.len() == rows * k, "inputs are whole rows");
        assert!(norm.is_none_or(|norm| norm.weight.len() == k), "a norm has one weight for each input");
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == self.num_out()), "one bias for each output");
        if rows == 0 || width == 0 {
            return;
        }
        let kernels = if self.exact { level.without_rounding() } else { level }.kernels(self.kind);
        let mut input = INPUT.take();
        input.fill(kernels.input, self.kind, x, k, norm);
        let product = Product { packed: self, kernels, input: &input, rows, width, epilogue, sink };
        let at_once = if self.paired { 2 } else { 1 };
        let min = TASK_PRODUCTS_MIN.div_ceil(rows * k * PANEL * at_once);
        share(self.panels.len() / at_once, min, |range| product.panels(range));
        INPUT.set(input);
    }
}

/// Where outputs go.
enum Sink<'a> {
    /// To memory, `(rows, width)`.
    Memory(SharedOutput<'a>),
    /// Nowhere: the largest of each row is kept.
    Best(&'a [Best]),
}

/// A product under way.
struct Product<'a> {
    packed: &'a Packed,
    kernels: Kernels,
    input: &'a Input,
    rows: usize,
    /// Outputs of a row.
    width: usize,
    epilogue: Epilogue<'a>,
    sink: Sink<'a>,
}

impl Product<'_> {
    /// All rows by some panels, or pairs of panels.
    fn panels(&self, range: Range<usize>) {
        let kind = self.packed.kind;
        let steps = self.packed.k.div_ceil(kind.step());
        let part = (PART_BYTES / kind.step_bytes()).max(1);
        let in_parts = self.kernels.splits && self.rows >= PARTS_ROWS_MIN && steps > part;
        for index in range {
            if in_parts {
                self.in_parts(index, steps, steps.div_ceil(steps.div_ceil(part)));
            } else {
                self.whole(index, steps);
            }
        }
    }

    /// Panels that are computed together: the two of a pair, or one.
    fn together(&self, index: usize) -> Range<usize> {
        if self.packed.paired { index * 2..index * 2 + 2 } else { index..index + 1 }
    }

    /// All rows by a panel, tile after tile.
    fn whole(&self, index: usize, steps: usize) {
        let mut sums = [[0.0; TILE_ROWS_MAX * PANEL]; 2];
        for rows in self.tiles() {
            for (panel, sums) in self.together(index).zip(&mut sums) {
                self.tile(panel, rows.clone(), 0..steps, sums.as_mut_ptr());
            }
            let [first, second] = &sums;
            self.finish(index, rows, first, second);
        }
    }

    /// All rows by a part of a panel, then all rows by the next: the part stays in the cache. The sums wait in memory,
    /// which changes nothing about them.
    fn in_parts(&self, index: usize, steps: usize, part: usize) {
        let mut sums = SUMS.take();
        let of_panel = self.rows * PANEL;
        sums.resize(sums.len().max(2 * of_panel), 0.0);
        for (panel, sums) in self.together(index).zip(sums.chunks_exact_mut(of_panel)) {
            for first in (0..steps).step_by(part) {
                for rows in self.tiles() {
                    let sums = sums[rows.start * PANEL..].as_mut_ptr();
                    self.tile(panel, rows, first..(first + part).min(steps), sums);
                }
            }
        }
        for rows in self.tiles() {
            let of_rows = rows.start * PANEL..rows.end * PANEL;
            let (first, second) = (&sums[of_rows.clone()], &sums[of_panel..][of_rows]);
            self.finish(index, rows, first, second);
        }
        SUMS.set(sums);
    }

    /// The rows cut into tiles of about the same size.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let (rows, most) = (self.rows, self.kernels.by_rows.len());
        let num = rows.div_ceil(most);
        (0..num).map(move |tile| rows * tile / num..rows * (tile + 1) / num)
    }

    fn tile(&self, panel: usize, rows: Range<usize>, steps: Range<usize>, sums: *mut f32) {
        let kind = self.packed.kind;
        let (scales, biases, group_stride) = self.input.scales(rows.start);
        let bytes = &self.packed.panel(panel)[steps.start * kind.step_bytes()..];
        let tile = Tile {
            panel: bytes.as_ptr(),
            x: self.input.row(self.kernels.input, rows.start, steps.start * kind.step()),
            x_stride: self.input.stride(),
            scales,
            biases,
            group_stride,
            steps: steps.len(),
            sums,
            is_first: steps.start == 0,
            ahead: self.ahead(bytes.as_ptr(), rows.start, steps),
        };
        // SAFETY: the kernel is one of this machine's level; panel, input and sums were made for these rows and steps.
        unsafe { self.kernels.by_rows[rows.len() - 1](&tile) };
    }

    /// What a tile brings near. Alone on its panel, what it comes to soon itself; where several pass over it, each its share
    /// of what comes next in memory, so that the next panel arrives while this one is multiplied.
    fn ahead(&self, panel: *const u8, first_row: usize, steps: Range<usize>) -> Ahead {
        let kind = self.packed.kind;
        let num_tiles = self.rows.div_ceil(self.kernels.by_rows.len());
        let stride = kind.step_bytes() / num_tiles;
        let lines = stride.div_ceil(LINE);
        if num_tiles == 1 {
            return Ahead { at: panel.wrapping_add(AHEAD_BYTES), lines, stride };
        }
        let len = steps.len() * kind.step_bytes();
        let whole = kind.panel_bytes(self.packed.k);
        // The next part of this panel, or the panel after it (after its pair).
        let is_last = steps.end == self.packed.k.div_ceil(kind.step());
        let next = match (steps.start, is_last) {
            (0, true) => whole * if self.packed.paired { 2 } else { 1 },
            (_, false) => len,
            (before, true) => whole - before * kind.step_bytes(),
        };
        Ahead { at: panel.wrapping_add(next + len * first_row / self.rows), lines, stride }
    }

    /// From sums to the output, for some rows and a panel or pair.
    fn finish(&self, index: usize, rows: Range<usize>, first: &[f32], second: &[f32]) {
        let panel = self.packed.panels[self.together(index).start];
        let column = self.packed.outputs[..panel.source].iter().sum::<usize>() + panel.first;
        for (row, (first, second)) in
            rows.zip(first.as_chunks::<PANEL>().0.iter().zip(second.as_chunks::<PANEL>().0))
        {
            let at = column..column + panel.width;
            let bias = self.epilogue.bias.map(|bias| &bias[at.clone()]);
            let out = match &self.sink {
                // SAFETY: this row and panel are of this task alone.
                Sink::Memory(out) => unsafe { out.slice(row * self.width + column, panel.width) },
                Sink::Best(best) => {
                    best[row].see(first, bias, column, panel.width);
                    continue;
                }
            };
            let residual = self.epilogue.residual.map(|residual| &residual[row * self.width..][at.clone()]);
            let gate = self.epilogue.gate.map(|activation| {
                let bias = self.epilogue.bias.map(|bias| &bias[self.width..][at]);
                (activation, second, bias)
            });
            dispatch(Finish { sums: first, bias, residual, gate, out });
        }
    }
}

/// A second panel's sums and bias, and the activation of the first.
type Gate<'a> = (Activation, &'a [f32; PANEL], Option<&'a [f32]>);

struct Finish<'a> {
    sums: &'a [f32; PANEL],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    gate: Option<Gate<'a>>,
    out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let mut sums = *self.sums;
        add(&mut sums, self.bias);
        if let Some((activation, second, bias)) = self.gate {
            let mut second = *second;
            add(&mut second, bias);
            activation.gate(&mut sums, &second);
        }
        add(&mut sums, self.residual);
        match <&mut [f32; PANEL]>::try_from(&mut *self.out) {
            // A length that the compiler knows.
            Ok(out) => *out = sums,
            Err(_) => self.out.copy_from_slice(&sums[..self.out.len()]),
        }
    }
}

#[inline(always)]
pub(super) fn add(sums: &mut [f32; PANEL], terms: Option<&[f32]>) {
    match terms.map(|terms| (terms, <&[f32; PANEL]>::try_from(terms))) {
        None => {}
        Some((_, Ok(terms))) => sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term),
        Some((terms, Err(_))) => sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term),
    }
}
