//! What quantising costs in quality: perplexity of a text, and how far the next token's distribution moves from that of
//! the weights as they are stored. Prints a table, and one JSON line.
//!
//! `cargo bench --bench quality` measures the embedded model on `quality.txt`, conversations that it was not trained on;
//! `cargo bench --bench quality -- FOLDER` the checkpoint in a folder (`config.json` and safetensors) on token ids that look
//! random, which is what there is to ask of random weights: their perplexity says nothing, the divergence does. Under
//! `cargo test` the same runs on a few tokens.

// A bench speaks through its standard output.
#![allow(clippy::print_stdout)]

mod checkpoint;

use std::sync::Arc;

use candlewick::ember;
use candlewick_engine::text::{TextOptions, TextProcessor};
use candlewick_engine::{
    BlockId, Chunk, KvCacheShape, LoadOptions, ModelFactory, ModelFiles, PromptLogprobs, Quantization,
    SequenceId, StepPlan, TokenScore, Weights,
};
use candlewick_models::CandleFactory;
use candlewick_protocol::{Prompt, RequestKey};
use serde_json::json;

use checkpoint::files_of;

const TEXT: &str = include_str!("quality.txt");
const BLOCK_SIZE: usize = 16;
/// Tokens scored at once; each brings a whole distribution.
const CHUNK: usize = 64;

const SCHEMES: [(&str, Option<Quantization>); 5] = [
    ("as stored", None),
    ("int8", Some(Quantization::Int8)),
    ("q8_0", Some(Quantization::Q8_0)),
    ("q4_1", Some(Quantization::Q4_1)),
    ("q4_0", Some(Quantization::Q4_0)),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that asks for the names of tests is told of none; it is run as a whole.
    if words.iter().any(|word| word == "--list") {
        return;
    }
    // Cargo says `--bench` to a bench that is to measure.
    let measures = words.iter().any(|word| word == "--bench");
    let folder = words.iter().find(|word| !word.starts_with("--"));
    let files = files_of(folder);
    let factory = CandleFactory::new(None).expect("the pool starts");
    let load = |quantization| {
        let options = LoadOptions { quantization, ..LoadOptions::default() };
        factory.load(&files, &options, &mut |_, _| true).expect("the model loads")
    };

    let num_tokens = match (measures, folder) {
        (false, _) => 24,
        (true, Some(_)) => 256,
        (true, None) => usize::MAX,
    };
    let plain = load(None);
    let vocab_size = plain.info().vocab_size;
    let mut ids = if folder.is_some() { random_ids(vocab_size, num_tokens) } else { ids_of_text(&files) };
    ids.truncate(num_tokens);
    let reference: Vec<Distribution> = distributions(&plain, &ids);
    println!(
        "{:<10} {:>8} {:>12} {:>12} {:>12} {:>8}",
        "weights", "MB", "perplexity", "mean KL", "largest KL", "top 1"
    );
    let mut rows = Vec::new();
    for (name, quantization) in SCHEMES {
        let weights = if quantization.is_some() { load(quantization) } else { plain.clone() };
        let found = distributions(&weights, &ids);
        let kl: Vec<f64> = reference.iter().zip(&found).map(|(one, other)| one.divergence(other)).collect();
        let mean = |all: &mut dyn Iterator<Item = f64>| all.sum::<f64>() / reference.len() as f64;
        let perplexity = mean(&mut found.iter().map(|found| f64::from(-found.logprob))).exp();
        let mean_kl = mean(&mut kl.iter().copied());
        let largest_kl = kl.iter().copied().fold(0.0, f64::max);
        let same = mean(
            &mut reference.iter().zip(&found).map(|(one, other)| f64::from(u8::from(one.best == other.best))),
        );
        let megabytes = weights.info().weight_bytes as f64 / 1e6;
        println!(
            "{name:<10} {megabytes:>8.1} {perplexity:>12.4} {mean_kl:>12.6} {largest_kl:>12.6} {:>7.1}%",
            same * 100.0
        );
        assert!(perplexity.is_finite() && mean_kl > -1e-6, "distributions are distributions");
        rows.push(
            json!({"weights": name, "weight_bytes": weights.info().weight_bytes, "perplexity": perplexity,
            "mean_kl": mean_kl, "largest_kl": largest_kl, "same_top": same}),
        );
    }
    let model = folder.map_or(ember::MODEL, String::as_str);
    println!("{}", json!({"bench": "quality", "model": model, "num_tokens": ids.len(), "schemes": rows}));
}

fn ids_of_text(files: &ModelFiles) -> Vec<u32> {
    let processor = TextProcessor::load(files, &TextOptions::default()).expect("there is a tokenizer");
    let prompt = Prompt::Text { text: TEXT.into(), add_special_tokens: true };
    processor.prepare(&prompt).expect("the text can be read").token_ids.to_vec()
}

/// Ids that look random and are always the same.
fn random_ids(vocab_size: usize, len: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    (0..len).map(|_| (next() % vocab_size) as u32).collect()
}

/// How likely every token was at a place of the text.
struct Distribution {
    /// Of the token that came.
    logprob: f32,
    best: u32,
    logprobs: Vec<f32>,
}

impl Distribution {
    fn of(score: TokenScore) -> Self {
        let mut logprobs = vec![0.0; score.top.len()];
        score.top.iter().for_each(|(id, logprob)| logprobs[*id as usize] = *logprob);
        Self { logprob: score.logprob, best: score.top[0].0, logprobs }
    }

    /// The Kullback–Leibler divergence of another from this one, in nats.
    fn divergence(&self, other: &Self) -> f64 {
        let pairs = self.logprobs.iter().zip(&other.logprobs);
        pairs.map(|(one, other)| f64::from(*one).exp() * (f64::from(*one) - f64::from(*other))).sum()
    }
}

/// One for each token but the last.
fn distributions(weights: &Arc<dyn Weights>, ids: &[u32]) -> Vec<Distribution> {
    let num_blocks = ids.len().div_ceil(BLOCK_SIZE) as u32;
    let shape = KvCacheShape { num_blocks, block_size: BLOCK_SIZE as u32 };
    let mut model = weights.start(shape).expect("the cache can be had");
    let num_top = weights.info().vocab_size as u32;
    let mut found = Vec::new();
    for start in (0..ids.len() - 1).step_by(CHUNK) {
        let end = (start + CHUNK).min(ids.len() - 1);
        let chunk = Chunk {
            sequence: SequenceId { request: RequestKey(0), choice: 0 },
            token_ids: ids[start..end].to_vec(),
            start,
            block_table: (0..num_blocks).map(BlockId).collect(),
            samples: Vec::new(),
            prompt_logprobs: Some(PromptLogprobs {
                num_top,
                next_token_ids: ids[start + 1..end + 1].to_vec(),
            }),
        };
        let outcome = model.step(&StepPlan { chunks: vec![chunk] }).expect("the plan is good");
        found.extend(outcome.prompt_scores.into_iter().flatten().map(Distribution::of));
    }
    found
}
