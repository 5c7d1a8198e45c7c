//! The numbers are right and do not depend on the load: every family against what transformers answered for the same
//! checkpoint, and every way of cutting up the work against every other, bit for bit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_engine::{
    BlockId, Chunk, DType, Kernels, KvCacheShape, KvDType, LoadOptions, Model, ModelFactory, ModelFile,
    ModelFiles, PromptLogprobs, SampleSpec, SampledToken, SamplingParams, SequenceId, StepPlan, TokenHistory,
    TokenScore, Weights,
};
use candlewick_models::CandleFactory;
use candlewick_protocol::RequestKey;
use serde_json::Value;

/// How far log-probabilities may be from transformers', in f32.
const TOLERANCE: f32 = 1e-3;
/// Likeliest tokens that the fixtures list.
const NUM_TOP: u32 = 5;

/// A checkpoint, and what transformers answered.
struct Fixture {
    name: String,
    files: ModelFiles,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    prompt: Vec<u32>,
    steps: Vec<TokenScore>,
    ids: Vec<u32>,
}

/// Every fixture in the repository, and in the folder that `CANDLEWICK_PARITY` names, for trying other seeds.
fn fixtures() -> Vec<Fixture> {
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity");
    let more = std::env::var_os("CANDLEWICK_PARITY").map(PathBuf::from);
    let mut fixtures = Vec::new();
    for folder in [Some(ours), more].into_iter().flatten() {
        for entry in std::fs::read_dir(folder).unwrap() {
            fixtures.push(read_fixture(entry.unwrap().path()));
        }
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(fixtures.len() >= 10, "five families, small and odd");
    fixtures
}

fn read_fixture(folder: PathBuf) -> Fixture {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join("checkpoint")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), ModelFile::Path(path));
    }
    Fixture {
        name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
        files: ModelFiles { files, gguf: None },
        cases: expected["cases"].as_array().unwrap().iter().map(read_case).collect(),
    }
}

fn read_case(case: &Value) -> Case {
    let step = |step: &Value| TokenScore {
        logprob: step["logprob"].as_f64().unwrap() as f32,
        rank: 1,
        top: step["top"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (id(&one[0]), one[1].as_f64().unwrap() as f32))
            .collect(),
    };
    Case {
        name: case["name"].as_str().unwrap().to_owned(),
        prompt: case["input_ids"].as_array().unwrap().iter().map(id).collect(),
        steps: case["steps"].as_array().unwrap().iter().map(step).collect(),
        ids: case["greedy_ids"].as_array().unwrap().iter().map(id).collect(),
    }
}

fn id(value: &Value) -> u32 {
    value.as_u64().unwrap() as u32
}

fn load(fixture: &Fixture, threads: usize, dtype: DType) -> Arc<dyn Weights> {
    let factory = CandleFactory::new(Some(threads)).unwrap();
    factory.load(&fixture.files, &LoadOptions { dtype, ..LoadOptions::default() }, &mut |_, _| true).unwrap()
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        seed: 11,
        max_tokens: 64,
        logprobs: Some(NUM_TOP),
        ..SamplingParams::default()
    }
}

/// How the work is cut up.
#[derive(Clone, Copy)]
struct Cut {
    /// Most tokens of a chunk.
    chunk: usize,
    /// Tokens in a block.
    block_size: usize,
    /// Blocks are dealt out in steps of this, so that tables are out of order.
    stride: usize,
}

const WHOLE: Cut = Cut { chunk: usize::MAX, block_size: 16, stride: 1 };

/// A sequence under way.
struct Running {
    tokens: Vec<u32>,
    num_prompt: usize,
    num_computed: usize,
    block_table: Vec<BlockId>,
    params: Arc<SamplingParams>,
    sampled: Vec<SampledToken>,
}

/// Generates `num_tokens` for every prompt, all in one batch.
fn generate(
    weights: &Arc<dyn Weights>,
    prompts: &[&[u32]],
    num_tokens: usize,
    params: &SamplingParams,
    cut: Cut,
) -> Vec<Vec<SampledToken>> {
    let num_blocks_each: Vec<usize> =
        prompts.iter().map(|prompt| (prompt.len() + num_tokens).div_ceil(cut.block_size)).collect();
    // A number of blocks that the stride has no factor in common with, so that dealing visits every block.
    let num_blocks = (num_blocks_each.iter().sum::<usize>() + 1).next_multiple_of(cut.stride) + 1;
    let mut dealt = (0..).map(|n| BlockId((n * cut.stride % num_blocks) as u32));
    let shape = KvCacheShape { num_blocks: num_blocks as u32, block_size: cut.block_size as u32 };
    let mut model = weights.start(shape).unwrap();
    let mut running: Vec<Running> = prompts
        .iter()
        .zip(num_blocks_each)
        .map(|(prompt, blocks)| Running {
            tokens: prompt.to_vec(),
            num_prompt: prompt.len(),
            num_computed: 0,
            block_table: dealt.by_ref().take(blocks).collect(),
            params: Arc::new(params.clone()),
            sampled: Vec::new(),
        })
        .collect();
    while step(model.as_mut(), &mut running, num_tokens, cut.chunk) {}
    running.into_iter().map(|running| running.sampled).collect()
}

/// One step for every sequence that is not complete; `false` if all are.
fn step(model: &mut dyn Model, running: &mut [Running], num_tokens: usize, chunk_max: usize) -> bool {
    let mut plan = StepPlan::default();
    let mut planned = Vec::new();
    for (index, sequence) in
        running.iter().enumerate().filter(|(_, running)| running.sampled.len() < num_tokens)
    {
        let end = sequence.tokens.len().min(sequence.num_computed.saturating_add(chunk_max));
        let samples = (end == sequence.tokens.len()).then(|| SampleSpec {
            params: sequence.params.clone(),
            choice: 0,
            num_generated: (sequence.tokens.len() - sequence.num_prompt) as u32,
            ..SampleSpec::default()
        });
        plan.chunks.push(Chunk {
            sequence: SequenceId { request: RequestKey(index as u64), choice: 0 },
            token_ids: sequence.tokens[sequence.num_computed..end].to_vec(),
            start: sequence.num_computed,
            block_table: sequence.block_table.clone(),
            samples: samples.into_iter().collect(),
            prompt_logprobs: None,
        });
        planned.push(index);
    }
    if planned.is_empty() {
        return false;
    }
    let outcome = model.step(&plan).unwrap();
    for ((index, chunk), sampled) in planned.into_iter().zip(&plan.chunks).zip(outcome.sampled) {
        running[index].num_computed += chunk.token_ids.len();
        for token in sampled {
            running[index].tokens.push(token.token_id);
            running[index].sampled.push(token);
        }
    }
    true
}

fn tokens(sampled: &[SampledToken]) -> Vec<u32> {
    sampled.iter().map(|token| token.token_id).collect()
}

fn prompts(fixture: &Fixture) -> Vec<&[u32]> {
    fixture.cases.iter().map(|case| case.prompt.as_slice()).collect()
}

#[test]
fn answers_are_those_of_transformers() {
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        for case in &fixture.cases {
            let at = format!("{} {}", fixture.name, case.name);
            let [sampled] = &generate(&weights, &[&case.prompt], case.ids.len(), &greedy(), WHOLE)[..] else {
                panic!("one prompt, one answer")
            };
            assert_eq!(tokens(sampled), case.ids, "{at}");
            for (step, (token, expected)) in sampled.iter().zip(&case.steps).enumerate() {
                let score = token.score.as_ref().expect("log-probabilities were asked for");
                close(score.logprob, expected.logprob, &format!("{at}, step {step}"));
                for ((id, logprob), expected) in score.top.iter().zip(&expected.top) {
                    // Neighbours that are closer than the tolerance may have changed places.
                    close(*logprob, expected.1, &format!("{at}, step {step}, token {id}"));
                }
            }
        }
    }
}

fn close(found: f32, expected: f32, at: &str) {
    assert!((found - expected).abs() <= TOLERANCE, "{at}: {found}, not {expected}");
}

#[test]
fn plain_candle_on_the_same_weights_gives_the_same_tokens() {
    let cut = Cut { chunk: 7, block_size: 8, stride: 5 };
    for fixture in fixtures() {
        let on = |kernels: Kernels| {
            let options = LoadOptions { kernels, ..LoadOptions::default() };
            let factory = CandleFactory::new(Some(2)).unwrap();
            let weights = factory.load(&fixture.files, &options, &mut |_, _| true).unwrap();
            generate(&weights, &prompts(&fixture), 5, &greedy(), cut)
        };
        for (ours, plain) in on(Kernels::Packed).iter().zip(on(Kernels::Reference)) {
            assert_eq!(tokens(ours), tokens(&plain), "{}", fixture.name);
            for (ours, plain) in ours.iter().zip(&plain) {
                let logprob = |token: &SampledToken| token.score.as_ref().unwrap().logprob;
                close(logprob(ours), logprob(plain), &fixture.name);
            }
        }
    }
}

#[test]
fn the_cut_of_the_work_changes_no_bit() {
    const NUM_TOKENS: usize = 12;
    let cuts = [
        ("chunks of 1", Cut { chunk: 1, ..WHOLE }),
        ("chunks of 7", Cut { chunk: 7, ..WHOLE }),
        ("chunks of 64, blocks of 8 in disorder", Cut { chunk: 64, block_size: 8, stride: 5 }),
        ("blocks of 5 in disorder", Cut { chunk: usize::MAX, block_size: 5, stride: 3 }),
        ("blocks of 1", Cut { chunk: 50, block_size: 1, stride: 7 }),
    ];
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        let alone: Vec<_> = prompts(&fixture)
            .iter()
            .map(|prompt| generate(&weights, &[prompt], NUM_TOKENS, &greedy(), WHOLE).remove(0))
            .collect();
        let together = generate(&weights, &prompts(&fixture), NUM_TOKENS, &greedy(), WHOLE);
        assert!(together == alone, "{}: a batch of all, and each alone", fixture.name);
        for (what, cut) in cuts {
            let found = generate(&weights, &prompts(&fixture), NUM_TOKENS, &greedy(), cut);
            assert!(found == alone, "{}: {what}", fixture.name);
        }
        let one_thread = load(&fixture, 1, DType::Auto);
        let found = generate(&one_thread, &prompts(&fixture), NUM_TOKENS, &greedy(), WHOLE);
        assert!(found == alone, "{}: one thread", fixture.name);
    }
}

#[test]
fn the_likeliest_token_is_the_same_whether_or_not_logits_are_looked_at() {
    // Without log-probabilities it is found while the head is computed, and the logits are never there.
    let quiet = SamplingParams { logprobs: None, ..greedy() };
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        for cut in [WHOLE, Cut { chunk: 7, block_size: 8, stride: 5 }] {
            let looked = generate(&weights, &prompts(&fixture), 12, &greedy(), cut);
            let found = generate(&weights, &prompts(&fixture), 12, &quiet, cut);
            for (found, looked) in found.iter().zip(&looked) {
                assert!(found.iter().all(|token| token.score.is_none()), "{}", fixture.name);
                assert_eq!(tokens(found), tokens(looked), "{}", fixture.name);
            }
        }
    }
}

#[test]
fn recomputing_after_a_preemption_changes_no_bit() {
    let params = SamplingParams { temperature: 1.0, ..greedy() };
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        for case in &fixture.cases {
            let whole = generate(&weights, &[&case.prompt], 20, &params, WHOLE).remove(0);
            // Its blocks are gone after nine tokens: prompt and output are computed again, in one go and elsewhere.
            let mut tokens = case.prompt.clone();
            tokens.extend(whole[..9].iter().map(|token| token.token_id));
            let cut = Cut { chunk: 33, block_size: 8, stride: 3 };
            let num_blocks = (tokens.len() + 20).div_ceil(cut.block_size);
            let shape = KvCacheShape { num_blocks: num_blocks as u32, block_size: cut.block_size as u32 };
            let mut running = [Running {
                num_prompt: case.prompt.len(),
                num_computed: 0,
                block_table: (0..num_blocks as u32).rev().map(BlockId).collect(),
                params: Arc::new(params.clone()),
                sampled: whole[..9].to_vec(),
                tokens,
            }];
            let mut model = weights.start(shape).unwrap();
            while step(model.as_mut(), &mut running, 20, cut.chunk) {}
            assert!(running[0].sampled == whole, "{} {}", fixture.name, case.name);
        }
    }
}

/// Generates as many tokens as `whole` has, guessing each time some of what comes: of `whole`, the guess is right about the
/// first few.
fn generate_with_guesses(
    weights: &Arc<dyn Weights>,
    prompt: &[u32],
    whole: &[SampledToken],
    params: &SamplingParams,
    cut: Cut,
) -> Vec<SampledToken> {
    let params = Arc::new(params.clone());
    let num_blocks = (prompt.len() + whole.len() + 8).div_ceil(cut.block_size);
    let shape = KvCacheShape { num_blocks: num_blocks as u32, block_size: cut.block_size as u32 };
    let mut model = weights.start(shape).unwrap();
    let (mut sampled, mut num_computed) = (Vec::<SampledToken>::new(), 0);
    for round in 0.. {
        let known: Vec<u32> = prompt.iter().copied().chain(tokens(&sampled)).collect();
        let (num_drafted, num_right) = (round % 6, round % 4);
        let rest = &whole[sampled.len()..];
        let mut draft: Vec<u32> =
            rest[..rest.len() - 1].iter().map(|token| token.token_id).take(num_drafted).collect();
        draft.iter_mut().skip(num_right).for_each(|token_id| *token_id = (*token_id + 1) % 20);
        let spec = |place: usize| SampleSpec {
            params: params.clone(),
            num_generated: (sampled.len() + place) as u32,
            history: Some(TokenHistory {
                prompt: prompt.into(),
                output: [&tokens(&sampled), &draft[..place]].concat(),
            }),
            ..SampleSpec::default()
        };
        let chunk = Chunk {
            sequence: SequenceId { request: RequestKey(0), choice: 0 },
            token_ids: [&known[num_computed..], &draft].concat(),
            start: num_computed,
            block_table: (0..num_blocks as u32).rev().map(BlockId).collect(),
            samples: (0..=draft.len()).map(spec).collect(),
            prompt_logprobs: None,
        };
        let came = model.step(&StepPlan { chunks: vec![chunk] }).unwrap().sampled.remove(0);
        assert!(!came.is_empty() && came.len() > num_right.min(draft.len()), "what is right is taken");
        sampled.extend(came);
        num_computed = prompt.len() + sampled.len() - 1;
        if sampled.len() == whole.len() {
            return sampled;
        }
    }
    unreachable!("rounds do not end")
}

#[test]
fn guesses_right_and_wrong_change_no_bit() {
    let drawn = SamplingParams { temperature: 1.0, ..greedy() };
    let penalized = SamplingParams { presence_penalty: 0.7, repetition_penalty: 1.2, ..drawn.clone() };
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        for case in &fixture.cases {
            for params in [&greedy(), &drawn, &penalized] {
                // Alone and one token at a time: guesses of nothing.
                let whole = generate_one_by_one(&weights, &case.prompt, 24, params);
                for cut in [WHOLE, Cut { block_size: 5, ..WHOLE }] {
                    let found = generate_with_guesses(&weights, &case.prompt, &whole, params, cut);
                    assert!(found == whole, "{} {}", fixture.name, case.name);
                }
            }
        }
    }
}

/// As [`generate`], with the history that penalties look at.
fn generate_one_by_one(
    weights: &Arc<dyn Weights>,
    prompt: &[u32],
    num_tokens: usize,
    params: &SamplingParams,
) -> Vec<SampledToken> {
    let params = Arc::new(params.clone());
    let num_blocks = (prompt.len() + num_tokens).div_ceil(16) as u32;
    let mut model = weights.start(KvCacheShape { num_blocks, block_size: 16 }).unwrap();
    let mut sampled = Vec::<SampledToken>::new();
    let (mut next, mut start) = (prompt.to_vec(), 0);
    while sampled.len() < num_tokens {
        let history = TokenHistory { prompt: prompt.into(), output: tokens(&sampled) };
        let spec = SampleSpec {
            params: params.clone(),
            num_generated: sampled.len() as u32,
            history: Some(history),
            ..SampleSpec::default()
        };
        let num_next = next.len();
        let chunk = Chunk {
            sequence: SequenceId { request: RequestKey(0), choice: 0 },
            token_ids: next,
            start,
            block_table: (0..num_blocks).map(BlockId).collect(),
            samples: vec![spec],
            prompt_logprobs: None,
        };
        let token = model.step(&StepPlan { chunks: vec![chunk] }).unwrap().sampled.remove(0).remove(0);
        (next, start) = (vec![token.token_id], start + num_next);
        sampled.push(token);
    }
    sampled
}

#[test]
fn a_prompt_is_scored_as_its_tokens_are_when_generated() {
    for fixture in fixtures() {
        let weights = load(&fixture, 2, DType::Auto);
        let case = &fixture.cases[0];
        let answer = generate(&weights, &[&case.prompt], 8, &greedy(), WHOLE).remove(0);
        let mut text = case.prompt.clone();
        text.extend(tokens(&answer));
        // Scored in two chunks, the second of which ends the prompt.
        let middle = case.prompt.len() - 3;
        let mut model = weights.start(KvCacheShape { num_blocks: 64, block_size: 16 }).unwrap();
        let mut scores = Vec::new();
        for (start, end) in [(0, middle), (middle, text.len())] {
            let next_token_ids = text[start + 1..(end + 1).min(text.len())].to_vec();
            let chunk = Chunk {
                sequence: SequenceId { request: RequestKey(0), choice: 0 },
                token_ids: text[start..end].to_vec(),
                start,
                block_table: (0..64).map(BlockId).collect(),
                samples: Vec::new(),
                prompt_logprobs: Some(PromptLogprobs { num_top: NUM_TOP, next_token_ids }),
            };
            scores.extend(model.step(&StepPlan { chunks: vec![chunk] }).unwrap().prompt_scores.remove(0));
        }
        assert_eq!(scores.len(), text.len() - 1, "one for each token but the first");
        let generated: Vec<_> = answer.into_iter().map(|token| token.score.unwrap()).collect();
        assert!(scores[case.prompt.len() - 1..] == generated, "{}", fixture.name);
    }
}

#[test]
fn weights_are_kept_in_the_precision_that_is_asked_for() {
    for fixture in fixtures() {
        let stored = load(&fixture, 2, DType::Auto);
        let wide = load(&fixture, 2, DType::F32);
        let half = load(&fixture, 2, DType::Bf16);
        assert_eq!(stored.info().num_parameters, wide.info().num_parameters);
        assert!(half.info().weight_bytes < wide.info().weight_bytes);
        let prompts = prompts(&fixture);
        let answer = |weights: &Arc<dyn Weights>| generate(weights, &prompts, 4, &greedy(), WHOLE);
        // Widening loses nothing, and rounding what is rounded already changes nothing.
        let same = if fixture.name.contains("bf16") { &half } else { &wide };
        assert!(answer(same) == answer(&stored), "{}", fixture.name);
        if fixture.name.contains("bf16") {
            assert!(answer(&wide) == answer(&stored), "{}", fixture.name);
        } else {
            assert!(answer(&half) != answer(&stored), "{}", fixture.name);
        }
        // Half precision is another rounding; near enough for the likeliest token of a first step to be near as likely.
        let rounded = answer(&load(&fixture, 2, DType::F16));
        let (rounded, exact) = (rounded[0][0].score.as_ref().unwrap(), &answer(&stored)[0][0]);
        assert!((rounded.logprob - exact.score.as_ref().unwrap().logprob).abs() < 0.05, "{}", fixture.name);
    }
}

#[test]
fn what_the_cache_keeps_is_a_choice_and_the_cut_shows_in_none() {
    const NUM_TOKENS: usize = 8;
    let cut = Cut { chunk: 7, block_size: 8, stride: 5 };
    // How far the first token's log-probability may move: half precision rounds at the 11th bit, brain floats at the 8th,
    // bytes at the 7th of a head's largest element; and random weights pass on, layer by layer, several times what a
    // trained model would.
    let types = [(KvDType::F32, 1e-4), (KvDType::F16, 3e-2), (KvDType::Bf16, 0.2), (KvDType::Int8, 0.4)];
    for fixture in fixtures() {
        let exact = load(&fixture, 2, DType::F32);
        let first = |weights: &Arc<dyn Weights>| {
            generate(weights, &[&fixture.cases[0].prompt], 1, &greedy(), WHOLE).remove(0)
        };
        let expected = first(&exact)[0].score.as_ref().expect("it is asked for").logprob;
        let mut bytes = u64::MAX;
        for (kv_cache, bound) in types {
            let options =
                LoadOptions { dtype: DType::F32, kv_cache: Some(kv_cache), ..LoadOptions::default() };
            let factory = CandleFactory::new(Some(2)).unwrap();
            let weights = factory.load(&fixture.files, &options, &mut |_, _| true).unwrap();
            assert!(weights.info().kv_bytes_per_token <= bytes, "none takes more than the one before");
            bytes = weights.info().kv_bytes_per_token;
            let found = first(&weights)[0].score.as_ref().expect("it is asked for").logprob;
            assert!(
                (found - expected).abs() <= bound,
                "{} {kv_cache:?}: {found}, not {expected}",
                fixture.name
            );
            let whole = generate(&weights, &prompts(&fixture), NUM_TOKENS, &greedy(), WHOLE);
            let pieces = generate(&weights, &prompts(&fixture), NUM_TOKENS, &greedy(), cut);
            assert!(whole == pieces, "{} {kv_cache:?}", fixture.name);
        }
    }
}

#[test]
fn a_panic_within_a_kernel_ends_its_step_and_every_model_still_works() {
    let factory = CandleFactory::new(Some(3)).unwrap();
    let all: Vec<(Fixture, Arc<dyn Weights>)> = fixtures()
        .into_iter()
        .map(|fixture| {
            let weights = factory.load(&fixture.files, &LoadOptions::default(), &mut |_, _| true).unwrap();
            (fixture, weights)
        })
        .collect();
    for (fixture, weights) in &all {
        let mut model = weights.start(KvCacheShape { num_blocks: 4, block_size: 16 }).unwrap();
        // A token that no logits are for: whichever threads of the pool score it panic, and others are beside them.
        let spec = SampleSpec {
            params: Arc::new(greedy()),
            forced: Some(weights.info().vocab_size as u32 + 7),
            ..SampleSpec::default()
        };
        let chunk = |number: u32| Chunk {
            sequence: SequenceId { request: RequestKey(0), choice: number },
            token_ids: vec![1; 8],
            start: 0,
            block_table: vec![BlockId(number)],
            samples: vec![spec.clone()],
            prompt_logprobs: None,
        };
        let plan = StepPlan { chunks: (0..4).map(chunk).collect() };
        let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.step(&plan)));
        assert!(step.is_err(), "{}: the step is to panic", fixture.name);
        for (other, weights) in &all {
            let case = &other.cases[0];
            let sampled = &generate(weights, &[&case.prompt], case.ids.len(), &greedy(), WHOLE)[0];
            assert_eq!(tokens(sampled), case.ids, "{} after a panic in {}", other.name, fixture.name);
        }
    }
}
