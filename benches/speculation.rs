//! What guesses bring and cost: the same sequences with and without them, in turn. Prints one JSON line for each batch size.
//!
//! `cargo bench --bench speculation -- FOLDER` runs the checkpoint in a folder, without one the embedded model. Sequences are drawn from a
//! few tokens (`--alphabet 8`) at temperature 1, so that nearly every pair of tokens has come before and what followed it then is right
//! one time in so many: guesses by the text are there at each step, and mostly wrong. `--alphabet 0` leaves the model all tokens, and
//! `--temperature 0` makes it greedy. `--draft FOLDER` compares a draft model with no guesses at all. `--batch 1,8`, `--tokens 128`,
//! `--rounds 5` are how many. The second half of what is said is measured, and the first as well: there the rates are learned.
//! Under `cargo test` the same runs at toy size.

// A bench speaks through its standard output.
#![allow(clippy::print_stdout)]

mod checkpoint;

use std::sync::Arc;
use std::time::{Duration, Instant};

use candlewick::ember;
use candlewick_engine::{
    Drafter, GenerationDefaults, KvCacheShape, LoadOptions, ModelFactory, ResolveLimits, SamplingParams,
    Scheduler, SchedulerLimits, Sequence, SequenceId, SpeculationLimits, Weights,
};
use candlewick_models::CandleFactory;
use candlewick_protocol::{RequestKey, SamplingOptions};
use serde_json::json;

use checkpoint::files_of;

/// The program's own, since what is allocated in a step is part of its cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BLOCK_SIZE: usize = 16;
const NUM_PROMPT_TOKENS: usize = 128;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that asks for the names of tests is told of none; it is run as a whole.
    if words.iter().any(|word| word == "--list") {
        return;
    }
    let asked = Asked::read(&words);
    let factory = CandleFactory::new(None).expect("the pool starts");
    let load = |folder: Option<&String>| {
        let files = files_of(folder);
        factory.load(&files, &LoadOptions::default(), &mut |_, _| true).expect("the model loads")
    };
    let weights = load(asked.folder.as_ref());
    let draft = asked.draft.as_ref().map(|folder| load(Some(folder)));
    for &num_sequences in &asked.batch_sizes {
        let mut ratios = [Vec::new(), Vec::new()];
        let (mut plain, mut guessed) = (Run::default(), Run::default());
        for round in 0..asked.num_rounds {
            let off = || run(&asked, &*weights, None, false, num_sequences);
            let on = || run(&asked, &*weights, draft.as_deref(), true, num_sequences);
            // Neither is always the one that runs on a machine that has just become slow.
            if round % 2 == 0 {
                plain = off();
                guessed = on();
            } else {
                guessed = on();
                plain = off();
            }
            assert_eq!(plain.said, guessed.said, "a guess has changed a token");
            for (half, ratios) in ratios.iter_mut().enumerate() {
                ratios.push(plain.halves[half].as_secs_f64() / guessed.halves[half].as_secs_f64());
            }
        }
        let [learning, learned] = ratios.map(|mut ratios| {
            ratios.sort_by(f64::total_cmp);
            json!({"median": round(ratios[ratios.len() / 2]), "least": round(ratios[0]), "most": round(ratios[ratios.len() - 1])})
        });
        println!(
            "{}",
            json!({
                "bench": "speculation", "model": asked.folder.as_deref().unwrap_or(ember::MODEL), "draft": asked.draft,
                "num_sequences": num_sequences, "num_tokens": asked.num_tokens, "alphabet": asked.alphabet,
                "temperature": asked.temperature, "num_rounds": asked.num_rounds, "times_while_learning": learning,
                "times": learned, "ms_per_token": round(plain.halves[1].as_secs_f64() * 2e3 / asked.num_tokens as f64),
                "num_drafted": guessed.num_drafted, "num_accepted": guessed.num_accepted,
                "num_draft_model_steps": guessed.num_draft_steps,
            })
        );
    }
}

/// What came of a run.
#[derive(Default)]
struct Run {
    /// Until half of the tokens were there, and from then on; reading prompts is no part of it.
    halves: [Duration; 2],
    said: Vec<(SequenceId, u32)>,
    num_drafted: u64,
    num_accepted: u64,
    num_draft_steps: usize,
}

fn run(
    asked: &Asked,
    weights: &dyn Weights,
    draft: Option<&dyn Weights>,
    guesses: bool,
    num_sequences: usize,
) -> Run {
    let num_blocks = (NUM_PROMPT_TOKENS + asked.num_tokens + 1).div_ceil(BLOCK_SIZE) * num_sequences;
    let cache = KvCacheShape { num_blocks: num_blocks as u32, block_size: BLOCK_SIZE as u32 };
    let mut model = weights.start(cache).expect("the cache can be had");
    let (ngram_min, ngram_max) = if draft.is_some() { (usize::MAX / 2, usize::MAX / 2) } else { (2, 5) };
    let limits = SpeculationLimits { max_draft_tokens: 16, ngram_min, ngram_max };
    let mut scheduler = Scheduler::new(SchedulerLimits {
        max_running: 64,
        max_step_tokens: 512,
        block_size: BLOCK_SIZE,
        num_blocks,
        prefix_caching: true,
        max_inter_token: None,
        speculation: guesses.then_some(limits),
    });
    scheduler.set_drafting(draft.is_some());
    let mut drafter = draft.map(|draft| {
        let vocab_size = weights.info().vocab_size.min(draft.info().vocab_size);
        Drafter::new(draft.start(cache).expect("its cache can be had"), cache, vocab_size, usize::MAX)
    });
    (0..num_sequences).for_each(|number| scheduler.admit(sequence(asked, weights, number)));
    let mut run = Run::default();
    let num_half = num_sequences * asked.num_tokens / 2;
    let mut began = Instant::now();
    loop {
        if let Some(drafter) = &mut drafter {
            let asks = scheduler.plan_drafts();
            if !asks.is_empty() {
                let drafts = drafter.draft(&asks, scheduler.num_draft_tokens_max()).expect("it can be asked");
                run.num_draft_steps += drafts.steps.len();
                scheduler.take_drafts(drafts);
            }
        }
        let Some(plan) = scheduler.plan() else { break };
        let step_began = Instant::now();
        let outcome = model.step(&plan).expect("the plan is good");
        scheduler.note_time(&plan, step_began.elapsed());
        let num_before = run.said.len();
        for news in scheduler.apply(&plan, outcome) {
            if let candlewick_engine::News::Sampled { sequence, token, .. } = news {
                run.said.push((sequence, token.token_id));
            }
        }
        if num_before < num_half && run.said.len() >= num_half {
            run.halves[0] = began.elapsed();
            began = Instant::now();
        } else if num_before == 0 {
            began = Instant::now();
        }
    }
    run.halves[1] = began.elapsed();
    run.said.sort_by_key(|(sequence, _)| *sequence);
    let counts = scheduler.counts();
    (run.num_drafted, run.num_accepted) = (counts.num_draft_tokens, counts.num_accepted_tokens);
    run
}

/// A prompt of tokens that seem drawn from those that may be said, of its own for each number.
fn sequence(asked: &Asked, weights: &dyn Weights, number: usize) -> Sequence {
    let vocab_size = weights.info().vocab_size;
    let options = SamplingOptions {
        max_tokens: Some(asked.num_tokens as u32),
        temperature: Some(asked.temperature),
        seed: Some(number as i64),
        ..SamplingOptions::default()
    };
    let limits = ResolveLimits { num_prompt_tokens: 1, max_model_len: 1 << 20, vocab_size, random_seed: 0 };
    let params = SamplingParams::resolve(&options, &GenerationDefaults::default(), None, limits);
    let mut params = params.expect("the parameters are good");
    let range = if asked.alphabet == 0 { vocab_size.min(1000) } else { asked.alphabet } as u32;
    if asked.alphabet > 0 {
        params.allowed_token_ids = (20..20 + range).collect();
    }
    let mut seed = number as u32 + 1;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % range
    };
    Sequence {
        id: SequenceId { request: RequestKey(number as u64), choice: 0 },
        prompt: (0..NUM_PROMPT_TOKENS).map(|_| 20 + random()).collect(),
        output: Vec::new(),
        params: Arc::new(params),
        grammar: None,
        priority: 0,
        prompt_logprobs: None,
        cache_salt: None,
        holds: false,
        share: Default::default(),
    }
}

/// What the command line asks for.
struct Asked {
    folder: Option<String>,
    draft: Option<String>,
    batch_sizes: Vec<usize>,
    alphabet: usize,
    temperature: f32,
    num_tokens: usize,
    num_rounds: usize,
}

impl Asked {
    fn read(words: &[String]) -> Self {
        // Cargo says `--bench` to a bench that is to measure.
        let is_bench = words.iter().any(|word| word == "--bench");
        let (num_rounds, num_tokens) = if is_bench { (5, 128) } else { (1, 24) };
        let (folder, draft, batch_sizes) = (None, None, if is_bench { vec![1, 8] } else { vec![3] });
        let mut asked =
            Self { folder, draft, batch_sizes, alphabet: 8, temperature: 1.0, num_tokens, num_rounds };
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word:?} is not a number"));
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} wants a value")).clone();
            match word.as_str() {
                "--draft" => asked.draft = Some(value()),
                "--batch" => asked.batch_sizes = value().split(',').map(number).collect(),
                "--alphabet" => asked.alphabet = number(&value()),
                "--temperature" => asked.temperature = value().parse().expect("a temperature is a number"),
                "--tokens" => asked.num_tokens = number(&value()),
                "--rounds" => asked.num_rounds = number(&value()),
                word if word.starts_with("--") => {}
                _ => asked.folder = Some(word.clone()),
            }
        }
        asked
    }
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
