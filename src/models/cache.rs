//! The paged KV cache of one running model.
//!
//! One anonymous mapping holds keys and values of every layer, in `f32`. The system gives a page when it is first
//! written, so a large cache costs nothing until sequences fill it, and the first request pays nothing visible.

use candlewick_engine::{KvCacheShape, StepError};
use memmap2::MmapMut;

use crate::kernels::attention::{HeadShape, PagedKv, Segment};
use crate::kernels::lanes::LANES;

/// Keys and values, each layer `(2, blocks, kv heads, block_size, padded head)`.
pub(crate) struct KvCache {
    memory: MmapMut,
    shape: KvCacheShape,
    heads: HeadShape,
    padded_head: usize,
}

impl KvCache {
    /// An empty cache. Fails if the system refuses the addresses.
    pub(crate) fn new(shape: KvCacheShape, num_layers: usize, heads: HeadShape) -> Result<Self, StepError> {
        if shape.num_blocks == 0 || shape.block_size == 0 {
            return Err(StepError::Plan(format!(
                "a KV cache needs blocks and tokens in them, not {} blocks of {}",
                shape.num_blocks, shape.block_size
            )));
        }
        let block_bytes = u64::from(shape.block_size) * bytes_per_token(num_layers, heads);
        let bytes = block_bytes
            .checked_mul(u64::from(shape.num_blocks))
            .and_then(|bytes| usize::try_from(bytes).ok());
        let memory = bytes
            .ok_or_else(|| "more than the address space".to_owned())
            .and_then(|bytes| MmapMut::map_anon(bytes).map_err(|error| error.to_string()))
            .map_err(|why| {
                StepError::OutOfMemory(format!(
                    "a KV cache of {} blocks of {block_bytes} bytes could not be had: {why}",
                    shape.num_blocks
                ))
            })?;
        Ok(Self { memory, shape, heads, padded_head: heads.head_dim.next_multiple_of(LANES) })
    }

    /// Number of blocks and their size.
    pub(crate) fn shape(&self) -> KvCacheShape {
        self.shape
    }

    /// Elements of a layer's keys; its values are as many.
    fn half_layer(&self) -> usize {
        let tokens = self.shape.num_blocks as usize * self.shape.block_size as usize;
        tokens * self.heads.num_kv_heads * self.padded_head
    }

    /// The whole mapping as elements.
    fn elements(&self) -> &[f32] {
        // SAFETY: a mapping is aligned to a page, its length is a multiple of four, and every bit pattern is an f32.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() / size_of::<f32>())
        }
    }

    /// The keys and values of a layer, for attention.
    pub(crate) fn layer(&self, layer: usize) -> PagedKv<'_> {
        let half = self.half_layer();
        let (keys, values) = self.elements()[layer * 2 * half..][..2 * half].split_at(half);
        PagedKv { keys, values, block_size: self.shape.block_size as usize, padded_head: self.padded_head }
    }

    /// Writes the keys and values of a batch, both `(rows, kv heads × head_dim)`, to where its block tables say.
    pub(crate) fn write(&mut self, layer: usize, segments: &[Segment<'_>], keys: &[f32], values: &[f32]) {
        let half = self.half_layer();
        let HeadShape { num_kv_heads, head_dim, .. } = self.heads;
        let (block_size, padded_head) = (self.shape.block_size as usize, self.padded_head);
        let elements = self.memory.len() / size_of::<f32>();
        // SAFETY: as in `elements`, and the mapping is borrowed exclusively.
        let elements =
            unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast::<f32>(), elements) };
        let (layer_keys, layer_values) = elements[layer * 2 * half..][..2 * half].split_at_mut(half);
        let width = num_kv_heads * head_dim;
        for segment in segments {
            for token in 0..segment.num_rows {
                let position = segment.start + token;
                let block = segment.block_table[position / block_size].0 as usize;
                let row = (segment.first_row + token) * width;
                for head in 0..num_kv_heads {
                    let from = row + head * head_dim..row + (head + 1) * head_dim;
                    let slot = (block * num_kv_heads + head) * block_size + position % block_size;
                    let to = slot * padded_head..slot * padded_head + head_dim;
                    layer_keys[to.clone()].copy_from_slice(&keys[from.clone()]);
                    layer_values[to].copy_from_slice(&values[from]);
                }
            }
        }
    }
}

/// Bytes of cache for one token, all layers together.
pub(crate) fn bytes_per_token(num_layers: usize, heads: HeadShape) -> u64 {
    let padded_head = heads.head_dim.next_multiple_of(LANES);
    (2 * num_layers * heads.num_kv_heads * padded_head * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use candlewick_engine::BlockId;

    use super::*;

    const HEADS: HeadShape = HeadShape { num_heads: 4, num_kv_heads: 2, head_dim: 3 };

    #[test]
    fn tokens_lie_where_the_block_table_says() {
        let mut cache = KvCache::new(KvCacheShape { num_blocks: 4, block_size: 2 }, 2, HEADS).unwrap();
        let segment = Segment { first_row: 0, num_rows: 2, start: 1, block_table: &[BlockId(3), BlockId(1)] };
        let keys: Vec<f32> = (1..=12).map(|x| x as f32).collect();
        let values: Vec<f32> = keys.iter().map(|x| -x).collect();
        cache.write(1, &[segment], &keys, &values);

        let layer = cache.layer(1);
        let at = |block: usize, head: usize, slot: usize| ((block * 2 + head) * 2 + slot) * 16;
        assert_eq!(layer.keys[at(3, 0, 1)..][..4], [1.0, 2.0, 3.0, 0.0]);
        assert_eq!(layer.keys[at(3, 1, 1)..][..4], [4.0, 5.0, 6.0, 0.0]);
        assert_eq!(layer.keys[at(1, 0, 0)..][..4], [7.0, 8.0, 9.0, 0.0]);
        assert_eq!(layer.values[at(1, 1, 0)..][..4], [-10.0, -11.0, -12.0, 0.0]);
        assert!(cache.layer(0).keys.iter().all(|&x| x == 0.0), "other layers are untouched");
    }

    #[test]
    fn a_cache_beyond_all_memory_is_refused() {
        let shape = KvCacheShape { num_blocks: u32::MAX, block_size: u32::MAX };
        assert!(matches!(KvCache::new(shape, 2, HEADS), Err(StepError::OutOfMemory(_))));
    }
}
