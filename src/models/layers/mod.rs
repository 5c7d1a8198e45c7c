//! The layers that families are made of. Each takes and gives candle tensors of `(rows, features)`: a step's tokens are
//! rows, whichever sequence they belong to, and only attention and rope look at where a row belongs.
//!
//! A layer is a candle custom op around a kernel, so that a device's version can stand beside the CPU's. Ops run on
//! the pool that the caller is in, never on candle's own: a panic there would poison candle for the whole process. `reference` is the exception, for those
//! who ask for it.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod decoder;
pub(crate) mod embedding;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod norm;
mod reference;
pub(crate) mod rope;
pub(crate) mod slice;
