//! What is told of a model's engine: its cache, its guesses, its steps.

use prometheus::{Counter, Gauge, Histogram};

use super::maker::Maker;

const STEP_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0,
];
const STEP_GAP_SECONDS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
];
const TOKENS_PER_STEP: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// The series of a model's engine.
pub struct EngineSeries {
    /// Part of the KV cache in use, from 0 to 1.
    pub kv_cache_usage: Gauge,
    /// Sequences that had to give their blocks back.
    pub num_preemptions: Counter,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: Counter,
    /// Those of them that were there.
    pub prefix_hits: Counter,
    /// Times that the next tokens of a sequence were guessed.
    pub num_drafts: Counter,
    /// Tokens of those guesses.
    pub num_draft_tokens: Counter,
    /// Those of them that were right.
    pub num_accepted_tokens: Counter,
    /// Tokens computed in a step.
    pub iteration_tokens: Histogram,
    /// Time that the model takes for a step.
    pub step_seconds: Histogram,
    /// Time between two steps that follow each other at once: what deciding and telling add to them.
    pub step_gap_seconds: Histogram,
    /// Time that the draft model takes for the guesses of a step.
    pub draft_seconds: Histogram,
}

impl EngineSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            kv_cache_usage: make
                .gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
            num_preemptions: make
                .counter("vllm:num_preemptions_total", "Sequences that gave their blocks back."),
            prefix_queries: make.counter(
                "vllm:prefix_cache_queries_total",
                "Prefix cache queries, in terms of number of queried tokens.",
            ),
            prefix_hits: make.counter(
                "vllm:prefix_cache_hits_total",
                "Prefix cache hits, in terms of number of cached tokens.",
            ),
            num_drafts: make.counter("vllm:spec_decode_num_drafts_total", "Number of spec decoding drafts."),
            num_draft_tokens: make
                .counter("vllm:spec_decode_num_draft_tokens_total", "Number of draft tokens."),
            num_accepted_tokens: make
                .counter("vllm:spec_decode_num_accepted_tokens_total", "Number of accepted tokens."),
            iteration_tokens: make.histogram(
                "vllm:iteration_tokens_total",
                "Tokens computed in one step.",
                TOKENS_PER_STEP,
            ),
            step_seconds: make.histogram(
                "candlewick_step_seconds",
                "Time that the model takes for a step, in seconds.",
                STEP_SECONDS,
            ),
            step_gap_seconds: make.histogram(
                "candlewick_step_gap_seconds",
                "Time between two steps that follow each other at once, in seconds.",
                STEP_GAP_SECONDS,
            ),
            draft_seconds: make.histogram(
                "candlewick_draft_seconds",
                "Time that the draft model takes for the guesses of a step, in seconds.",
                STEP_SECONDS,
            ),
        }
    }
}
