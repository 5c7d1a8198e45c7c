//! Against the formula in double precision, and bit equality over every way to cut up the work.

use candlewick_engine::KvCacheShape;

use super::*;
use crate::cache::KvCache;
use crate::kernels::level::tests::on_every_level;
use crate::kernels::tests::noise;

/// One sequence in a cache of shuffled blocks.
struct Sequence {
    heads: HeadShape,
    q: Vec<f32>,
    /// `(positions, kv heads, head_dim)`.
    k: Vec<f32>,
    v: Vec<f32>,
    cache: KvCache,
    block_table: Vec<BlockId>,
}

impl Sequence {
    fn new(len: usize, heads: HeadShape, block_size: usize, dtype: KvDType) -> Self {
        let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
        let num_blocks = len.div_ceil(block_size);
        let block_table: Vec<_> = (0..num_blocks as u32).rev().map(BlockId).collect();
        let width = num_kv_heads * head_dim;
        let (k, v) = (noise(2, len * width), noise(3, len * width));
        let shape = KvCacheShape { num_blocks: num_blocks as u32, block_size: block_size as u32 };
        let mut cache = KvCache::new(shape, 1, heads, dtype).unwrap();
        // What lies in slots that nobody wrote must never be looked at.
        cache.fill_for_test(0xFF);
        for position in 0..len {
            let block = block_table[position / block_size].0 as usize;
            let at = position * width..(position + 1) * width;
            cache.writer(0).write(block, position % block_size, &k[at.clone()], &v[at]);
        }
        Self { heads, q: noise(1, len * num_heads * head_dim), k, v, cache, block_table }
    }

    fn width(&self) -> usize {
        self.heads.num_heads * self.heads.head_dim
    }

    /// Attention of some rows.
    fn attend(&self, rows: Range<usize>, options: AttendOptions<'_>) -> Vec<f32> {
        let segment =
            Segment { first_row: 0, num_rows: rows.len(), start: rows.start, block_table: &self.block_table };
        let q = &self.q[rows.start * self.width()..rows.end * self.width()];
        let mut out = vec![f32::NAN; q.len()];
        attend(q, self.cache.layer(0), &[segment], self.heads, options, &mut out);
        out
    }

    /// The same by the formula, in double precision.
    fn by_the_book(&self, row: usize, head: usize, options: AttendOptions<'_>) -> Vec<f64> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = self.heads;
        let kv_head = head / (num_heads / num_kv_heads);
        let q = &self.q[(row * num_heads + head) * head_dim..][..head_dim];
        let at = |x: &[f32], position: usize| {
            x[(position * num_kv_heads + kv_head) * head_dim..][..head_dim].to_vec()
        };
        let first = options.window.map_or(0, |window| (row + 1).saturating_sub(window));
        let last = row.saturating_add(options.ahead).min(self.q.len() / self.width() - 1);
        let bias = |position: usize| match options.bias {
            None => 0.0,
            Some(RelativeBias { table, reach }) => {
                f64::from(table[head * (2 * reach - 1) + position + reach - 1 - row])
            }
        };
        let scale = options.scale.map_or(1.0 / (head_dim as f64).sqrt(), f64::from);
        let weights: Vec<f64> = (first..=last)
            .map(|position| {
                let k = at(&self.k, position);
                let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
                let score = dot * scale + bias(position);
                options.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
            })
            .collect();
        let sink = options.sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
        let total: f64 = weights.iter().sum::<f64>() + sink;
        let mut out = vec![0.0; head_dim];
        for (position, weight) in (first..=last).zip(weights) {
            for (out, v) in out.iter_mut().zip(at(&self.v, position)) {
                *out += weight / total * f64::from(v);
            }
        }
        out
    }

    fn check(&self, len: usize, options: AttendOptions<'_>, tolerance: f64) {
        let out = self.attend(0..len, options);
        for row in 0..len {
            for head in 0..self.heads.num_heads {
                let found = &out[(row * self.heads.num_heads + head) * self.heads.head_dim..];
                for (found, expected) in found.iter().zip(self.by_the_book(row, head, options)) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(
                        off < tolerance,
                        "{:?} {options:?} row {row}: {found}, not {expected}",
                        self.heads
                    );
                }
            }
        }
    }
}

const SHAPES: [(usize, usize, usize, usize); 6] =
    [(1, 1, 2, 4), (3, 3, 18, 16), (6, 2, 16, 3), (14, 2, 64, 16), (4, 1, 80, 1), (5, 1, 128, 32)];
const DTYPES: [(KvDType, f64); 4] =
    [(KvDType::F32, 1e-5), (KvDType::F16, 2e-3), (KvDType::Bf16, 1e-2), (KvDType::Int8, 2e-2)];

fn windowed(window: Option<usize>) -> AttendOptions<'static> {
    AttendOptions { window, ..AttendOptions::default() }
}

#[test]
fn agrees_with_the_formula() {
    on_every_level(|| {
        for (num_heads, num_kv_heads, head_dim, block_size) in SHAPES {
            let heads = HeadShape { num_heads, num_kv_heads, head_dim };
            for (dtype, tolerance) in DTYPES {
                let len = 150;
                let sequence = Sequence::new(len, heads, block_size, dtype);
                for window in [None, Some(1), Some(20), Some(500)] {
                    sequence.check(len, windowed(window), tolerance);
                }
            }
        }
    });
}

#[test]
fn soft_caps_scales_and_sinks_agree_with_the_formula() {
    on_every_level(|| {
        let heads = HeadShape { num_heads: 6, num_kv_heads: 2, head_dim: 32 };
        let sequence = Sequence::new(90, heads, 16, KvDType::F32);
        let sinks = noise(8, 6);
        for options in [
            AttendOptions { soft_cap: Some(0.5), ..AttendOptions::default() },
            AttendOptions { scale: Some(1.0), ..AttendOptions::default() },
            AttendOptions { sinks: Some(&sinks), ..AttendOptions::default() },
            AttendOptions {
                window: Some(33),
                soft_cap: Some(2.0),
                scale: Some(0.7),
                sinks: Some(&sinks),
                ..AttendOptions::default()
            },
        ] {
            sequence.check(90, options, 1e-5);
        }
    });
}

#[test]
fn what_lies_ahead_and_biases_of_distance_agree_with_the_formula() {
    on_every_level(|| {
        let len = 150;
        for (num_heads, num_kv_heads, head_dim, block_size) in SHAPES {
            let heads = HeadShape { num_heads, num_kv_heads, head_dim };
            let reach = len + 7;
            let table = noise(9, num_heads * (2 * reach - 1));
            let bias = Some(RelativeBias { table: &table, reach });
            for (dtype, tolerance) in DTYPES {
                let sequence = Sequence::new(len, heads, block_size, dtype);
                for (window, ahead) in [(None, usize::MAX), (Some(9), 8), (Some(65), 64), (None, 3)] {
                    let options = AttendOptions { window, ahead, ..AttendOptions::default() };
                    sequence.check(len, options, tolerance);
                    sequence.check(len, AttendOptions { bias, ..options }, tolerance);
                }
            }
        }
    });
}

#[test]
fn neither_chunks_nor_blocks_change_a_bit() {
    on_every_level(|| {
        for (num_heads, num_kv_heads, head_dim, _) in SHAPES {
            let heads = HeadShape { num_heads, num_kv_heads, head_dim };
            let len = 150;
            for (dtype, _) in DTYPES {
                for window in [None, Some(20)] {
                    let options = windowed(window);
                    let whole = Sequence::new(len, heads, 16, dtype).attend(0..len, options);
                    for (chunk, block_size) in [(1, 16), (7, 4), (64, 1), (75, 128), (16, 48)] {
                        let sequence = Sequence::new(len, heads, block_size, dtype);
                        let parts: Vec<f32> = (0..len)
                            .step_by(chunk)
                            .flat_map(|start| sequence.attend(start..(start + chunk).min(len), options))
                            .collect();
                        assert!(
                            parts == whole,
                            "{heads:?} {dtype:?} {window:?} by {chunk}, blocks of {block_size}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn what_follows_a_row_does_not_reach_it() {
    on_every_level(|| {
        let heads = HeadShape { num_heads: 2, num_kv_heads: 1, head_dim: 16 };
        let sound = Sequence::new(40, heads, 16, KvDType::F32);
        let mut poisoned = Sequence::new(40, heads, 16, KvDType::F32);
        poisoned.cache.writer(0).write(
            poisoned.block_table[2].0 as usize,
            7,
            &[f32::NAN; 16],
            &[f32::NAN; 16],
        );
        let (sound, poisoned) = (sound.attend(0..40, windowed(None)), poisoned.attend(0..40, windowed(None)));
        assert!(poisoned[..39 * 32] == sound[..39 * 32], "rows before the one that is no number");
        assert!(poisoned[39 * 32..].iter().all(|x| x.is_nan()), "and that row itself");
    });
}
