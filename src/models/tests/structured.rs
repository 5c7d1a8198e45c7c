//! The grammar alone must carry it: random weights, a real tokenizer, and two hundred schemas that every answer obeys.

#[path = "../../engine/grammar/tests/schemas.rs"]
mod schemas;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_engine::grammar::{GrammarProgress, begin_masks, take_tokens};
use candlewick_engine::text::{OutputStream, TextOptions, TextProcessor};
use candlewick_engine::{
    BlockId, Chunk, GenerationDefaults, KvCacheShape, LoadOptions, ModelFactory, ModelFile, ModelFiles,
    ResolveLimits, SampleSpec, SamplingParams, SequenceId, StepPlan, Weights,
};
use candlewick_models::CandleFactory;
use candlewick_protocol::{Constraint, Delta, JsonLayout, OutputForm, Prompt, RequestKey, SamplingOptions};
use serde_json::Value;

use schemas::{Rng, any_object, obeys};

/// Sequences in one batch.
const NUM_TOGETHER: usize = 20;
const NUM_TOKENS_MAX: usize = 400;
const BLOCK_SIZE: usize = 16;

struct Fixture {
    processor: Arc<TextProcessor>,
    weights: Arc<dyn Weights>,
}

fn fixture(name: &str) -> Fixture {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity");
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(root.join(name).join("checkpoint")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), ModelFile::Path(path));
    }
    let files = ModelFiles { files, gguf: None };
    let factory = CandleFactory::new(Some(2)).unwrap();
    Fixture {
        processor: Arc::new(TextProcessor::load(&files, &TextOptions::default()).unwrap()),
        weights: factory.load(&files, &LoadOptions::default(), &mut |_, _| true).unwrap(),
    }
}

/// One answer in the making.
struct Answer {
    schema: Value,
    params: Arc<SamplingParams>,
    grammar: Arc<GrammarProgress>,
    prompt: Vec<u32>,
    output: Vec<u32>,
    is_ended: bool,
    stream: OutputStream,
    text: String,
}

impl Answer {
    fn new(fixture: &Fixture, seed: u64) -> Self {
        let processor = &fixture.processor;
        let schema = any_object(&mut Rng(seed));
        let form = OutputForm::Json { schema: schema.clone(), layout: JsonLayout::Compact };
        let prompt = Prompt::Text { text: "Say".into(), add_special_tokens: true };
        let prepared = processor.prepare(&prompt).unwrap();
        let constraint = Constraint { form, param: "form".into() };
        let grammar = processor.grammar(&prompt, Some(&constraint), &prepared).unwrap().unwrap();
        let options = SamplingOptions {
            temperature: Some(1.0),
            max_tokens: Some(NUM_TOKENS_MAX as u32),
            ..SamplingOptions::default()
        };
        let limits = ResolveLimits {
            num_prompt_tokens: prepared.token_ids.len(),
            max_model_len: 1 << 20,
            vocab_size: fixture.weights.info().vocab_size,
            random_seed: seed,
        };
        let defaults = GenerationDefaults {
            sampling: SamplingOptions::default(),
            ..processor.generation_defaults().clone()
        };
        let params = Arc::new(SamplingParams::resolve(&options, &defaults, None, limits).unwrap());
        Self {
            schema,
            stream: OutputStream::new(processor.clone(), &prepared, &params),
            params,
            grammar: Arc::new(GrammarProgress::new(grammar, &[])),
            prompt: prepared.token_ids.to_vec(),
            output: Vec::new(),
            is_ended: false,
            text: String::new(),
        }
    }

    /// What is computed next; `place` is its place in the batch.
    fn chunk(&self, place: usize, draft: &[u32]) -> Chunk {
        let known: Vec<u32> = self.prompt.iter().chain(&self.output).copied().collect();
        let start = if self.output.is_empty() { 0 } else { known.len() - 1 };
        let num_blocks = (NUM_TOKENS_MAX + self.prompt.len()).div_ceil(BLOCK_SIZE) + 1;
        Chunk {
            sequence: SequenceId { request: RequestKey(place as u64), choice: 0 },
            token_ids: [&known[start..], draft].concat(),
            start,
            block_table: (0..num_blocks).map(|block| BlockId((place * num_blocks + block) as u32)).collect(),
            samples: (0..=draft.len())
                .map(|num_before| SampleSpec {
                    params: self.params.clone(),
                    num_generated: (self.output.len() + num_before) as u32,
                    grammar: Some(self.grammar.clone()),
                    drafted: draft[..num_before].to_vec(),
                    ..SampleSpec::default()
                })
                .collect(),
            prompt_logprobs: None,
        }
    }

    /// The grammar has read all that a step brought, so it can be complete only with the last of it.
    fn take(&mut self, token_id: u32, is_last: bool) {
        if self.params.is_end(token_id) {
            self.is_ended = true;
        } else {
            self.output.push(token_id);
            self.tell(token_id);
            self.is_ended = is_last && self.grammar.is_complete();
        }
        if self.is_ended {
            let rest = self.stream.finish();
            self.text.extend(rest.into_iter().map(text_of));
        }
    }

    fn tell(&mut self, token_id: u32) {
        let told = self.stream.push(token_id).deltas;
        self.text.extend(told.into_iter().map(text_of));
    }
}

fn text_of(delta: Delta) -> String {
    match delta {
        Delta::Text(text) => text,
        other => panic!("{other:?} is not text"),
    }
}

/// Runs answers together to their ends, or as far as there is room.
fn run(fixture: &Fixture, answers: &mut [Answer]) {
    run_with_guesses(fixture, answers, |_, _| Vec::new());
}

/// The same, guessing what an answer says next: `guess` is given its place in the batch and how far it has come.
fn run_with_guesses(
    fixture: &Fixture,
    answers: &mut [Answer],
    guess: impl Fn(usize, usize) -> Vec<u32>,
) -> usize {
    let mut num_steps = 0;
    let num_blocks = ((NUM_TOKENS_MAX + 64).div_ceil(BLOCK_SIZE) + 1) * answers.len();
    let shape = KvCacheShape { num_blocks: num_blocks as u32, block_size: BLOCK_SIZE as u32 };
    let mut model = fixture.weights.start(shape).unwrap();
    loop {
        let open: Vec<usize> = (0..answers.len())
            .filter(|place| !answers[*place].is_ended && answers[*place].output.len() < NUM_TOKENS_MAX)
            .collect();
        if open.is_empty() {
            return num_steps;
        }
        num_steps += 1;
        let chunk = |place: &usize| {
            let answer = &answers[*place];
            answer.chunk(*place, &guess(*place, answer.output.len()))
        };
        let plan = StepPlan { chunks: open.iter().map(chunk).collect() };
        begin_masks(&plan);
        let mut outcome = model.step(&plan).unwrap();
        take_tokens(&plan, &mut outcome);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        for (place, sampled) in open.into_iter().zip(outcome.sampled) {
            let num_sampled = sampled.len();
            for (number, token) in (1..).zip(sampled) {
                answers[place].take(token.token_id, number == num_sampled);
            }
        }
    }
}

fn check(name: &str, seeds: std::ops::Range<u64>) {
    let fixture = fixture(name);
    let (mut num, mut num_ended) = (0, 0);
    for first in seeds.clone().step_by(NUM_TOGETHER) {
        let seeds = first..(first + NUM_TOGETHER as u64).min(seeds.end);
        let mut answers: Vec<Answer> = seeds.map(|seed| Answer::new(&fixture, seed)).collect();
        run(&fixture, &mut answers);
        for answer in answers {
            num += 1;
            if !answer.is_ended {
                continue;
            }
            num_ended += 1;
            let Answer { text, schema, .. } = answer;
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(obeys(&value, &schema, &schema), "{text} does not obey {schema}");
        }
    }
    assert!(num_ended * 10 >= num * 9, "{name}: only {num_ended} of {num} came to an end");
}

#[test]
fn random_weights_obey_two_hundred_schemas() {
    check("qwen2-small-f32", 0..100);
    check("llama-odd-bf16", 100..200);
}

#[test]
fn guesses_right_and_wrong_change_no_answer() {
    for name in ["qwen2-small-f32", "llama-odd-bf16"] {
        let fixture = fixture(name);
        let answers = || -> Vec<Answer> { (0..16).map(|seed| Answer::new(&fixture, seed)).collect() };
        let (mut plain, mut guessed) = (answers(), answers());
        let num_steps = run_with_guesses(&fixture, &mut plain, |_, _| Vec::new());
        // What it said, now and then with a token that it did not say and that the form may not allow.
        let guess = |place: usize, num_said: usize| -> Vec<u32> {
            let said = plain[place].output.get(num_said..).unwrap_or_default();
            let num_left = NUM_TOKENS_MAX - num_said - 1;
            let wrong = |(index, &id): (usize, &u32)| if (num_said + index) % 5 == 4 { id + 1 } else { id };
            said.iter().enumerate().map(wrong).take(4.min(num_left)).collect()
        };
        let num_guessed = run_with_guesses(&fixture, &mut guessed, guess);
        for (plain, guessed) in plain.iter().zip(&guessed) {
            assert_eq!(guessed.output, plain.output);
            assert_eq!((&guessed.text, guessed.is_ended), (&plain.text, plain.is_ended));
        }
        assert!(num_guessed * 2 < num_steps, "{num_guessed} steps in place of {num_steps}");
    }
}

#[test]
fn an_answer_does_not_depend_on_its_batch() {
    let fixture = fixture("qwen2-small-f32");
    let mut together: Vec<Answer> = (0..8).map(|seed| Answer::new(&fixture, seed)).collect();
    run(&fixture, &mut together);
    for (seed, one) in (0..).zip(&together) {
        let mut alone = [Answer::new(&fixture, seed)];
        run(&fixture, &mut alone);
        assert_eq!(alone[0].output, one.output);
    }
}
