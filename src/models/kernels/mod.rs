//! The arithmetic, as plain functions on slices. No tensor, no config, no model.
//!
//! Invariant of every kernel: what is computed for a row depends on that row alone. Reductions run in an order fixed
//! by the row's own shape (its width, its context), so the result is the same bit for bit whatever the batch, the
//! number of threads, the cut of a prompt into chunks or the layout of the cache.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod dot;
pub(crate) mod exp;
pub(crate) mod lanes;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod rows;
