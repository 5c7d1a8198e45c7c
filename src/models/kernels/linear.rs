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

fn linear_on<W: Element>(isa: Isa, x: &[f32], weight: &[W], bias: Option<&[f32]>, k: usize, out: &mut [f32]) {
    let (m, n) = (x.len() / k, weight.len() / k);
    assert!(x.len() == m * k && weight.len() == n * k && out.len() == m * n, "shapes of a product agree");
    assert!(bias.is_none_or(|bias| bias.len() == n), "a bias has one element for each output");
    if m == 0 || n == 0 {
        return;
    }
    let num_tasks =
        (m * k * n / TASK_PRODUCTS_MIN).min(rayon::current_num_threads() * TASKS_PER_THREAD).max(1);
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::tests::noise;

    /// The product by plain candle, in double precision.
    fn by_candle<W: candle_core::WithDType>(
        x: &[f32],
        weight: &[W],
        bias: Option<&[f32]>,
        k: usize,
    ) -> Vec<f32> {
        let tensor = |rows: usize| (rows / k, k);
        let x = Tensor::from_slice(x, tensor(x.len()), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        let weight = Tensor::from_slice(weight, tensor(weight.len()), &Device::Cpu).unwrap();
        let out = x.matmul(&weight.to_dtype(DType::F64).unwrap().t().unwrap()).unwrap();
        let out = match bias {
            Some(bias) => {
                let bias =
                    Tensor::from_slice(bias, bias.len(), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
                out.broadcast_add(&bias).unwrap()
            }
            None => out,
        };
        out.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn check<W: Element + candle_core::WithDType>(m: usize, k: usize, n: usize, narrow: fn(f32) -> W) {
        let x = noise(1, m * k);
        let weight: Vec<W> = noise(2, n * k).into_iter().map(narrow).collect();
        let bias = noise(3, n);
        let bias = n.is_multiple_of(2).then_some(&bias[..]);
        let expected = by_candle(&x, &weight, bias, k);
        for &isa in Isa::available() {
            let mut out = vec![f32::NAN; m * n];
            linear_on(isa, &x, &weight, bias, k, &mut out);
            for (found, expected) in out.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 1e-5 * (k as f32).sqrt(),
                    "{isa:?} {m} {k} {n}: {found}, not {expected}"
                );
            }
            // Row by row gives the same bits.
            let mut alone = vec![f32::NAN; m * n];
            for (x, alone) in x.chunks_exact(k).zip(alone.chunks_exact_mut(n)) {
                linear_on(isa, x, &weight, bias, k, alone);
            }
            assert_eq!(out, alone, "{isa:?} {m} {k} {n}");
        }
    }

    #[test]
    fn agrees_with_candle_and_with_itself_row_by_row() {
        for m in 1..=14 {
            check::<bf16>(m, 51, 54, bf16::from_f32);
        }
        for (m, k, n) in [(70, 300, 131), (1, 4864, 900), (33, 16, 1), (8, 1, 5), (3, 896, 1000)] {
            check::<bf16>(m, k, n, bf16::from_f32);
            check::<f16>(m, k, n, f16::from_f32);
            check::<f32>(m, k, n, |x| x);
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (x, weight) = (noise(1, 9 * 333), noise(2, 777 * 333));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; 9 * 777];
            pool.install(|| linear(&x, &weight, None, 333, &mut out));
            out
        };
        let one = on(1);
        assert_eq!(one, on(2));
        assert_eq!(one, on(5));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_shape(m in 1usize..70, k in 1usize..200, n in 1usize..90) {
            check::<bf16>(m, k, n, bf16::from_f32);
        }
    }
}
