//! Deciding, without tensors: what a model is asked to do next, and what its answers mean as text.
//!
//! This room knows no candle and no actor. It holds the traits that a model and a source of files implement
//! ([`Model`], [`Weights`], [`ModelFactory`], [`ModelSource`]), the pure scheduler with its blocks and sequences, and
//! everything between token ids and text: tokenizer, chat template, incremental detokenisation, stop strings, parsers.

mod beam;
pub mod blocks;
pub mod encode;
mod error;
pub mod fake;
pub mod files;
pub mod gguf;
pub mod grammar;
mod model;
mod pace;
mod prefix;
mod sampling;
mod scheduler;
mod sequence;
mod source;
mod speculation;
pub mod text;

pub use beam::{Beam, BeamSearch, FinishedBeam};
pub use error::{LoadError, StepError};
pub use model::{
    BlockId, Chunk, DType, Kernels, KvCacheShape, KvDType, LoadOptions, Model, ModelFactory, ModelInfo,
    PromptLogprobs, Quantization, RowFailure, SampleSpec, SampledToken, SequenceId, StepOutcome, StepPlan,
    TokenHistory, TokenScore, Weights,
};
pub use sampling::{Distribution, GenerationDefaults, ResolveLimits, SamplingParams, ThinkingBudget};
pub use scheduler::{News, Scheduler, SchedulerCounts, SchedulerLimits, SequenceWork, Workload};
pub use sequence::{Branch, Sequence, SequenceEnd};
pub use source::{
    FileBytes, FileEntry, ModelFile, ModelFiles, ModelSource, OnBytes, Snapshot, SourceListing,
};
pub use speculation::{DraftAsk, Drafter, Drafts, SpeculationLimits};
