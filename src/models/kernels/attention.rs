//! Causal attention of a ragged batch over the paged KV cache (paging: Kwon et al. 2023, arXiv:2309.06180).
//!
//! For each row and head: scores over the visible positions, softmax, weighted sum of values. All three run over
//! positions in ascending order from the first visible one, wherever the blocks lie, so a row's result depends neither
//! on the chunk it came in nor on its block table. Query heads that share a key-value head are computed together.

use std::ops::Range;

use candlewick_engine::BlockId;
use rayon::prelude::*;

use super::dot::tile;
use super::exp::{exp_in_place, max};
use super::lanes::{Kernel, LANES, Lanes, dispatch};
use super::rows::SharedOutput;

/// Rows of one task: what they score fits into the second-level cache.
const SCORES_MAX: usize = 128 * 1024;
/// Tokens of one task at most.
const TASK_TOKENS_MAX: usize = 16;
/// Multiply-adds below which one thread does it all.
const PARALLEL_PRODUCTS_MIN: usize = 64 * 1024;

/// Heads of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadShape {
    /// Query heads.
    pub(crate) num_heads: usize,
    /// Key-value heads; divides `num_heads`.
    pub(crate) num_kv_heads: usize,
    /// Elements of a head.
    pub(crate) head_dim: usize,
}

/// The cache of one layer: keys and values, each `(blocks, kv heads, block_size, padded head)`.
#[derive(Clone, Copy)]
pub(crate) struct PagedKv<'a> {
    /// Keys, already rotated.
    pub(crate) keys: &'a [f32],
    /// Values.
    pub(crate) values: &'a [f32],
    /// Tokens in a block.
    pub(crate) block_size: usize,
    /// `head_dim` rounded up to whole lanes; the padding is zero.
    pub(crate) padded_head: usize,
}

/// Consecutive rows of the batch that are consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// Index of the first row in the batch.
    pub(crate) first_row: usize,
    /// Number of rows.
    pub(crate) num_rows: usize,
    /// Position of the first row in its sequence.
    pub(crate) start: usize,
    /// Blocks of the sequence, in order.
    pub(crate) block_table: &'a [BlockId],
}

/// Attention of `q` over the cache. `q` and `out` are `(rows, heads × head_dim)`; `window` is how many positions a row
/// sees, itself included.
pub(crate) fn attend(
    q: &[f32],
    kv: PagedKv<'_>,
    segments: &[Segment<'_>],
    heads: HeadShape,
    window: Option<usize>,
    out: &mut [f32],
) {
    let group = heads.num_heads / heads.num_kv_heads;
    let out = SharedOutput::new(out);
    let mut tasks = Vec::new();
    let mut num_products = 0;
    for segment in segments {
        let context = segment.start + segment.num_rows;
        let visible = window.map_or(context, |window| context.min(window + TASK_TOKENS_MAX));
        let num_tokens = (SCORES_MAX / (group * visible)).clamp(1, TASK_TOKENS_MAX);
        num_products += segment.num_rows * visible * heads.num_heads * kv.padded_head;
        for first in (0..segment.num_rows).step_by(num_tokens) {
            let tokens = first..(first + num_tokens).min(segment.num_rows);
            for kv_head in 0..heads.num_kv_heads {
                tasks.push(Task {
                    q,
                    kv,
                    segment,
                    heads,
                    window,
                    tokens: tokens.clone(),
                    kv_head,
                    out: &out,
                });
            }
        }
    }
    if num_products < PARALLEL_PRODUCTS_MIN {
        tasks.into_iter().for_each(dispatch);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(dispatch);
    }
}

/// Some tokens of one segment, for the query heads of one key-value head.
struct Task<'a> {
    q: &'a [f32],
    kv: PagedKv<'a>,
    segment: &'a Segment<'a>,
    heads: HeadShape,
    window: Option<usize>,
    tokens: Range<usize>,
    kv_head: usize,
    out: &'a SharedOutput<'a>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let queries = self.queries();
        let visible = self.first_visible(self.tokens.start)..self.segment.start + self.tokens.end;
        let mut scores = vec![0.0; queries.len() / self.kv.padded_head * visible.len()];
        // SAFETY: `dispatch` enabled `L`; no other task has these tokens and heads.
        unsafe {
            self.score::<L>(&queries, &visible, &mut scores);
            self.weigh::<L>(&visible, &mut scores);
        }
    }
}

impl Task<'_> {
    /// Query heads for each key-value head.
    #[inline(always)]
    fn group(&self) -> usize {
        self.heads.num_heads / self.heads.num_kv_heads
    }

    /// The first position that a token of the segment sees.
    #[inline(always)]
    fn first_visible(&self, token: usize) -> usize {
        let position = self.segment.start + token;
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Where the keys or values of a block begin, for this task's head.
    #[inline(always)]
    fn block_start(&self, index: usize) -> usize {
        let block = self.segment.block_table[index].0 as usize;
        (block * self.heads.num_kv_heads + self.kv_head) * self.kv.block_size * self.kv.padded_head
    }

    /// Where the task's query heads of a token begin, in `q` and in `out`.
    #[inline(always)]
    fn heads_start(&self, token: usize) -> usize {
        let row = self.segment.first_row + token;
        (row * self.heads.num_heads + self.kv_head * self.group()) * self.heads.head_dim
    }

    /// The task's queries as `(tokens × group, padded head)`, divided by √head_dim.
    #[inline(always)]
    fn queries(&self) -> Vec<f32> {
        let HeadShape { head_dim, .. } = self.heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut queries = vec![0.0; self.tokens.len() * self.group() * self.kv.padded_head];
        let mut padded = queries.chunks_exact_mut(self.kv.padded_head);
        for token in self.tokens.clone() {
            let heads = &self.q[self.heads_start(token)..][..self.group() * head_dim];
            // In this order, or the zip takes a row from `padded` for a head that is not there.
            for (head, padded) in heads.chunks_exact(head_dim).zip(padded.by_ref()) {
                padded.iter_mut().zip(head).for_each(|(padded, x)| *padded = x * scale);
            }
        }
        queries
    }

    /// Scores of every query with every position in `visible`, as `(queries, visible)`. Some are of positions that a
    /// query does not see, and are never looked at.
    ///
    /// # Safety
    /// `L` is enabled.
    #[inline(always)]
    unsafe fn score<L: Lanes>(&self, queries: &[f32], visible: &Range<usize>, scores: &mut [f32]) {
        let block_size = self.kv.block_size;
        for index in visible.start / block_size..visible.end.div_ceil(block_size) {
            let slots = visible.start.max(index * block_size) - index * block_size
                ..visible.end.min((index + 1) * block_size) - index * block_size;
            let keys = &self.kv.keys[self.block_start(index)..][..block_size * self.kv.padded_head];
            let mut slot = slots.start;
            while slot < slots.end {
                let column = index * block_size + slot - visible.start;
                let keys = &keys[slot * self.kv.padded_head..];
                // SAFETY: `L` is enabled by the caller's promise; the columns are those of slots below `slots.end`.
                unsafe {
                    if slot + 4 <= slots.end {
                        self.score_columns::<L, 4>(queries, keys, column, visible.len(), scores);
                        slot += 4;
                    } else {
                        self.score_columns::<L, 1>(queries, keys, column, visible.len(), scores);
                        slot += 1;
                    }
                }
            }
        }
    }

    /// Scores of every query with `C` keys.
    ///
    /// # Safety
    /// `L` is enabled, and `column + C` is at most `width`.
    #[inline(always)]
    unsafe fn score_columns<L: Lanes, const C: usize>(
        &self,
        queries: &[f32],
        keys: &[f32],
        column: usize,
        width: usize,
        scores: &mut [f32],
    ) {
        let num_queries = queries.len() / self.kv.padded_head;
        let mut query = 0;
        while query < num_queries {
            // SAFETY: the caller's promise; no tile reaches past the last query.
            unsafe {
                match num_queries - query {
                    _ if !L::MANY_REGISTERS => {
                        self.score_tile::<L, 1, C>(queries, keys, &mut query, column, width, scores);
                    }
                    1 => self.score_tile::<L, 1, C>(queries, keys, &mut query, column, width, scores),
                    2 => self.score_tile::<L, 2, C>(queries, keys, &mut query, column, width, scores),
                    3 => self.score_tile::<L, 3, C>(queries, keys, &mut query, column, width, scores),
                    _ => self.score_tile::<L, 4, C>(queries, keys, &mut query, column, width, scores),
                }
            }
        }
    }

    /// Scores of `R` queries with `C` keys; moves `query` on.
    ///
    /// # Safety
    /// `L` is enabled, and queries and columns are there.
    #[inline(always)]
    unsafe fn score_tile<L: Lanes, const R: usize, const C: usize>(
        &self,
        queries: &[f32],
        keys: &[f32],
        query: &mut usize,
        column: usize,
        width: usize,
        scores: &mut [f32],
    ) {
        let row = self.kv.padded_head;
        assert!(keys.len() >= C * row, "keys of a tile lie within their block");
        // SAFETY: the caller's promise for the queries, the line above for the keys.
        let sums =
            unsafe { tile::<L, f32, R, C>(queries[*query * row..].as_ptr(), row, keys.as_ptr(), row, row) };
        for (r, sums) in sums.into_iter().enumerate() {
            scores[(*query + r) * width + column..][..C].copy_from_slice(&sums);
        }
        *query += R;
    }

    /// Softmax of the scores, and the sum of the values by it, into the output.
    ///
    /// # Safety
    /// `L` is enabled, and no other thread has these tokens and heads.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&self, visible: &Range<usize>, scores: &mut [f32]) {
        let group = self.group();
        let HeadShape { head_dim, .. } = self.heads;
        for token in self.tokens.clone() {
            let seen = self.first_visible(token)..self.segment.start + token + 1;
            let first_query = (token - self.tokens.start) * group;
            // SAFETY: the caller's promise.
            let out = unsafe { self.out.slice(self.heads_start(token), group * head_dim) };
            for head in 0..group {
                let row = &mut scores[(first_query + head) * visible.len()..][..visible.len()];
                let row = &mut row[seen.start - visible.start..seen.end - visible.start];
                let shift = max(row);
                let scale = 1.0 / exp_in_place(row, shift);
                // The rest of the head's output is written by `add_values`; its scale waits here.
                out[head * head_dim] = scale;
            }
            let mut head = 0;
            while head < group {
                let weights = &scores[(first_query + head) * visible.len() + seen.start - visible.start..];
                let out = &mut out[head * head_dim..];
                // SAFETY: `L` is enabled; no tile reaches past the last head of the group.
                unsafe {
                    head += match group - head {
                        1 => self.add_values::<L, 1>(weights, visible.len(), &seen, out),
                        _ if !L::MANY_REGISTERS => {
                            self.add_values::<L, 1>(weights, visible.len(), &seen, out)
                        }
                        2 => self.add_values::<L, 2>(weights, visible.len(), &seen, out),
                        3 => self.add_values::<L, 3>(weights, visible.len(), &seen, out),
                        _ => self.add_values::<L, 4>(weights, visible.len(), &seen, out),
                    };
                }
            }
        }
    }

    /// The weighted sums of `R` heads; returns `R`. The first element of each head in `out` holds the head's scale.
    ///
    /// # Safety
    /// `L` is enabled; `weights` holds `R` rows at distance `width`, each of `seen`.
    #[inline(always)]
    unsafe fn add_values<L: Lanes, const R: usize>(
        &self,
        weights: &[f32],
        width: usize,
        seen: &Range<usize>,
        out: &mut [f32],
    ) -> usize {
        let HeadShape { head_dim, .. } = self.heads;
        let mut scales = [0.0; R];
        for (r, scale) in scales.iter_mut().enumerate() {
            *scale = out[r * head_dim];
        }
        let mut dim = 0;
        while dim < self.kv.padded_head {
            // SAFETY: the caller's promise; `dim` and what is loaded from it stay below the padded head.
            unsafe {
                if dim + 4 * LANES <= self.kv.padded_head {
                    let sums = self.sum_values::<L, R, 4>(weights, width, seen, dim);
                    store_scaled(sums, scales, dim, head_dim, out);
                    dim += 4 * LANES;
                } else {
                    let sums = self.sum_values::<L, R, 1>(weights, width, seen, dim);
                    store_scaled(sums, scales, dim, head_dim, out);
                    dim += LANES;
                }
            }
        }
        R
    }

    /// `Σ_p weight[p] · value[p][dim..]` for `R` heads, position by position.
    ///
    /// # Safety
    /// As for `add_values`; `dim + 16 C` is at most the padded head.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn sum_values<L: Lanes, const R: usize, const C: usize>(
        &self,
        weights: &[f32],
        width: usize,
        seen: &Range<usize>,
        dim: usize,
    ) -> [[L; C]; R] {
        let block_size = self.kv.block_size;
        let mut rows = [&weights[..seen.len()]; R];
        for r in 1..R {
            rows[r] = &weights[r * width..][..seen.len()];
        }
        // SAFETY: `L` is enabled.
        let zero = unsafe { L::zero() };
        let mut sums = [[zero; C]; R];
        for index in seen.start / block_size..seen.end.div_ceil(block_size) {
            let values = &self.kv.values[self.block_start(index)..][..block_size * self.kv.padded_head];
            let positions = seen.start.max(index * block_size)..seen.end.min((index + 1) * block_size);
            let first = (positions.start - index * block_size) * self.kv.padded_head + dim;
            let mut value = values[first..].as_ptr();
            for column in positions.start - seen.start..positions.end - seen.start {
                let mut parts = [zero; C];
                for c in 0..C {
                    // SAFETY: the slots of `positions` lie within the block, which was just sliced.
                    parts[c] = unsafe { L::load_f32(value.wrapping_add(c * LANES)) };
                }
                value = value.wrapping_add(self.kv.padded_head);
                for r in 0..R {
                    // SAFETY: `L` is enabled.
                    let weight = unsafe { L::splat(rows[r][column]) };
                    for c in 0..C {
                        // SAFETY: as above.
                        sums[r][c] = unsafe { sums[r][c].add_product(weight, parts[c]) };
                    }
                }
            }
        }
        sums
    }
}

/// Writes sums, scaled, to the elements of each head from `dim` on, without the padding.
///
/// # Safety
/// `L` is enabled.
#[inline(always)]
unsafe fn store_scaled<L: Lanes, const R: usize, const C: usize>(
    sums: [[L; C]; R],
    scales: [f32; R],
    dim: usize,
    head_dim: usize,
    out: &mut [f32],
) {
    for (r, sums) in sums.into_iter().enumerate() {
        for (c, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0.0; LANES];
            // SAFETY: sixteen lanes into sixteen places.
            unsafe { sum.store(lanes.as_mut_ptr()) };
            let first = dim + c * LANES;
            let num = head_dim.saturating_sub(first).min(LANES);
            for (out, lane) in out[r * head_dim + first.min(head_dim)..][..num].iter_mut().zip(lanes) {
                *out = lane * scales[r];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::noise;

    /// One sequence in a cache of shuffled blocks.
    struct Sequence {
        heads: HeadShape,
        block_size: usize,
        q: Vec<f32>,
        /// `(positions, kv heads, head_dim)`.
        k: Vec<f32>,
        v: Vec<f32>,
        keys: Vec<f32>,
        values: Vec<f32>,
        block_table: Vec<BlockId>,
    }

    impl Sequence {
        fn new(len: usize, heads: HeadShape, block_size: usize) -> Self {
            let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
            let num_blocks = len.div_ceil(block_size);
            let padded = head_dim.next_multiple_of(LANES);
            let block_table: Vec<_> = (0..num_blocks as u32).rev().map(BlockId).collect();
            let (k, v) = (noise(2, len * num_kv_heads * head_dim), noise(3, len * num_kv_heads * head_dim));
            // What lies in slots that nobody wrote must never be looked at.
            let mut keys = vec![f32::NAN; num_blocks * num_kv_heads * block_size * padded];
            let mut values = keys.clone();
            for position in 0..len {
                for head in 0..num_kv_heads {
                    let block = block_table[position / block_size].0 as usize;
                    let to = ((block * num_kv_heads + head) * block_size + position % block_size) * padded;
                    let from = (position * num_kv_heads + head) * head_dim;
                    for (cache, given) in [(&mut keys, &k), (&mut values, &v)] {
                        cache[to..to + padded].fill(0.0);
                        cache[to..to + head_dim].copy_from_slice(&given[from..from + head_dim]);
                    }
                }
            }
            Self {
                heads,
                block_size,
                q: noise(1, len * num_heads * head_dim),
                k,
                v,
                keys,
                values,
                block_table,
            }
        }

        fn width(&self) -> usize {
            self.heads.num_heads * self.heads.head_dim
        }

        /// Attention of the rows from `start` on.
        fn attend(&self, rows: Range<usize>, window: Option<usize>) -> Vec<f32> {
            let padded_head = self.heads.head_dim.next_multiple_of(LANES);
            let kv =
                PagedKv { keys: &self.keys, values: &self.values, block_size: self.block_size, padded_head };
            let segment = Segment {
                first_row: 0,
                num_rows: rows.len(),
                start: rows.start,
                block_table: &self.block_table,
            };
            let q = &self.q[rows.start * self.width()..rows.end * self.width()];
            let mut out = vec![f32::NAN; q.len()];
            attend(q, kv, &[segment], self.heads, window, &mut out);
            out
        }

        /// The same by the formula, in double precision.
        fn by_the_book(&self, row: usize, head: usize, window: Option<usize>) -> Vec<f64> {
            let HeadShape { num_heads, num_kv_heads, head_dim } = self.heads;
            let kv_head = head / (num_heads / num_kv_heads);
            let q = &self.q[(row * num_heads + head) * head_dim..][..head_dim];
            let at = |x: &[f32], position: usize| {
                x[(position * num_kv_heads + kv_head) * head_dim..][..head_dim].to_vec()
            };
            let first = window.map_or(0, |window| (row + 1).saturating_sub(window));
            let weights: Vec<f64> = (first..=row)
                .map(|position| {
                    let dot: f64 =
                        q.iter().zip(at(&self.k, position)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
                    (dot / (head_dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            let mut out = vec![0.0; head_dim];
            for (position, weight) in (first..=row).zip(weights) {
                for (out, v) in out.iter_mut().zip(at(&self.v, position)) {
                    *out += weight / total * f64::from(v);
                }
            }
            out
        }
    }

    const SHAPES: [(usize, usize, usize, usize); 6] =
        [(1, 1, 2, 4), (3, 3, 18, 16), (6, 2, 16, 3), (14, 2, 64, 16), (4, 1, 80, 1), (5, 1, 128, 32)];

    #[test]
    fn agrees_with_the_formula() {
        for (num_heads, num_kv_heads, head_dim, block_size) in SHAPES {
            let heads = HeadShape { num_heads, num_kv_heads, head_dim };
            let len = 61;
            let sequence = Sequence::new(len, heads, block_size);
            for window in [None, Some(1), Some(20), Some(500)] {
                let out = sequence.attend(0..len, window);
                for row in 0..len {
                    for head in 0..num_heads {
                        let found = &out[(row * num_heads + head) * head_dim..][..head_dim];
                        for (found, expected) in found.iter().zip(sequence.by_the_book(row, head, window)) {
                            let off = (f64::from(*found) - expected).abs();
                            assert!(off < 1e-5, "{heads:?} {window:?} row {row}: {found}, not {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn neither_chunks_nor_blocks_change_a_bit() {
        for (num_heads, num_kv_heads, head_dim, _) in SHAPES {
            let heads = HeadShape { num_heads, num_kv_heads, head_dim };
            let len = 75;
            for window in [None, Some(20)] {
                let whole = Sequence::new(len, heads, 16).attend(0..len, window);
                for (chunk, block_size) in [(1, 16), (7, 4), (64, 1), (75, 128)] {
                    let sequence = Sequence::new(len, heads, block_size);
                    let parts: Vec<f32> = (0..len)
                        .step_by(chunk)
                        .flat_map(|start| sequence.attend(start..(start + chunk).min(len), window))
                        .collect();
                    assert!(parts == whole, "{heads:?} {window:?} chunks of {chunk}, blocks of {block_size}");
                }
            }
        }
    }
}
