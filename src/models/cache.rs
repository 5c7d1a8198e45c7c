//! The paged KV cache of one running model.
//!
//! One anonymous mapping, on huge pages, holds keys and values of every layer. The system gives a page when it is first
//! written, so a large cache costs nothing until sequences fill it, and the first request pays nothing visible.
//!
//! A block has a cell for each key-value head: its keys as `(head_dim, block_size)`, so that a score is computed for
//! sixteen positions at once; its values as `(block_size, padded head)`; and, where elements are bytes, a scale for each
//! key and each value.

use candlewick_engine::{BlockId, KvCacheShape, KvDType, StepError};
use half::{bf16, f16};

use crate::kernels::attention::HeadShape;
use crate::kernels::kv::KvWriter;
use crate::kernels::lanes::LANES;
use crate::kernels::pages::Pages;

/// Bytes of one element.
const fn element_bytes(dtype: KvDType) -> usize {
    match dtype {
        KvDType::F32 => 4,
        KvDType::F16 | KvDType::Bf16 => 2,
        KvDType::Int8 => 1,
    }
}

/// Bytes of one token's keys and values in one head, its share of the scales included.
const fn token_bytes(dtype: KvDType, head_dim: usize) -> usize {
    let scales = if matches!(dtype, KvDType::Int8) { 2 * size_of::<f32>() } else { 0 };
    (head_dim + head_dim.next_multiple_of(LANES)) * element_bytes(dtype) + scales
}

/// Keys and values of all layers, each layer `(blocks, kv heads)` cells.
pub(crate) struct KvCache {
    memory: Pages,
    shape: KvCacheShape,
    heads: HeadShape,
    dtype: KvDType,
}

impl KvCache {
    /// An empty cache. Fails if the system refuses the addresses.
    pub(crate) fn new(
        shape: KvCacheShape,
        num_layers: usize,
        heads: HeadShape,
        dtype: KvDType,
    ) -> Result<Self, StepError> {
        if shape.num_blocks == 0 || shape.block_size == 0 {
            return Err(StepError::Plan(format!(
                "a KV cache needs blocks and tokens in them, not {} blocks of {}",
                shape.num_blocks, shape.block_size
            )));
        }
        let block_bytes = u64::from(shape.block_size) * bytes_per_token(num_layers, heads, dtype);
        let bytes = block_bytes
            .checked_mul(u64::from(shape.num_blocks))
            .and_then(|bytes| usize::try_from(bytes).ok());
        let memory = bytes
            .ok_or_else(|| "more than the address space".to_owned())
            .and_then(|bytes| Pages::new(bytes).map_err(|error| error.to_string()))
            .map_err(|why| {
                StepError::OutOfMemory(format!(
                    "a KV cache of {} blocks of {block_bytes} bytes could not be had: {why}",
                    shape.num_blocks
                ))
            })?;
        Ok(Self { memory, shape, heads, dtype })
    }

    /// Number of blocks and their size.
    pub(crate) fn shape(&self) -> KvCacheShape {
        self.shape
    }

    fn cell_bytes(&self) -> usize {
        self.shape.block_size as usize * token_bytes(self.dtype, self.heads.head_dim)
    }

    fn layer_bytes(&self) -> usize {
        self.shape.num_blocks as usize * self.heads.num_kv_heads * self.cell_bytes()
    }

    /// The keys and values of a layer, for attention.
    pub(crate) fn layer(&self, layer: usize) -> PagedKv<'_> {
        let bytes = self.layer_bytes();
        PagedKv {
            cells: &self.memory.as_slice()[layer * bytes..][..bytes],
            cell_bytes: self.cell_bytes(),
            num_kv_heads: self.heads.num_kv_heads,
            head_dim: self.heads.head_dim,
            dtype: self.dtype,
            block_size: self.shape.block_size as usize,
            padded_head: self.heads.head_dim.next_multiple_of(LANES),
        }
    }

    /// A layer, to be written by several threads, each token by one of them.
    pub(crate) fn writer(&mut self, layer: usize) -> KvWriter<'_> {
        let bytes = self.layer_bytes();
        let (shape, heads, dtype, cell_bytes) = (self.shape, self.heads, self.dtype, self.cell_bytes());
        let cells = &mut self.memory.as_mut_slice()[layer * bytes..][..bytes];
        KvWriter::new(cells, cell_bytes, shape.block_size as usize, heads, dtype)
    }

    /// Gives the memory of these blocks back to the system, in runs that are worth it. They read as zeros.
    pub(crate) fn release(&mut self, blocks: &[BlockId]) {
        let mut blocks: Vec<usize> = blocks.iter().map(|block| block.0 as usize).collect();
        blocks.sort_unstable();
        let (layer_bytes, block_bytes) = (self.layer_bytes(), self.heads.num_kv_heads * self.cell_bytes());
        let num_layers = self.memory.as_slice().len() / layer_bytes.max(1);
        for run in blocks.chunk_by(|one, other| one + 1 == *other) {
            for layer in 0..num_layers {
                let start = layer * layer_bytes + run[0] * block_bytes;
                self.memory.release(start..start + run.len() * block_bytes);
            }
        }
    }

    /// Every byte of the cache.
    #[cfg(test)]
    pub(crate) fn fill_for_test(&mut self, byte: u8) {
        self.memory.as_mut_slice().fill(byte);
    }
}

/// The cache of one layer.
#[derive(Clone, Copy)]
pub(crate) struct PagedKv<'a> {
    cells: &'a [u8],
    cell_bytes: usize,
    num_kv_heads: usize,
    head_dim: usize,
    /// What elements are.
    pub(crate) dtype: KvDType,
    /// Tokens in a block.
    pub(crate) block_size: usize,
    /// `head_dim` rounded up to whole lanes; the padding of values is zero.
    pub(crate) padded_head: usize,
}

impl<'a> PagedKv<'a> {
    /// Keys and values of a block in one head.
    #[inline(always)]
    pub(crate) fn cell(&self, block: usize, kv_head: usize) -> &'a [u8] {
        &self.cells[(block * self.num_kv_heads + kv_head) * self.cell_bytes..][..self.cell_bytes]
    }

    /// Appends the key and the value of a slot in one head, in `f32`.
    pub(crate) fn read(
        &self,
        block: usize,
        slot: usize,
        kv_head: usize,
        keys: &mut Vec<f32>,
        values: &mut Vec<f32>,
    ) {
        let (cell, size) = (self.cell(block, kv_head), element_bytes(self.dtype));
        let element = |index: usize| {
            let bytes = &cell[index * size..][..size];
            match self.dtype {
                KvDType::F32 => f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                KvDType::F16 => f16::from_ne_bytes([bytes[0], bytes[1]]).to_f32(),
                KvDType::Bf16 => bf16::from_ne_bytes([bytes[0], bytes[1]]).to_f32(),
                KvDType::Int8 => f32::from(bytes[0] as i8),
            }
        };
        let scales = match self.dtype {
            KvDType::Int8 => (self.key_scale(cell, slot), self.value_scale(cell, slot)),
            _ => (1.0, 1.0),
        };
        let values_at = self.head_dim * self.block_size;
        keys.extend((0..self.head_dim).map(|d| scales.0 * element(d * self.block_size + slot)));
        values
            .extend((0..self.head_dim).map(|d| scales.1 * element(values_at + slot * self.padded_head + d)));
    }

    /// Where values begin in a cell.
    #[inline(always)]
    pub(crate) fn values_at(&self) -> usize {
        self.head_dim * self.block_size * element_bytes(self.dtype)
    }

    /// The scale of a key of bytes.
    #[inline(always)]
    pub(crate) fn key_scale(&self, cell: &[u8], slot: usize) -> f32 {
        self.scale(cell, slot)
    }

    /// The scale of a value of bytes.
    #[inline(always)]
    pub(crate) fn value_scale(&self, cell: &[u8], slot: usize) -> f32 {
        self.scale(cell, self.block_size + slot)
    }

    #[inline(always)]
    fn scale(&self, cell: &[u8], index: usize) -> f32 {
        let (scales, _) = cell[(self.head_dim + self.padded_head) * self.block_size..].as_chunks::<4>();
        f32::from_ne_bytes(scales[index])
    }
}

/// Bytes of cache for one token, all layers together.
pub(crate) fn bytes_per_token(num_layers: usize, heads: HeadShape, dtype: KvDType) -> u64 {
    (num_layers * heads.num_kv_heads * token_bytes(dtype, heads.head_dim)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: HeadShape = HeadShape { num_heads: 4, num_kv_heads: 2, head_dim: 3 };

    #[test]
    fn tokens_lie_where_they_were_written() {
        let shape = KvCacheShape { num_blocks: 4, block_size: 2 };
        let mut cache = KvCache::new(shape, 2, HEADS, KvDType::F32).unwrap();
        cache.writer(1).write(3, 1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);

        let layer = cache.layer(1);
        let cell = layer.cell(3, 1);
        let at = |index: usize| f32::from_ne_bytes(cell[index * 4..][..4].try_into().unwrap());
        // Keys as (3, 2), values as (2, 16).
        assert_eq!([at(1), at(3), at(5)], [4.0, 5.0, 6.0]);
        assert_eq!(layer.values_at(), 24);
        assert_eq!([at(6 + 16), at(6 + 17), at(6 + 18), at(6 + 19)], [-4.0, -5.0, -6.0, 0.0]);
        assert_eq!([at(0), at(6)], [0.0, 0.0], "the other slot is untouched");
        assert!(cache.layer(0).cells.iter().all(|&x| x == 0), "other layers are untouched");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn blocks_that_are_given_back_read_as_zeros_and_their_neighbours_stay() {
        // Blocks of 36 KiB: most of a run of ten lies in whole pages.
        let heads = HeadShape { num_heads: 4, num_kv_heads: 4, head_dim: 64 };
        let shape = KvCacheShape { num_blocks: 20, block_size: 18 };
        let mut cache = KvCache::new(shape, 2, heads, KvDType::F32).unwrap();
        cache.fill_for_test(7);
        cache.release(&(5..15).rev().map(BlockId).collect::<Vec<_>>());
        for layer in 0..2 {
            let kept = |block: usize| {
                (0..4).all(|head| cache.layer(layer).cell(block, head).iter().all(|&x| x == 7))
            };
            assert!((0..5).chain(15..20).all(kept), "layer {layer}");
            let zeros = |block: usize| {
                (0..4).all(|head| cache.layer(layer).cell(block, head).iter().all(|&x| x == 0))
            };
            assert!((8..12).all(zeros), "layer {layer}");
        }
    }

    #[test]
    fn a_cache_beyond_all_memory_is_refused() {
        let shape = KvCacheShape { num_blocks: u32::MAX, block_size: u32::MAX };
        assert!(matches!(KvCache::new(shape, 2, HEADS, KvDType::F32), Err(StepError::OutOfMemory(_))));
    }
}
