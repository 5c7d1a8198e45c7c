//! Sampling parameters, resolved: request over `generation_config.json` over defaults, checked and complete.
//!
//! Ranges and defaults follow the table of our OpenAI surface (vLLM's where OpenAI is silent).

use std::collections::BTreeMap;

use candlewick_protocol::{Failure, SamplingOptions};
use serde_json::Value;

/// What a model's `generation_config.json` and tokenizer say about generating: defaults under the request's values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// Defaults for sampling.
    pub sampling: SamplingOptions,
    /// Tokens that end an answer: `eos_token_id` of the generation config, else of the config, else the tokenizer's.
    pub eos_token_ids: Vec<u32>,
}

/// How to choose tokens for one request: every field has its final value.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 means greedy, and then `top_p`, `top_k` and `min_p` are off.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Keep this many; 0 is off.
    pub top_k: u32,
    /// Keep tokens with p ≥ `min_p` × p of the best, after temperature; 0 is off.
    pub min_p: f32,
    /// On prompt and output tokens: positive logits are divided, negative ones multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once for what occurs in the output.
    pub presence_penalty: f32,
    /// Added to logits.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Key of the counter-based RNG: the request's seed, or one drawn for it.
    pub seed: u64,
    /// Most tokens to generate; at least one, or zero for scoring a prompt.
    pub max_tokens: u32,
    /// End and stop tokens are masked until this many are generated.
    pub min_tokens: u32,
    /// Texts that end the output.
    pub stop: Vec<String>,
    /// Tokens that end the output and are reported as the cause.
    pub stop_token_ids: Vec<u32>,
    /// Tokens that end the output; empty if the request ignores them.
    pub eos_token_ids: Vec<u32>,
    /// Keep the stop string in the output.
    pub include_stop_str_in_output: bool,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Report log-probabilities with this many of the likeliest tokens.
    pub logprobs: Option<u32>,
}

impl SamplingParams {
    /// Whether the best token is taken without a draw.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether sampling looks at the tokens so far.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Fills what the request leaves open and checks every value; the failure names the field at fault.
    ///
    /// `num_prompt_tokens` and `max_model_len` bound `max_tokens`; `random_seed` is used where the request has none.
    pub fn resolve(
        _options: &SamplingOptions,
        _defaults: &GenerationDefaults,
        _logprobs: Option<u32>,
        _limits: ResolveLimits,
    ) -> Result<Self, Failure> {
        todo!()
    }
}

/// What bounds a request's parameters.
#[derive(Debug, Clone, Copy)]
pub struct ResolveLimits {
    /// Tokens of the prompt.
    pub num_prompt_tokens: usize,
    /// Longest context, prompt and output together.
    pub max_model_len: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Seed for a request without one.
    pub random_seed: u64,
}

impl GenerationDefaults {
    /// Reads `generation_config.json` and the end-of-sequence ids of `config.json`; either may be absent.
    pub fn from_json(_generation_config: Option<&Value>, _config: &Value) -> Self {
        todo!()
    }
}
