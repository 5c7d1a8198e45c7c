//! One sequence on its way through the scheduler: tokens known, tokens computed, blocks held.

use std::sync::Arc;

use candlewick_protocol::Share;

use crate::grammar::CompiledGrammar;
use crate::{SamplingParams, SequenceId, TokenScore};

/// A sequence as it is admitted. After a crash of the batcher it is admitted again with what it had emitted in `output`.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// The prompt.
    pub prompt: Arc<[u32]>,
    /// Tokens generated before this admission, in a batcher that is gone.
    pub output: Vec<u32>,
    /// How to sample.
    pub params: Arc<SamplingParams>,
    /// What the answer is held to, if it is.
    pub grammar: Option<Arc<CompiledGrammar>>,
    /// Lower runs first, among those of the same holder.
    pub priority: i32,
    /// Whose it is: a model that many want is shared among those who want it.
    pub share: Arc<Share>,
    /// Score the prompt's tokens, with this many of the likeliest at each place. Not done again where there is output:
    /// scores are told before the first token.
    pub prompt_logprobs: Option<u32>,
    /// What it computes is shared with sequences of the same salt only; they share it with none where there is no salt.
    pub cache_salt: Option<Arc<str>>,
    /// After each token it is held until it is told how it goes on ([`Branch`]): a search decides, over several of them.
    /// The engine then never ends it by itself.
    pub holds: bool,
}

/// How a search goes on from a sequence that is held.
#[derive(Debug, Clone)]
pub struct Branch {
    /// The sequence whose tokens come before.
    pub parent: SequenceId,
    /// The one that goes on: the parent's tokens and one more.
    pub child: Sequence,
}

/// Why the engine ended a sequence. Stop strings are found above, on text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceEnd {
    /// One of the model's end-of-sequence tokens.
    Eos,
    /// One of the request's stop tokens.
    StopToken(u32),
    /// `max_tokens` are generated.
    Length,
    /// Its grammar allows nothing more.
    Complete,
    /// It went round in circles.
    Repetition,
}

/// Scores of a prompt that were computed over several chunks.
pub type PromptScores = Vec<TokenScore>;
