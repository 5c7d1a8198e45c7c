//! The seam between deciding and computing: a plan of token ids, positions and blocks goes in, token ids and what was
//! asked of log-probabilities come out. Logits never cross it.

use std::fmt;
use std::sync::Arc;

use candlewick_protocol::RequestKey;
use serde_json::Value;

use crate::encode::{Encoder, EncoderInfo};
use crate::grammar::{GrammarProgress, TokenMask};
use crate::{LoadError, ModelFiles, SamplingParams, StepError};

/// One block of the paged KV cache, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// One sequence: a choice of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    /// The request it belongs to.
    pub request: RequestKey,
    /// Which of the request's choices it is.
    pub choice: u32,
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.request, self.choice)
    }
}

/// What a model does in one step: for each chunk, compute its tokens, write their keys and values into its blocks, and
/// sample where asked.
#[derive(Debug, Clone, Default)]
pub struct StepPlan {
    /// At most one chunk per sequence.
    pub chunks: Vec<Chunk>,
}

impl StepPlan {
    /// Tokens computed in this step.
    pub fn num_tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.token_ids.len()).sum()
    }
}

/// Consecutive tokens of one sequence that are computed in one step: one token while decoding, more while prefilling, and
/// more while what follows is guessed.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Whose tokens these are.
    pub sequence: SequenceId,
    /// The tokens, at least one. Behind the last known one may come drafted ones: a guess at what will be sampled.
    pub token_ids: Vec<u32>,
    /// Position of the first of them: tokens before it are in the cache already.
    pub start: usize,
    /// The sequence's blocks in order: the token at position `p` lives in `block_table[p / block_size]` at slot
    /// `p % block_size`. Covers all positions up to the end of this chunk.
    pub block_table: Vec<BlockId>,
    /// Sample at the chunk's last places: after its last known token, and after each drafted one. Empty unless the chunk
    /// reaches the last known token and there is a token left to generate (not so where only the prompt's scores are
    /// wanted). What is sampled after a drafted token counts only if that token was right.
    pub samples: Vec<SampleSpec>,
    /// Score the prompt: for each token of the chunk, the log-probability of the token that follows it in the prompt.
    pub prompt_logprobs: Option<PromptLogprobs>,
}

impl Chunk {
    /// Which of the chunk's tokens is the first that is sampled after; its length where nothing is.
    pub fn first_sampled(&self) -> usize {
        self.token_ids.len() - self.samples.len()
    }

    /// The drafted tokens.
    pub fn draft(&self) -> &[u32] {
        &self.token_ids[(self.first_sampled() + 1).min(self.token_ids.len())..]
    }

    /// Of what was sampled at each place, in order, what counts: the first, and each that follows a draft that was right.
    /// A place that fails is the last.
    pub fn accept<E>(
        &self,
        sampled: impl IntoIterator<Item = Result<SampledToken, E>>,
    ) -> (Vec<SampledToken>, Option<E>) {
        let mut accepted = Vec::new();
        let mut draft = self.draft().iter();
        for token in sampled {
            match token {
                Ok(token) => accepted.push(token),
                Err(why) => return (accepted, Some(why)),
            }
            if draft.next() != accepted.last().map(|token| &token.token_id) {
                break;
            }
        }
        (accepted, None)
    }
}

/// What is asked about the prompt's own tokens.
#[derive(Debug, Clone)]
pub struct PromptLogprobs {
    /// How many of the most likely tokens to report at each place.
    pub num_top: u32,
    /// The token that follows each token of the chunk within the prompt; shorter than the chunk by one where the chunk
    /// ends the prompt.
    pub next_token_ids: Vec<u32>,
}

/// How to sample one token. Holds all that sampling depends on, so that a resumed sequence draws the same token again.
#[derive(Debug, Clone, Default)]
pub struct SampleSpec {
    /// The request's resolved parameters.
    pub params: Arc<SamplingParams>,
    /// Which choice: each draws from a stream of its own.
    pub choice: u32,
    /// How many tokens were generated before this one, drafted ones included: the counter of the counter-based RNG, and
    /// what `min_tokens` compares with.
    pub num_generated: u32,
    /// The tokens so far, drafted ones included, given only if `params.needs_history()`.
    pub history: Option<TokenHistory>,
    /// What the answer is held to; it stands behind the known tokens.
    pub grammar: Option<Arc<GrammarProgress>>,
    /// The drafted tokens before this one, given only if there is a grammar.
    pub drafted: Vec<u32>,
    /// The token that must come, whatever the logits: the end of reasoning whose budget is used.
    pub forced: Option<u32>,
}

impl SampleSpec {
    /// What may come next, where the answer is held to a form. Waits for the mask if it is still being computed.
    ///
    /// # Errors
    /// The grammar cannot go on: the sequence fails, and no other.
    pub fn mask(&self) -> Result<Option<Arc<TokenMask>>, String> {
        let num_known = self.num_generated - self.drafted.len() as u32;
        let mask = self.grammar.as_ref().map(|grammar| grammar.mask(num_known, &self.drafted)).transpose();
        mask.map_err(|fault| fault.to_string())
    }
}

/// The tokens of a sequence, for penalties.
#[derive(Debug, Clone)]
pub struct TokenHistory {
    /// The prompt.
    pub prompt: Arc<[u32]>,
    /// What was generated.
    pub output: Vec<u32>,
}

/// What came of a step, chunk by chunk in the plan's order.
#[derive(Debug, Clone, Default)]
pub struct StepOutcome {
    /// For each chunk: what was sampled, where that was asked for. One token, and one more for each drafted token that was
    /// right before the first that was not.
    pub sampled: Vec<Vec<SampledToken>>,
    /// For each chunk: scores of the prompt, one for each of `next_token_ids`, where asked for.
    pub prompt_scores: Vec<Vec<TokenScore>>,
    /// Chunks for which there is no token to sample. Their sequences fail, and no others.
    pub failed: Vec<RowFailure>,
}

/// Why a sequence cannot go on, though the step was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFailure {
    /// Which chunk of the plan.
    pub chunk: usize,
    /// What is told to whoever asked.
    pub why: String,
}

/// A sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub token_id: u32,
    /// Its log-probability and the likeliest tokens, if `params.logprobs` asks for them.
    pub score: Option<TokenScore>,
}

/// How likely a token was, by the model's raw distribution (before bias, penalties and temperature).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// The token's natural log-probability.
    pub logprob: f32,
    /// Its place among all tokens by likelihood, from 1; ties in order of id.
    pub rank: u32,
    /// The most likely tokens, best first, with their log-probabilities; ties in order of id. Behind them come those of
    /// `params.logprob_token_ids` that are not among them.
    pub top: Vec<(u32, f32)>,
}

/// A model at work: weights with a KV cache of its own. It goes to the stepper thread and comes back with the outcome.
///
/// Contract: the arithmetic of a chunk does not depend on the other chunks of the plan, on how a prompt was cut into
/// chunks, or on which blocks it was given.
pub trait Model: Send {
    /// Computes one step. After an error the cache's content is undefined, and the model is dropped.
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, StepError>;

    /// What these blocks hold is not needed any more: their memory may go back to the system until they are written again.
    fn release(&mut self, _blocks: &[BlockId]) {}
}

/// A model at rest: weights, shared by every batcher that ever runs them. They outlive a crash.
pub trait Weights: Send + Sync {
    /// What is known of the model.
    fn info(&self) -> &ModelInfo;

    /// A model with an empty KV cache of this shape. Memory of the cache is taken as it is first written. Only of what
    /// generates: an encoder, by its [`ModelInfo`], has [`Weights::start_encoder`].
    fn start(&self, cache: KvCacheShape) -> Result<Box<dyn Model>, StepError>;

    /// An encoder.
    fn start_encoder(&self) -> Result<Box<dyn Encoder>, StepError> {
        Err(StepError::Plan("this model generates text and encodes none".into()))
    }
}

/// Size of a paged KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheShape {
    /// Number of blocks.
    pub num_blocks: u32,
    /// Tokens in a block.
    pub block_size: u32,
}

/// What is known of a model once it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// `model_type` of its config: `qwen2`, `llama`, …
    pub family: String,
    /// The longest context it was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Size of its vocabulary: every token id is below it.
    pub vocab_size: usize,
    /// Number of parameters.
    pub num_parameters: u64,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// Bytes of KV cache that one token takes.
    pub kv_bytes_per_token: u64,
    /// What it is as an encoder. A model is one, or generates.
    pub encoder: Option<Arc<EncoderInfo>>,
}

/// The precision in which weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DType {
    /// As they are in the checkpoint.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// Brain floats.
    Bf16,
}

/// What matrices are turned into as they are loaded, if not kept as they are stored. Norms and biases are never quantised,
/// and the output head, where an error goes straight into the answer, never below 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Quantization {
    /// 8 bits, a scale for each output.
    Int8,
    /// 8 bits, a scale for each 32 weights: the content of GGUF's Q8_0.
    Q8_0,
    /// 4 bits, a scale for each 32 weights: the content of Q4_0.
    Q4_0,
    /// 4 bits, a scale and an offset for each 32 weights: the content of Q4_1, which holds that of Q4_K too.
    Q4_1,
}

/// How to load a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    /// Precision of the weights that are not quantised.
    pub dtype: DType,
    /// What matrices are quantised to. Those that a file has quantised already stay as they are.
    pub quantization: Option<Quantization>,
    /// What keys and values are kept as; `None` goes by the weights.
    pub kv_cache: Option<KvDType>,
    /// What computes.
    pub kernels: Kernels,
}

/// What computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Kernels over packed weights: fast, and the answer does not depend on the load.
    #[default]
    Packed,
    /// The library's own products, norms and softmax, on the same weights in `f32`: slow, for comparison.
    Reference,
}

/// What a KV cache keeps of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDType {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// Brain floats.
    Bf16,
    /// Bytes, with a scale for each token and head.
    Int8,
}

/// Makes models of files. Handed in by the program's root, so that actors need not know candle.
pub trait ModelFactory: Send + Sync {
    /// Refuses a `config.json` that names a model we do not have, before its weights are fetched.
    fn check(&self, config: &Value) -> Result<(), LoadError>;

    /// Bytes that the weights of these files will take in memory, by their headers. Blocks for a moment.
    fn weight_bytes(&self, files: &ModelFiles, options: &LoadOptions) -> Result<u64, LoadError>;

    /// Loads the weights. Blocks; `on_progress(done, total)` counts tensors and is called at least once per tensor.
    /// Stops early with an error if `on_progress` returns `false`.
    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Weights>, LoadError>;
}
