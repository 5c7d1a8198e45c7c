//! Keys and values into the cells of the [cache](crate::cache), by several threads at once.

use candlewick_engine::KvDType;
use half::{bf16, f16};

use super::attention::HeadShape;
use super::lanes::LANES;
use super::rows::SharedOutput;

/// A layer that is being written. Two threads must not write one token.
pub(crate) struct KvWriter<'a> {
    cells: SharedOutput<'a, u8>,
    cell_bytes: usize,
    block_size: usize,
    heads: HeadShape,
    dtype: KvDType,
}

impl<'a> KvWriter<'a> {
    /// Of a layer's cells, each of so many bytes.
    pub(crate) fn new(
        cells: &'a mut [u8],
        cell_bytes: usize,
        block_size: usize,
        heads: HeadShape,
        dtype: KvDType,
    ) -> Self {
        Self { cells: SharedOutput::new(cells), cell_bytes, block_size, heads, dtype }
    }

    /// Writes a token's keys and values, both `(kv heads × head_dim)`. Exclusively borrowed, so no two can meet.
    #[cfg(test)]
    pub(crate) fn write(&mut self, block: usize, slot: usize, keys: &[f32], values: &[f32]) {
        // SAFETY: nobody else has the writer.
        unsafe { self.write_shared(block, slot, keys, values) };
    }

    /// The same, for several threads at once.
    ///
    /// # Safety
    /// No other thread writes this slot of this block, nor reads the layer.
    pub(crate) unsafe fn write_shared(&self, block: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let HeadShape { num_kv_heads, head_dim, .. } = self.heads;
        for head in 0..num_kv_heads {
            let (keys, values) =
                (&keys[head * head_dim..][..head_dim], &values[head * head_dim..][..head_dim]);
            let cell = (block * num_kv_heads + head) * self.cell_bytes;
            // SAFETY: the caller's promise, passed on.
            unsafe {
                match self.dtype {
                    KvDType::F32 => self.write_head(cell, slot, keys, values, f32::to_ne_bytes),
                    KvDType::F16 => {
                        self.write_head(cell, slot, keys, values, |x| f16::from_f32(x).to_ne_bytes());
                    }
                    KvDType::Bf16 => {
                        self.write_head(cell, slot, keys, values, |x| bf16::from_f32(x).to_ne_bytes());
                    }
                    KvDType::Int8 => self.write_head_int8(cell, slot, keys, values),
                }
            }
        }
    }

    /// # Safety
    /// As for `write_shared`.
    unsafe fn write_head_int8(&self, cell: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let (key_scale, value_scale) = (scale_of(keys), scale_of(values));
        let inverse = |scale: f32| if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        let (by_key, by_value) = (inverse(key_scale), inverse(value_scale));
        let quantized =
            |x: &[f32], by: f32| -> Vec<f32> { x.iter().map(|x| (x * by).round_ties_even()).collect() };
        let padded_head = self.heads.head_dim.next_multiple_of(LANES);
        let scales = cell + (self.heads.head_dim + padded_head) * self.block_size;
        // SAFETY: the caller's promise, passed on.
        unsafe {
            let narrow = |x: f32| (x as i8).to_ne_bytes();
            self.write_head(cell, slot, &quantized(keys, by_key), &quantized(values, by_value), narrow);
            self.cells.slice(scales + slot * 4, 4).copy_from_slice(&key_scale.to_ne_bytes());
            let values_after = scales + (self.block_size + slot) * 4;
            self.cells.slice(values_after, 4).copy_from_slice(&value_scale.to_ne_bytes());
        }
    }

    /// # Safety
    /// As for `write_shared`.
    #[inline(always)]
    unsafe fn write_head<const N: usize>(
        &self,
        cell: usize,
        slot: usize,
        keys: &[f32],
        values: &[f32],
        narrow: impl Fn(f32) -> [u8; N],
    ) {
        let head_dim = self.heads.head_dim;
        let padded_head = head_dim.next_multiple_of(LANES);
        let values_at = cell + (head_dim * self.block_size + slot * padded_head) * N;
        // SAFETY: the caller's promise: these places are this token's alone.
        unsafe {
            for (d, &key) in keys.iter().enumerate() {
                let at = cell + (d * self.block_size + slot) * N;
                self.cells.slice(at, N).copy_from_slice(&narrow(key));
            }
            let row = self.cells.slice(values_at, padded_head * N);
            let (body, padding) = row.split_at_mut(head_dim * N);
            for (out, &value) in body.as_chunks_mut::<N>().0.iter_mut().zip(values) {
                *out = narrow(value);
            }
            padding.fill(0);
        }
    }
}

/// The scale that brings the largest magnitude to 127; not a number if an element is not.
fn scale_of(x: &[f32]) -> f32 {
    let largest = x.iter().fold(0.0f32, |largest, x| if x.abs() > largest { x.abs() } else { largest });
    let poison: f32 = x.iter().map(|x| x * 0.0).sum();
    largest / 127.0 + poison
}
