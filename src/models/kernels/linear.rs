//! Rows times a weight matrix: `out[m][n] = bias[n] + Σ_k x[m][k] · weight[n][k]`.
//!
//! Weights stay in the type they are stored in and are widened in registers, so that a decode step reads each byte of
//! them once. A tile of rows shares each load of weights: eight rows cost little more memory traffic than one. The
//! sums of a tile are independent (see [`dot::tile`](super::dot::tile)), so neither its size nor the threads show in
//! the result. This is the simple version: weights are not repacked.

use rayon::prelude::*;

use super::dot::tile;
use super::lanes::{Element, Isa, Kernel, Lanes, dispatch_on};
use super::rows::SharedOutput;

/// Multiply-adds that are worth a task of their own.
const TASK_PRODUCTS_MIN: usize = 64 * 1024;
/// Rows are taken in blocks of about this many bytes, so that a block stays in the second-level cache.
const ROW_BLOCK_BYTES: usize = 256 * 1024;
/// Tasks for each thread, so that a thread that is late does not hold up the others for long.
const TASKS_PER_THREAD: usize = 4;

/// `out = x · weightᵀ + bias`, with `x` of `(m, k)`, `weight` of `(n, k)`, `bias` of `n` and `out` of `(m, n)`, all
/// row-major. Runs on the rayon pool that the caller is in.
pub(crate) fn linear<W: Element>(x: &[f32], weight: &[W], bias: Option<&[f32]>, k: usize, out: &mut [f32]) {
    linear_on(Isa::best(), x, weight, bias, k, out);
}

fn linear_on<W: Element>(
    isa: Isa,
    x: &[f32],
    weight: &[W],
    bias: Option<&[f32]>,
    k: usize,
    out: &mut [f32],
) {
    let (m, n) = (x.len() / k, weight.len() / k);
    assert!(x.len() == m * k && weight.len() == n * k && out.len() == m * n, "shapes of a product agree");
    assert!(bias.is_none_or(|bias| bias.len() == n), "a bias has one element for each output");
    if m == 0 || n == 0 {
        return;
    }
    let num_tasks = (m * k * n / TASK_PRODUCTS_MIN).min(rayon::current_num_threads() * TASKS_PER_THREAD).max(1);
    let task_width = n.div_ceil(num_tasks).next_multiple_of(4);
    let out = SharedOutput::new(out);
    let task = |index: usize| {
        let columns = index * task_width..((index + 1) * task_width).min(n);
        dispatch_on(isa, Columns { x, weight, bias, m, n, k, columns, out: &out });
    };
    let num_tasks = n.div_ceil(task_width);
    if num_tasks == 1 {
        task(0);
    } else {
        (0..num_tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Some columns of the output, for all rows.
struct Columns<'a, W> {
    x: &'a [f32],
    weight: &'a [W],
    bias: Option<&'a [f32]>,
    m: usize,
    n: usize,
    k: usize,
    columns: std::ops::Range<usize>,
    out: &'a SharedOutput<'a>,
}

impl<W: Element> Kernel for Columns<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let row_block = (ROW_BLOCK_BYTES / (self.k * size_of::<f32>())).max(12);
        let mut first = 0;
        while first < self.m {
            let end = (first + row_block).min(self.m);
            let mut column = self.columns.start;
            while column < self.columns.end {
                // SAFETY: rows and columns are within the matrices; `dispatch` enabled `L`; no other task has these
                // columns.
                unsafe {
                    if column + 4 <= self.columns.end {
                        self.rows::<L, 4>(first..end, column);
                        column += 4;
                    } else {
                        self.rows::<L, 1>(first..end, column);
                        column += 1;
                    }
                }
            }
            first = end;
        }
    }
}

impl<W: Element> Columns<'_, W> {
    /// `C` columns of some rows.
    ///
    /// # Safety
    /// Rows and columns are within the matrices, `L` is enabled, and no other thread has these columns.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const C: usize>(&self, rows: std::ops::Range<usize>, column: usize) {
        let mut row = rows.start;
        while row < rows.end {
            // SAFETY: the caller's promise; no tile reaches past `rows.end`.
            unsafe {
                if L::MANY_REGISTERS {
                    match rows.end - row {
                        1 => self.tile::<L, 1, C>(&mut row, column),
                        2 => self.tile::<L, 2, C>(&mut row, column),
                        3 => self.tile::<L, 3, C>(&mut row, column),
                        // Two tiles of four, where six and two would leave the second one short.
                        4 | 8 => self.tile::<L, 4, C>(&mut row, column),
                        5 => self.tile::<L, 5, C>(&mut row, column),
                        _ => self.tile::<L, 6, C>(&mut row, column),
                    }
                } else {
                    self.tile::<L, 1, C>(&mut row, column);
                }
            }
        }
    }

    /// `R` rows by `C` columns; moves `row` on.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize, const C: usize>(&self, row: &mut usize, column: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.x.as_ptr().add(*row * self.k);
            let weight = self.weight.as_ptr().add(column * self.k);
            let sums = tile::<L, W, R, C>(x, self.k, weight, self.k, self.k);
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    let bias = self.bias.map_or(0.0, |bias| bias[column + c]);
                    self.out.write((*row + r) * self.n + column + c, sum + bias);
                }
            }
        }
        *row += R;
    }
}
