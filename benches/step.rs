//! How fast a model steps, with nothing above it: decode at several batch sizes, and prefill. Prints one JSON line.
//!
//! `cargo bench --bench step -- FOLDER` measures the checkpoint in a folder (`config.json` and safetensors), or that of a
//! GGUF file, without one the embedded model; `--quantization q4_0` quantises as it loads,
//! `--batch 1,32` takes these batch sizes, `--runs 99` as many of each, `--prefill 64` so many tokens. A decode step reads every weight once however many sequences share it, so at batch 1 the bytes per
//! second show how close to the memory's limit it is; a prefill is bound by multiply-adds. Under `cargo test` the same runs
//! at toy size on the embedded model, so that it cannot rot.

// A bench speaks through its standard output.
#![allow(clippy::print_stdout)]

mod checkpoint;

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use candlewick::ember;
use candlewick_engine::{
    BlockId, Chunk, GenerationDefaults, KvCacheShape, LoadOptions, Model, ModelFactory, Quantization,
    ResolveLimits, SampleSpec, SamplingParams, SequenceId, StepPlan,
};
use candlewick_models::CandleFactory;
use candlewick_protocol::{RequestKey, SamplingOptions};
use serde_json::json;

use checkpoint::files_of;

/// The program's own, since what is allocated in a step is part of its cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_SIZES: [usize; 4] = [1, 4, 8, 32];
const BLOCK_SIZE: usize = 16;
/// Tokens before the one that is decoded.
const NUM_CONTEXT: usize = 128;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that asks for the names of tests is told of none; it is run as a whole.
    if words.iter().any(|word| word == "--list") {
        return;
    }
    let asked = Asked::read(&words);
    let Asked { num_runs, num_prefill, batch_sizes, .. } = &asked;
    let (num_runs, num_prefill) = (*num_runs, *num_prefill);
    let folder = asked.folder.as_ref();
    let files = files_of(folder);

    let factory = CandleFactory::new(None).expect("the pool starts");
    let started = Instant::now();
    let weights = factory.load(&files, &asked.options(), &mut |_, _| true).expect("the model loads");
    let load_s = started.elapsed().as_secs_f64();
    let blocks_each = (NUM_CONTEXT.max(num_prefill) + 1).div_ceil(BLOCK_SIZE);
    let num_blocks = (blocks_each * batch_sizes.iter().max().expect("one at least")) as u32;
    let shape = KvCacheShape { num_blocks, block_size: BLOCK_SIZE as u32 };
    let mut model = weights.start(shape).expect("the cache can be had");

    let prefill_s = median(num_runs, || time(&mut *model, &plan(1, 0, num_prefill, blocks_each)));
    let decode: Vec<_> = batch_sizes
        .iter()
        .map(|&num_sequences| {
            let plan = plan(num_sequences, NUM_CONTEXT, 1, blocks_each);
            let seconds = median(num_runs, || time(&mut *model, &plan));
            json!({
                "num_sequences": num_sequences,
                "ms_per_step": round(seconds * 1e3),
                "tokens_per_s": round(num_sequences as f64 / seconds),
                "weight_gb_per_s": round(weights.info().weight_bytes as f64 / seconds / 1e9),
            })
        })
        .collect();
    let prefill = json!({"num_tokens": num_prefill, "tokens_per_s": round(num_prefill as f64 / prefill_s)});
    println!(
        "{}",
        json!({
            "bench": "step", "commit": commit(), "device": "cpu", "model": folder.map_or(ember::MODEL, String::as_str), "quantization": asked.quantization,
            "parameters": weights.info().num_parameters, "load_s": round(load_s), "decode": decode, "prefill": prefill,
        })
    );
}

/// What the command line asks for.
struct Asked {
    folder: Option<String>,
    quantization: Option<String>,
    batch_sizes: Vec<usize>,
    num_runs: usize,
    num_prefill: usize,
}

impl Asked {
    fn read(words: &[String]) -> Self {
        // Cargo says `--bench` to a bench that is to measure.
        let (num_runs, num_prefill) =
            if words.iter().any(|word| word == "--bench") { (9, 512) } else { (1, 32) };
        let batch_sizes = BATCH_SIZES.to_vec();
        let mut asked = Self { folder: None, quantization: None, batch_sizes, num_runs, num_prefill };
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word:?} is not a number"));
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} wants a value")).clone();
            match word.as_str() {
                "--quantization" => asked.quantization = Some(value()),
                "--batch" => asked.batch_sizes = value().split(',').map(number).collect(),
                "--runs" => asked.num_runs = number(&value()),
                "--prefill" => asked.num_prefill = number(&value()),
                word if word.starts_with("--") => {}
                _ => asked.folder = Some(word.clone()),
            }
        }
        asked
    }

    fn options(&self) -> LoadOptions {
        let quantization = self.quantization.as_deref().map(|name| match name {
            "int8" => Quantization::Int8,
            "q8_0" => Quantization::Q8_0,
            "q4_0" => Quantization::Q4_0,
            "q4_1" => Quantization::Q4_1,
            other => panic!("--quantization is int8, q8_0, q4_0 or q4_1, not {other:?}"),
        });
        LoadOptions { quantization, ..LoadOptions::default() }
    }
}

/// So many tokens of each sequence, after so many that are taken to be there already.
fn plan(num_sequences: usize, start: usize, num_tokens: usize, blocks_each: usize) -> StepPlan {
    let options = SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() };
    let limits =
        ResolveLimits { num_prompt_tokens: 1, max_model_len: 1 << 20, vocab_size: 1 << 20, random_seed: 0 };
    let params = SamplingParams::resolve(&options, &GenerationDefaults::default(), None, limits);
    let params = Arc::new(params.expect("the parameters are good"));
    let chunk = |number: usize| Chunk {
        sequence: SequenceId { request: RequestKey(number as u64), choice: 0 },
        token_ids: (0..num_tokens).map(|token| ((token * 7 + number) % 1000 + 20) as u32).collect(),
        start,
        block_table: (0..blocks_each).map(|block| BlockId((number * blocks_each + block) as u32)).collect(),
        samples: vec![SampleSpec { params: params.clone(), ..SampleSpec::default() }],
        prompt_logprobs: None,
    };
    StepPlan { chunks: (0..num_sequences).map(chunk).collect() }
}

fn time(model: &mut dyn Model, plan: &StepPlan) -> f64 {
    let started = Instant::now();
    model.step(plan).expect("the plan is good");
    started.elapsed().as_secs_f64()
}

/// The middle of so many runs, after one that warms up.
fn median(num_runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    run();
    let mut seconds: Vec<f64> = (0..num_runs).map(|_| run()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[num_runs / 2]
}

fn round(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// The commit that is measured, if this is a clone.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
