//! Attention of a ragged batch over the paged KV cache (paging: Kwon et al. 2023, arXiv:2309.06180), in one pass
//! over keys and values with a running softmax (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022,
//! arXiv:2205.14135).
//!
//! Positions are taken in stretches of [`STRETCH`] that begin at its multiples, whatever the size of the cache's blocks
//! and wherever they lie. Within a stretch a row scores the positions that it sees, and adds values in ascending order;
//! positions that it does not see have a weight of exactly zero and their values are not touched. So what a row sees,
//! and nothing else, decides its bits: neither the chunk it came in, nor its neighbours, nor its block table. Query
//! heads that share a key-value head, and neighbouring tokens, are computed together.

use std::cell::Cell;
use std::ops::Range;

use candlewick_engine::{BlockId, KvDType};
use half::{bf16, f16};

use super::exp::exp;
use super::lanes::{Element, Kernel, LANES, Lanes, dispatch};
use super::pool::share;
use super::rows::SharedOutput;
use crate::cache::PagedKv;

/// Positions between two looks at the running maximum.
const STRETCH: usize = 64;
/// Registers of positions in a stretch.
const PARTS: usize = STRETCH / LANES;
/// Query rows (tokens by heads) of one task, about: queries, scores and sums fit into the first-level cache.
const TASK_ROWS: usize = 32;
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

/// What is particular about the attention of a layer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AttendOptions<'a> {
    /// How many positions a row sees up to its own, which is included; `None` sees all.
    pub(crate) window: Option<usize>,
    /// How many positions after its own a row sees, of those in its segment: none in a decoder.
    pub(crate) ahead: usize,
    /// Added to scores by how far a position is from the row's.
    pub(crate) bias: Option<RelativeBias<'a>>,
    /// Scores are bent to below this: `cap · tanh(score / cap)`.
    pub(crate) soft_cap: Option<f32>,
    /// What scores are multiplied by; `None` is 1/√head_dim.
    pub(crate) scale: Option<f32>,
    /// For each query head, the score of a place that has no value: it takes part in the softmax and adds nothing.
    pub(crate) sinks: Option<&'a [f32]>,
}

/// What is added to scores for each distance between two positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelativeBias<'a> {
    /// `(heads, 2 × reach − 1)`: of the position that is `reach − 1` before the row's, up to as many after it.
    pub(crate) table: &'a [f32],
    /// No two positions of a segment are this far apart.
    pub(crate) reach: usize,
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

thread_local! {
    /// A thread's scratch memory, kept from one task to the next.
    static SCRATCH: Cell<Vec<f32>> = Cell::default();
}

/// Attention of `q` over the cache. `q` and `out` are `(rows, heads × head_dim)`.
pub(crate) fn attend(
    q: &[f32],
    kv: PagedKv<'_>,
    segments: &[Segment<'_>],
    heads: HeadShape,
    options: AttendOptions<'_>,
    out: &mut [f32],
) {
    assert!(q.len() == out.len(), "a result for each query");
    let group = heads.num_heads / heads.num_kv_heads;
    let out = SharedOutput::new(out);
    let task_tokens = (TASK_ROWS / group).max(1);
    let mut tasks = Vec::new();
    let mut num_products = 0;
    for segment in segments {
        let context = segment.start + segment.num_rows;
        let seen = options.window.map_or(context, |window| context.min(window.saturating_add(options.ahead)));
        num_products += segment.num_rows * seen * heads.num_heads * kv.padded_head;
        for first in (0..segment.num_rows).step_by(task_tokens) {
            let tokens = first..(first + task_tokens).min(segment.num_rows);
            for kv_head in 0..heads.num_kv_heads {
                let tokens = tokens.clone();
                tasks.push(Task { q, kv, segment, heads, options, tokens, kv_head, out: &out });
            }
        }
    }
    let min = if num_products < PARALLEL_PRODUCTS_MIN { tasks.len() } else { 1 };
    share(tasks.len(), min, |range| {
        for task in &tasks[range] {
            match kv.dtype {
                KvDType::F32 => dispatch(Of::<f32>(task, std::marker::PhantomData)),
                KvDType::F16 => dispatch(Of::<f16>(task, std::marker::PhantomData)),
                KvDType::Bf16 => dispatch(Of::<bf16>(task, std::marker::PhantomData)),
                KvDType::Int8 => dispatch(Of::<i8>(task, std::marker::PhantomData)),
            }
        }
    });
}

/// Some tokens of one segment, for the query heads of one key-value head.
struct Task<'a> {
    q: &'a [f32],
    kv: PagedKv<'a>,
    segment: &'a Segment<'a>,
    heads: HeadShape,
    options: AttendOptions<'a>,
    tokens: Range<usize>,
    kv_head: usize,
    out: &'a SharedOutput<'a>,
}

/// A task over a cache of such elements.
struct Of<'a, E>(&'a Task<'a>, std::marker::PhantomData<E>);

/// What a task keeps for each of its rows (tokens by query heads of the group).
struct Rows<'a> {
    /// `(rows, head_dim)`, scaled.
    queries: &'a [f32],
    /// `(rows, STRETCH)`: scores of the stretch, then weights.
    scores: &'a mut [f32],
    /// `(rows, padded_head)`: weighted sums of values so far.
    sums: &'a mut [f32],
    /// The largest score so far, what the sums are to be multiplied by for the stretch, and the weights' total.
    state: &'a mut [State],
}

#[derive(Clone, Copy)]
struct State {
    largest: f32,
    correction: f32,
    total: f32,
}

impl<E: Element> Kernel for Of<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let task = self.0;
        let (group, head_dim) = (task.group(), task.heads.head_dim);
        let num_rows = task.tokens.len() * group;
        let mut scratch = SCRATCH.take();
        let gathered_len = head_dim * LANES;
        let needed = gathered_len + num_rows * (head_dim + STRETCH + task.kv.padded_head);
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let (gathered, rest) = scratch.split_at_mut(gathered_len);
        let (queries, rest) = rest.split_at_mut(num_rows * head_dim);
        let (scores, rest) = rest.split_at_mut(num_rows * STRETCH);
        let sums = &mut rest[..num_rows * task.kv.padded_head];
        sums.fill(0.0);
        task.scaled_queries(queries);
        let mut state = Vec::with_capacity(num_rows);
        state.extend((0..num_rows).map(|row| task.first_state(row % group)));
        let mut rows = Rows { queries, scores, sums, state: &mut state };
        let seen = task.first_visible(task.tokens.start)..task.end_visible(task.tokens.end - 1);
        for stretch in seen.start / STRETCH..seen.end.div_ceil(STRETCH) {
            let stretch = stretch * STRETCH..(stretch + 1) * STRETCH;
            let seen = stretch.start.max(seen.start)..stretch.end.min(seen.end);
            // SAFETY: `dispatch` enabled `L`; no other task has these tokens and heads.
            unsafe {
                task.score::<L, E>(&seen, gathered, &mut rows);
                task.weigh(&stretch, &mut rows);
                task.add_values::<L, E>(&stretch, &mut rows);
            }
        }
        task.finish(&rows);
        SCRATCH.set(scratch);
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
        self.options.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// One after the last position that a token of the segment sees.
    #[inline(always)]
    fn end_visible(&self, token: usize) -> usize {
        let behind = self.segment.num_rows - token - 1;
        self.segment.start + token + 1 + self.options.ahead.min(behind)
    }

    /// The positions of a stretch that a row sees, relative to its beginning.
    #[inline(always)]
    fn seen_in(&self, stretch: &Range<usize>, row: usize) -> Range<usize> {
        let token = self.tokens.start + row / self.group();
        let start = self.first_visible(token).clamp(stretch.start, stretch.end);
        let end = self.end_visible(token).clamp(start, stretch.end);
        start - stretch.start..end - stretch.start
    }

    /// The cell of the cache that a position is in, for this task's head, and its slot there.
    #[inline(always)]
    fn cell(&self, position: usize) -> (&[u8], usize) {
        let block = self.segment.block_table[position / self.kv.block_size].0 as usize;
        (self.kv.cell(block, self.kv_head), position % self.kv.block_size)
    }

    /// Where the task's query heads of a token begin, in `q` and in `out`.
    #[inline(always)]
    fn heads_start(&self, token: usize) -> usize {
        let row = self.segment.first_row + token;
        (row * self.heads.num_heads + self.kv_head * self.group()) * self.heads.head_dim
    }

    #[inline(always)]
    fn scaled_queries(&self, out: &mut [f32]) {
        let scale = self.options.scale.unwrap_or(1.0 / (self.heads.head_dim as f32).sqrt());
        let of_token = self.group() * self.heads.head_dim;
        for (token, out) in self.tokens.clone().zip(out.chunks_exact_mut(of_token)) {
            let q = &self.q[self.heads_start(token)..][..of_token];
            out.iter_mut().zip(q).for_each(|(out, q)| *out = q * scale);
        }
    }

    /// A row that has seen nothing yet, unless there is a sink.
    #[inline(always)]
    fn first_state(&self, head: usize) -> State {
        match self.options.sinks {
            Some(sinks) => {
                State { largest: sinks[self.kv_head * self.group() + head], correction: 1.0, total: 1.0 }
            }
            None => State { largest: f32::NEG_INFINITY, correction: 1.0, total: 0.0 },
        }
    }

    /// Scores of every row with the positions in `seen`, which lie in one stretch, and with those that share a register
    /// with them. Some are of positions that a row does not see, and are never looked at.
    ///
    /// # Safety
    /// `L` is enabled.
    #[inline(always)]
    unsafe fn score<L: Lanes, E: Element>(
        &self,
        seen: &Range<usize>,
        gathered: &mut [f32],
        rows: &mut Rows<'_>,
    ) {
        let stretch = seen.start / STRETCH * STRETCH;
        let parts = (seen.start - stretch) / LANES..(seen.end - stretch).div_ceil(LANES);
        let stride = self.kv.block_size;
        if !stride.is_multiple_of(LANES) {
            // Blocks that do not hold whole registers of positions: put a register's positions together first.
            for part in parts {
                let first = stretch + part * LANES;
                self.gather::<E>(first..(first + LANES).min(seen.end), gathered);
                // SAFETY: what was gathered is `head_dim` registers.
                unsafe { self.score_parts::<L, f32, 1>([gathered.as_ptr()], LANES, part, rows) };
            }
        } else if parts.len() == PARTS && L::MANY_REGISTERS {
            let mut keys = [std::ptr::null(); PARTS];
            for (part, keys) in keys.iter_mut().enumerate() {
                *keys = self.keys_at::<E>(stretch + part * LANES);
            }
            // SAFETY: keys of whole registers within their cells.
            unsafe { self.score_parts::<L, E, PARTS>(keys, stride, 0, rows) };
        } else {
            for part in parts.clone() {
                let keys = self.keys_at::<E>(stretch + part * LANES);
                // SAFETY: as above.
                unsafe { self.score_parts::<L, E, 1>([keys], stride, part, rows) };
            }
        }
        if self.kv.dtype == KvDType::Int8 {
            self.scale_scores(seen, stretch, rows);
        }
    }

    /// The keys from a position on: those of a register's positions for the first element of the head, and at each
    /// `block_size` for the next.
    #[inline(always)]
    fn keys_at<E: Element>(&self, position: usize) -> *const E {
        let (cell, slot) = self.cell(position);
        let keys = &cell[slot * size_of::<E>()..self.kv.values_at()];
        assert!(keys.len() >= ((self.heads.head_dim - 1) * self.kv.block_size + LANES) * size_of::<E>());
        keys.as_ptr().cast()
    }

    /// Keys of up to a register's positions, widened, as `(head_dim, LANES)`.
    #[inline(always)]
    fn gather<E: Element>(&self, positions: Range<usize>, out: &mut [f32]) {
        for (lane, position) in positions.enumerate() {
            let (cell, slot) = self.cell(position);
            for (d, out) in out.chunks_exact_mut(LANES).enumerate() {
                let at = (d * self.kv.block_size + slot) * size_of::<E>();
                let bytes = &cell[at..][..size_of::<E>()];
                // SAFETY: an element's bytes, of a type for which every bit pattern is a value.
                out[lane] = unsafe { bytes.as_ptr().cast::<E>().read_unaligned() }.widen();
            }
        }
    }

    /// Scores of every row with `C` registers of positions.
    ///
    /// # Safety
    /// `L` is enabled; each of `keys` is valid for `head_dim` registers at distance `stride`.
    #[inline(always)]
    unsafe fn score_parts<L: Lanes, K: Element, const C: usize>(
        &self,
        keys: [*const K; C],
        stride: usize,
        part: usize,
        rows: &mut Rows<'_>,
    ) {
        let num_rows = rows.state.len();
        let mut row = 0;
        while row < num_rows {
            // SAFETY: the caller's promise; no tile reaches past the last row.
            row += unsafe {
                match num_rows - row {
                    _ if !L::MANY_REGISTERS => self.score_tile::<L, K, 1, C>(keys, stride, part, row, rows),
                    1 => self.score_tile::<L, K, 1, C>(keys, stride, part, row, rows),
                    2 => self.score_tile::<L, K, 2, C>(keys, stride, part, row, rows),
                    3 => self.score_tile::<L, K, 3, C>(keys, stride, part, row, rows),
                    _ => self.score_tile::<L, K, 4, C>(keys, stride, part, row, rows),
                }
            };
        }
    }

    /// Scores of `R` rows; returns `R`. Each is one sum over the head, in order.
    ///
    /// # Safety
    /// As above, and the rows are there.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn score_tile<L: Lanes, K: Element, const R: usize, const C: usize>(
        &self,
        keys: [*const K; C],
        stride: usize,
        part: usize,
        row: usize,
        rows: &mut Rows<'_>,
    ) -> usize {
        let head_dim = self.heads.head_dim;
        let queries = rows.queries[row * head_dim..][..R * head_dim].as_ptr();
        // SAFETY: the caller's promise for the keys; the queries were just sliced.
        let sums = unsafe {
            let mut sums = [[L::zero(); C]; R];
            for d in 0..head_dim {
                let mut parts = [L::zero(); C];
                for c in 0..C {
                    parts[c] = K::load::<L>(keys[c].wrapping_add(d.wrapping_mul(stride)));
                }
                for r in 0..R {
                    let q = L::splat_from(queries.wrapping_add(r.wrapping_mul(head_dim).wrapping_add(d)));
                    for c in 0..C {
                        sums[r][c] = sums[r][c].add_product(q, parts[c]);
                    }
                }
            }
            sums
        };
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                let out = &mut rows.scores[(row + r) * STRETCH + (part + c) * LANES..][..LANES];
                // SAFETY: sixteen places, just sliced.
                unsafe { sum.store(out.as_mut_ptr()) };
            }
        }
        R
    }

    /// Keys of bytes have a scale for each position.
    #[inline(always)]
    fn scale_scores(&self, seen: &Range<usize>, stretch: usize, rows: &mut Rows<'_>) {
        let mut scales = [0.0f32; STRETCH];
        for position in seen.clone() {
            let (cell, slot) = self.cell(position);
            scales[position - stretch] = self.kv.key_scale(cell, slot);
        }
        for scores in rows.scores.as_chunks_mut::<STRETCH>().0 {
            scores.iter_mut().zip(&scales).for_each(|(score, scale)| *score *= scale);
        }
    }

    /// Scores to weights: what a row does not see becomes zero, and the rest is relative to the largest so far.
    #[inline(always)]
    fn weigh(&self, stretch: &Range<usize>, rows: &mut Rows<'_>) {
        let value_scales = (self.kv.dtype == KvDType::Int8).then(|| self.value_scales(stretch));
        let scores = rows.scores.as_chunks_mut::<STRETCH>().0;
        for (row, (scores, state)) in scores.iter_mut().zip(rows.state.iter_mut()).enumerate() {
            let seen = self.seen_in(stretch, row);
            if seen.is_empty() {
                continue;
            }
            if let Some(bias) = self.options.bias {
                let scores = scores[seen.clone()].iter_mut();
                scores
                    .zip(self.biases(bias, row, stretch.start + seen.start))
                    .for_each(|(x, bias)| *x += bias);
            }
            if let Some(cap) = self.options.soft_cap {
                scores[seen.clone()].iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
            }
            scores[..seen.start].fill(f32::NEG_INFINITY);
            scores[seen.end..].fill(f32::NEG_INFINITY);
            let largest = maximum(scores);
            let largest = if largest > state.largest { largest } else { state.largest };
            state.correction = exp(state.largest - largest);
            state.largest = largest;
            state.total = state.total * state.correction + exponentials(scores, largest);
            if let Some(scales) = &value_scales {
                scores.iter_mut().zip(scales).for_each(|(weight, scale)| *weight *= scale);
            }
        }
    }

    /// What is added to a row's scores from a position on.
    #[inline(always)]
    fn biases<'a>(&self, bias: RelativeBias<'a>, row: usize, position: usize) -> &'a [f32] {
        let head = self.kv_head * self.group() + row % self.group();
        let own = self.segment.start + self.tokens.start + row / self.group();
        let of_head = &bias.table[head * (2 * bias.reach - 1)..][..2 * bias.reach - 1];
        &of_head[position + bias.reach - 1 - own..]
    }

    /// Values of bytes have a scale for each position; those that no row of the task sees are left at zero.
    #[inline(always)]
    fn value_scales(&self, stretch: &Range<usize>) -> [f32; STRETCH] {
        let mut scales = [0.0; STRETCH];
        let end = stretch.end.min(self.end_visible(self.tokens.end - 1));
        for position in stretch.start.max(self.first_visible(self.tokens.start))..end {
            let (cell, slot) = self.cell(position);
            scales[position - stretch.start] = self.kv.value_scale(cell, slot);
        }
        scales
    }

    /// Adds the weighted values of a stretch to each row's sums.
    ///
    /// # Safety
    /// `L` is enabled.
    #[inline(always)]
    unsafe fn add_values<L: Lanes, E: Element>(&self, stretch: &Range<usize>, rows: &mut Rows<'_>) {
        let num_rows = rows.state.len();
        let mut row = 0;
        while row < num_rows {
            let seen = self.seen_in(stretch, row);
            // Rows that see the same are computed together.
            let most = if L::MANY_REGISTERS { (num_rows - row).min(4) } else { 1 };
            let alike = (1..most).take_while(|next| self.seen_in(stretch, row + next) == seen).count() + 1;
            if !seen.is_empty() {
                // SAFETY: the caller's promise; the rows are there.
                unsafe {
                    match alike {
                        1 => self.add_values_of::<L, E, 1>(stretch, &seen, row, rows),
                        2 => self.add_values_of::<L, E, 2>(stretch, &seen, row, rows),
                        3 => self.add_values_of::<L, E, 3>(stretch, &seen, row, rows),
                        _ => self.add_values_of::<L, E, 4>(stretch, &seen, row, rows),
                    }
                }
            }
            row += alike;
        }
    }

    /// The same for `R` rows that see the same.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn add_values_of<L: Lanes, E: Element, const R: usize>(
        &self,
        stretch: &Range<usize>,
        seen: &Range<usize>,
        row: usize,
        rows: &mut Rows<'_>,
    ) {
        let mut dim = 0;
        while dim < self.kv.padded_head {
            // SAFETY: the caller's promise; `dim` and what is loaded from it stay below the padded head.
            unsafe {
                if L::MANY_REGISTERS && dim + 4 * LANES <= self.kv.padded_head {
                    self.add_values_tile::<L, E, R, 4>(stretch, seen, row, dim, rows);
                    dim += 4 * LANES;
                } else {
                    self.add_values_tile::<L, E, R, 1>(stretch, seen, row, dim, rows);
                    dim += LANES;
                }
            }
        }
    }

    /// `R` rows by `C` registers of the head, position by position.
    ///
    /// # Safety
    /// As above; `dim + 16 C` is at most the padded head.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn add_values_tile<L: Lanes, E: Element, const R: usize, const C: usize>(
        &self,
        stretch: &Range<usize>,
        seen: &Range<usize>,
        row: usize,
        dim: usize,
        rows: &mut Rows<'_>,
    ) {
        let (block_size, padded_head) = (self.kv.block_size, self.kv.padded_head);
        let sums_at = rows.sums[row * padded_head..][..R * padded_head].as_mut_ptr().wrapping_add(dim);
        let weights_at = rows.scores[row * STRETCH..][..R * STRETCH].as_ptr();
        // SAFETY: `L` is enabled; sums and weights of `R` rows were just sliced.
        unsafe {
            let mut sums = [[L::zero(); C]; R];
            for r in 0..R {
                let correction = L::splat(rows.state[row + r].correction);
                for c in 0..C {
                    let sum = L::load_f32(sums_at.wrapping_add(r * padded_head + c * LANES));
                    sums[r][c] = L::zero().add_product(sum, correction);
                }
            }
            let mut position = stretch.start + seen.start;
            let end = stretch.start + seen.end;
            while position < end {
                let (cell, slot) = self.cell(position);
                let num = (block_size - slot).min(end - position);
                let values = &cell[self.kv.values_at()..][..block_size * padded_head * size_of::<E>()];
                let mut value = values.as_ptr().cast::<E>().wrapping_add(slot * padded_head + dim);
                let mut weight = weights_at.wrapping_add(position - stretch.start);
                for _ in 0..num {
                    let mut parts = [L::zero(); C];
                    for c in 0..C {
                        parts[c] = E::load::<L>(value.wrapping_add(c * LANES));
                    }
                    for r in 0..R {
                        let weight = L::splat_from(weight.wrapping_add(r * STRETCH));
                        for c in 0..C {
                            sums[r][c] = sums[r][c].add_product(weight, parts[c]);
                        }
                    }
                    value = value.wrapping_add(padded_head);
                    weight = weight.wrapping_add(1);
                }
                position += num;
            }
            for r in 0..R {
                for c in 0..C {
                    sums[r][c].store(sums_at.wrapping_add(r * padded_head + c * LANES));
                }
            }
        }
    }

    /// Sums by totals, to the output.
    #[inline(always)]
    fn finish(&self, rows: &Rows<'_>) {
        let (group, head_dim) = (self.group(), self.heads.head_dim);
        for (token, first) in self.tokens.clone().zip((0..).step_by(group)) {
            // SAFETY: no other task has these tokens and heads.
            let out = unsafe { self.out.slice(self.heads_start(token), group * head_dim) };
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let scale = 1.0 / rows.state[first + head].total;
                let sums = &rows.sums[(first + head) * self.kv.padded_head..][..head_dim];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * scale);
            }
        }
    }
}

/// The largest score; a NaN is passed over.
#[inline(always)]
fn maximum(scores: &[f32; STRETCH]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = if score > *lane { score } else { *lane };
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = if lanes[lane + half] > lanes[lane] { lanes[lane + half] } else { lanes[lane] };
        }
    }
    lanes[0]
}

/// Replaces each score by e^(score − shift) and returns their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32; STRETCH], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in scores.as_chunks_mut::<LANES>().0 {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp(*score - shift);
            *lane += *score;
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests;
