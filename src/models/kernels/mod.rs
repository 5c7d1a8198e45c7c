//! The arithmetic, as plain functions on slices. No tensor, no config, no model.
//!
//! Invariant of every kernel: what is computed for a row depends on that row alone. Reductions run in an order fixed
//! by the row's own shape (its width, its context), so the result is the same bit for bit whatever the batch, the
//! number of threads, the cut of a prompt into chunks or the layout of the cache.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod dot;
pub(crate) mod exp;
pub(crate) mod instructions;
pub(crate) mod kv;
pub(crate) mod lanes;
pub(crate) mod layer_norm;
pub(crate) mod level;
pub(crate) mod norm;
pub(crate) mod packed;
pub(crate) mod pages;
pub(crate) mod pool;
pub(crate) mod rope;
pub(crate) mod rows;

#[cfg(test)]
pub(crate) mod tests {
    /// Numbers in [-1, 1) that look random and are always the same.
    pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
        (0..len).map(|index| crate::rng::uniform(seed, 0, index as u32) as f32 * 2.0 - 1.0).collect()
    }
}
