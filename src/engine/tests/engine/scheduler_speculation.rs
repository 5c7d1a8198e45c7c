//! Guesses about what sequences will say: when they are made, what becomes of them, and that they change no token.

use std::time::Duration;

use candlewick_engine::fake::FakeRule;
use candlewick_engine::{
    Chunk, News, SampleSpec, SchedulerLimits, Sequence, SequenceEnd, SpeculationLimits, StepPlan,
    ThinkingBudget,
};

use crate::support::{EOS, Engine, brief, id, params, sequence, tokens_of};

const GUESSING: SpeculationLimits = SpeculationLimits { max_draft_tokens: 4, ngram_min: 2, ngram_max: 3 };

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_running: 8,
    max_step_tokens: 100,
    block_size: 4,
    num_blocks: 300,
    prefix_caching: false,
    max_inter_token: None,
    speculation: Some(GUESSING),
};

/// Says the same three tokens again and again.
fn repeats() -> FakeRule {
    FakeRule::Script([1, 2, 3].repeat(40))
}

#[track_caller]
fn check_plan(engine: &mut Engine, expected: &[&str]) -> Vec<News> {
    let (plan, news) = engine.step();
    assert_eq!(brief(&plan), expected);
    news
}

/// Memory is the bottleneck: what a guess takes is known, and it is next to nothing.
fn guesses_cost_little(engine: &mut Engine) {
    for num_tokens in [1, 4] {
        let chunk = Chunk {
            sequence: id(1),
            token_ids: vec![0; num_tokens],
            start: 0,
            block_table: Vec::new(),
            samples: vec![SampleSpec::default(); num_tokens],
            prompt_logprobs: None,
        };
        engine.scheduler.note_time(&StepPlan { chunks: vec![chunk] }, Duration::from_millis(10));
    }
}

/// All news of this sequence, and in how many steps they came.
fn run(limits: SchedulerLimits, rule: FakeRule, sequence: Sequence) -> (Vec<News>, usize) {
    let mut engine = Engine::with_rule(limits, rule);
    engine.scheduler.admit(sequence);
    let (mut news, mut num_steps) = (Vec::new(), 0);
    while let Some(plan) = engine.scheduler.plan() {
        news.extend(engine.finish(&plan));
        num_steps += 1;
    }
    let counts = engine.scheduler.counts();
    assert_eq!((counts.num_blocks_used, counts.num_running), (0, 0));
    (news, num_steps)
}

/// Guesses bring the same news, in fewer steps.
#[track_caller]
fn check_same_but_sooner(rule: FakeRule, sequence: Sequence) {
    let plain = run(SchedulerLimits { speculation: None, ..LIMITS }, rule.clone(), sequence.clone());
    let guessed = run(LIMITS, rule, sequence);
    assert_eq!(guessed.0, plain.0);
    assert!(guessed.1 < plain.1, "{} steps in place of {}", guessed.1, plain.1);
}

#[test]
fn what_repeats_itself_comes_several_tokens_a_step() {
    let mut engine = Engine::with_rule(LIMITS, repeats());
    guesses_cost_little(&mut engine);
    engine.scheduler.admit(sequence(1, 2, 14));
    check_plan(&mut engine, &["1:0..2*"]);
    // The prompt is 1, 2; what has come by then is 1.
    check_plan(&mut engine, &["1:2..3*"]);
    // 1, 2 has come before, followed by 1; it is 3 this time.
    let news = check_plan(&mut engine, &["1:3..4*+4"]);
    assert_eq!(tokens_of(1, &news), [3]);
    let mut news = check_plan(&mut engine, &["1:4..5*"]);
    news.extend(check_plan(&mut engine, &["1:5..6*"]));
    assert_eq!(tokens_of(1, &news), [1, 2]);
    let news = check_plan(&mut engine, &["1:6..7*+4"]);
    assert_eq!(tokens_of(1, &news), [3, 1, 2, 3, 1]);
    // Four are left: three guesses and the one after them.
    let news = check_plan(&mut engine, &["1:11..12*+3"]);
    assert_eq!(tokens_of(1, &news), [2, 3, 1, 2]);
    assert!(matches!(news.last(), Some(News::Sampled { end: Some(SequenceEnd::Length), .. })));
    assert!(engine.scheduler.plan().is_none());
    let counts = engine.scheduler.counts();
    assert_eq!((counts.num_drafts, counts.num_draft_tokens, counts.num_accepted_tokens), (3, 11, 7));
}

#[test]
fn guesses_change_no_token_and_no_score() {
    check_same_but_sooner(repeats(), sequence(1, 5, 30));
    let scored = |params: &mut candlewick_engine::SamplingParams| {
        (params.logprobs, params.temperature, params.seed) = (Some(2), 1.0, 7);
    };
    check_same_but_sooner(
        // The next of three tokens by a draw: now and then a guess is right.
        FakeRule::Hash(0..3),
        Sequence { params: params(60, scored), ..sequence(1, 5, 0) },
    );
}

#[test]
fn a_guess_sees_the_tokens_before_it_as_if_they_were_known() {
    let penalized = params(40, |params| params.presence_penalty = 0.5);
    let mut engine = Engine::with_rule(LIMITS, repeats());
    engine.scheduler.admit(Sequence { params: penalized, ..sequence(1, 5, 0) });
    let chunk = plan_with_draft(&mut engine).chunks.remove(0);
    let output = chunk.samples[0].history.clone().expect("penalties look at it").output;
    for (place, spec) in chunk.samples.iter().enumerate() {
        assert_eq!(spec.num_generated as usize, output.len() + place);
        let history = spec.history.clone().expect("penalties look at it");
        assert_eq!(history.output, [&output, &chunk.draft()[..place]].concat());
    }
}

fn plan_with_draft(engine: &mut Engine) -> StepPlan {
    loop {
        let plan = engine.scheduler.plan().expect("there is something to compute");
        if plan.chunks.iter().any(|chunk| !chunk.draft().is_empty()) {
            return plan;
        }
        engine.finish(&plan);
    }
}

#[test]
fn whatever_ends_a_sequence_ends_it_at_the_same_token() {
    let ending = |change: fn(&mut candlewick_engine::SamplingParams)| {
        check_same_but_sooner(
            FakeRule::Script([[1, 2, 3].repeat(6), vec![1, EOS], [1, 2, 3].repeat(9)].concat()),
            Sequence { params: params(60, change), ..sequence(1, 5, 0) },
        );
    };
    ending(|params| params.eos_token_ids = vec![EOS]);
    ending(|params| params.stop_token_ids = vec![EOS]);
    ending(|params| {
        params.repetition_detection = Some(candlewick_protocol::RepetitionDetection {
            min_pattern_size: 3,
            max_pattern_size: 3,
            min_count: 4,
        });
    });
    ending(|params| {
        // Reasoning from the start: 8 is forced after ten tokens.
        params.thinking = Some(ThinkingBudget {
            num_tokens: 10,
            open: [7].into(),
            close: [8].into(),
            forced: [8].into(),
            starts_inside: true,
        });
    });
}

#[test]
fn an_end_is_never_guessed() {
    // The prompt is a conversation: each turn ends with the end token.
    let prompt = [4, 5, EOS, 4, 5, EOS, 4].into();
    let ends = params(9, |params| params.eos_token_ids = vec![EOS]);
    let mut engine = Engine::with_rule(LIMITS, FakeRule::Script(vec![5, 6, 4, 5, 6]));
    engine.scheduler.admit(Sequence { prompt, params: ends, ..sequence(1, 1, 0) });
    check_plan(&mut engine, &["1:0..7*"]);
    check_plan(&mut engine, &["1:7..8*"]);
}

#[test]
fn a_search_is_not_guessed_at() {
    let mut engine = Engine::with_rule(LIMITS, repeats());
    let output = [1, 2, 3].repeat(3);
    engine.scheduler.admit(Sequence { output, holds: true, ..sequence(1, 2, 30) });
    let plan = engine.scheduler.plan().expect("it is here");
    assert!(plan.chunks.iter().all(|chunk| chunk.samples.len() == 1));
}

#[test]
fn guesses_take_only_what_is_left_of_the_step() {
    let mut engine = Engine::with_rule(SchedulerLimits { max_step_tokens: 4, ..LIMITS }, repeats());
    guesses_cost_little(&mut engine);
    engine.scheduler.admit(Sequence { output: [1, 2, 3].repeat(2), ..sequence(1, 1, 30) });
    check_plan(&mut engine, &["1:0..4"]);
    check_plan(&mut engine, &["1:4..7*"]);
    engine.scheduler.admit(sequence(2, 6, 1));
    check_plan(&mut engine, &["1:7..8*", "2:0..3"]);
    check_plan(&mut engine, &["1:8..9*", "2:3..6*"]);
    check_plan(&mut engine, &["1:9..10*+3"]);
    // Beside a prompt nothing is guessed, whatever the step has left.
    engine.scheduler.admit(sequence(3, 2, 1));
    let (plan, _) = engine.step();
    assert!(plan.chunks.iter().all(|chunk| chunk.draft().is_empty()), "{:?}", brief(&plan));
}

#[test]
fn guesses_take_nobodys_blocks_and_keep_none() {
    // Nine blocks of one token: eight for the two sequences' tokens so far, one that is free.
    let limits = SchedulerLimits { block_size: 1, num_blocks: 10, ..LIMITS };
    let mut engine = Engine::with_rule(limits, FakeRule::Script(vec![9; 20]));
    engine.scheduler.admit(Sequence { output: vec![1, 2, 3, 1, 2], ..sequence(1, 1, 8) });
    engine.scheduler.admit(sequence(2, 1, 5));
    check_plan(&mut engine, &["1:0..6*", "2:0..1*"]);
    // What came is 9, not what would have been guessed; nothing came before that ends with it.
    check_plan(&mut engine, &["1:6..7*", "2:1..2*"]);
    let counts = engine.scheduler.counts();
    assert_eq!((counts.num_blocks_used, counts.num_preemptions), (9, 0));
    // 9, 9 has come before, followed by more of it, as far as the last free block goes.
    let (plan, _) = engine.step();
    assert_eq!(brief(&plan)[0], "1:7..8*");
}

#[test]
fn blocks_of_wrong_guesses_are_given_back_and_shared_with_nobody() {
    let limits = SchedulerLimits { block_size: 2, prefix_caching: true, ..LIMITS };
    let rule = FakeRule::Script([1, 2, 3, 1, 2, 3, 1, 2, 9, 9, 9].into());
    let mut engine = Engine::with_rule(limits, rule);
    guesses_cost_little(&mut engine);
    engine.scheduler.admit(sequence(1, 4, 11));
    while engine.scheduler.counts().num_drafts == 0 {
        engine.step();
    }
    let mut is_wrong = false;
    while let Some(plan) = engine.scheduler.plan() {
        let chunk = plan.chunks[0].clone();
        let num_news = engine.finish(&plan).len();
        if engine.scheduler.counts().num_running > 0 {
            is_wrong |= num_news < chunk.samples.len();
            let num_computed = chunk.start + num_news;
            assert_eq!(engine.scheduler.counts().num_blocks_used, num_computed.div_ceil(2));
        }
    }
    assert!(is_wrong, "some guess was wrong");
    // One that begins with what was guessed in vain finds only what was said.
    let said: Vec<u32> =
        (0..4).map(|position| (1 + position) % EOS).chain([1, 2, 3, 1, 2, 3, 1, 2]).collect();
    let guessed = [&said[..], &[3, 1, 2, 3]].concat();
    engine.scheduler.admit(Sequence { prompt: guessed.into(), ..sequence(2, 1, 1) });
    check_plan(&mut engine, &["2:12..16*"]);
}

#[test]
fn who_is_never_right_is_soon_not_listened_to() {
    // A step of one token takes 10 ms, and each further token 1 ms more.
    let mut engine = Engine::with_rule(LIMITS, FakeRule::Hash(0..4));
    let time = |chunks: &[Chunk]| {
        let num: usize = chunks.iter().map(|chunk| chunk.token_ids.len()).sum();
        Duration::from_millis(9 + num as u64)
    };
    engine.scheduler.admit(Sequence { params: params(600, |_| ()), ..sequence(1, 200, 0) });
    let mut num_drafted = Vec::new();
    while let Some(plan) = engine.scheduler.plan() {
        engine.finish(&plan);
        engine.scheduler.note_time(&plan, time(&plan.chunks));
        num_drafted.push(plan.chunks[0].draft().len());
    }
    let (early, late) = num_drafted.split_at(num_drafted.len() / 2);
    let mean = |num: &[usize]| num.iter().sum::<usize>() as f64 / num.len() as f64;
    // One in four is right by chance, so the first of a guess pays, and a third seldom does.
    assert!(mean(late) < 2.0, "{} and then {}", mean(early), mean(late));
    assert!(mean(early) < 3.0, "{} and then {}", mean(early), mean(late));
}

#[test]
fn a_batch_that_is_bound_by_arithmetic_is_not_guessed_at() {
    let num_drafts = |milliseconds: fn(usize) -> f64| {
        let mut engine = Engine::with_rule(LIMITS, FakeRule::Hash(0..4));
        (1..=8).for_each(|number| engine.scheduler.admit(sequence(number, 10, 60)));
        while let Some(plan) = engine.scheduler.plan() {
            engine.finish(&plan);
            engine.scheduler.note_time(&plan, Duration::from_secs_f64(milliseconds(plan.num_tokens()) / 1e3));
        }
        engine.scheduler.counts().num_draft_tokens
    };
    let (arithmetic, memory) = (num_drafts(|num| num as f64), num_drafts(|num| 20.0 + num as f64 / 10.0));
    assert!(arithmetic * 4 < memory, "{arithmetic} and {memory}");
}

#[test]
fn a_sequence_that_is_cancelled_with_a_guess_in_flight_leaves_nothing() {
    let mut engine = Engine::with_rule(LIMITS, repeats());
    engine.scheduler.admit(sequence(1, 5, 40));
    let plan = plan_with_draft(&mut engine);
    engine.scheduler.cancel(id(1));
    assert!(engine.finish(&plan).is_empty());
    assert_eq!(engine.scheduler.counts().num_blocks_used, 0);
}
