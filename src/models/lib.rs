//! Computing: the model families, and everything between a step plan and its token ids.
//!
//! candle lives here and only here; no logit and no tensor leaves. From outside there is [`CandleFactory`], which makes
//! models of files, behind the engine's traits.
//!
//! - `factory` knows the families; each has a file of its own that says what is particular about it.
//! - `layers` are what families are made of, `kernels` the arithmetic beneath, as plain functions on slices.
//! - `weights` reads checkpoints, `gguf` those of llama.cpp with `ggml`'s block formats, `cache` holds keys and values, `batch` lays a plan out as rows, `sampler` and `rng`
//!   choose tokens, and `model` puts these together.
//!
//! Invariant: what is computed for a token depends on its sequence alone. Neither neighbours in the batch, nor the cut
//! of a prompt into chunks, nor block tables, nor the number of threads change a bit of it.

mod batch;
mod cache;
mod config;
mod encoders;
mod factory;
mod ggml;
mod gguf;
mod header;
#[expect(unsafe_code, reason = "instructions of the processor, and threads that write one output together")]
mod kernels;
mod layers;
mod llama;
#[expect(unsafe_code, reason = "a mapped file is memory that others could change")]
mod mapped;
#[doc(hidden)]
pub mod measure;
mod mistral;
mod model;
mod packing;
mod qwen2;
mod qwen3;
mod rng;
mod sampler;
mod smollm3;
mod weights;

pub use factory::CandleFactory;
