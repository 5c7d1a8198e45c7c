//! How much the scheduler costs, with no model under it: a decode step must be planned and applied in far less time than
//! any forward pass takes. Prints one JSON line.
//!
//! `cargo bench --bench scheduler` measures; under `cargo test` the same runs at toy size, so that it cannot rot.

// A bench speaks through its standard output.
#![allow(clippy::print_stdout)]

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use candlewick_engine::{
    GenerationDefaults, News, ResolveLimits, SampledToken, SamplingParams, Scheduler, SchedulerLimits,
    Sequence, SequenceId, StepOutcome, StepPlan,
};
use candlewick_protocol::{RequestKey, SamplingOptions};
use serde_json::{Value, json};

/// Sequences that decode at once.
const BATCH_SIZES: [usize; 3] = [1, 32, 256];

const NUM_PROMPT_TOKENS: usize = 128;
const BLOCK_SIZE: usize = 16;
const MAX_STEP_TOKENS: usize = 2048;

fn main() {
    let is_told = |word: &str| std::env::args().any(|arg| arg == word);
    // A test runner that asks for the names of tests is told of none; it is run as a whole.
    if is_told("--list") {
        return;
    }
    // Cargo says `--bench` to a bench that is to measure.
    let num_steps = if is_told("--bench") { 2000 } else { 50 };
    let runs: Vec<Value> = BATCH_SIZES.iter().map(|num_sequences| run(*num_sequences, num_steps)).collect();
    println!("{}", json!({ "bench": "scheduler", "commit": commit(), "device": "none", "runs": runs }));
}

/// Admits so many sequences, prefills them, and measures so many decode steps of all of them.
fn run(num_sequences: usize, num_steps: usize) -> Value {
    let blocks_per_sequence = (NUM_PROMPT_TOKENS + num_steps + 1).div_ceil(BLOCK_SIZE);
    let mut scheduler = Scheduler::new(SchedulerLimits {
        max_running: num_sequences,
        max_step_tokens: MAX_STEP_TOKENS,
        block_size: BLOCK_SIZE,
        num_blocks: blocks_per_sequence * num_sequences,
        // Each sequence is to compute its prompt.
        prefix_caching: false,
        max_inter_token: None,
        speculation: None,
    });
    let params = params(num_steps + 1);
    for number in 0..num_sequences {
        scheduler.admit(Sequence {
            id: SequenceId { request: RequestKey(number as u64), choice: 0 },
            prompt: vec![1; NUM_PROMPT_TOKENS].into(),
            output: Vec::new(),
            params: params.clone(),
            grammar: None,
            priority: 0,
            share: Default::default(),
            prompt_logprobs: None,
            cache_salt: None,
            holds: false,
        });
    }
    while step(&mut scheduler).0 < num_sequences {}
    // Sequences that were prefilled first have begun to decode before the last one did, and end that much sooner.
    let started = Instant::now();
    let (mut num_steps_run, mut num_tokens) = (0, 0);
    loop {
        let (num_sampled, is_anyone_done) = step(&mut scheduler);
        num_tokens += num_sampled;
        num_steps_run += 1;
        if is_anyone_done {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(num_tokens, num_steps_run * num_sequences, "everyone decodes in every step");
    assert_eq!(scheduler.counts().num_preemptions, 0, "there is room for all");
    json!({
        "num_sequences": num_sequences,
        "num_steps": num_steps_run,
        "steps_per_s": (num_steps_run as f64 / seconds).round(),
        "us_per_step": (seconds * 1e8 / num_steps_run as f64).round() / 100.0,
    })
}

/// One step of a model that takes no time: the tokens that came of it, and whether a sequence ended.
fn step(scheduler: &mut Scheduler) -> (usize, bool) {
    let plan = scheduler.plan().expect("somebody is left");
    let news = scheduler.apply(&plan, outcome(&plan));
    (news.len(), news.iter().any(|news| matches!(news, News::Sampled { end: Some(_), .. })))
}

fn outcome(plan: &StepPlan) -> StepOutcome {
    let token = SampledToken { token_id: 1, score: None };
    StepOutcome {
        sampled: plan.chunks.iter().map(|chunk| vec![token.clone(); chunk.samples.len().min(1)]).collect(),
        prompt_scores: vec![Vec::new(); plan.chunks.len()],
        failed: Vec::new(),
    }
}

fn params(max_tokens: usize) -> Arc<SamplingParams> {
    let options = SamplingOptions { max_tokens: Some(max_tokens as u32), ..SamplingOptions::default() };
    let limits =
        ResolveLimits { num_prompt_tokens: 0, max_model_len: max_tokens, vocab_size: 2, random_seed: 0 };
    let params = SamplingParams::resolve(&options, &GenerationDefaults::default(), None, limits);
    Arc::new(params.expect("the parameters are good"))
}

/// The commit that is measured, if this is a clone.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
