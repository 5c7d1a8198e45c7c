//! A draft model beside the scheduler: it changes no token, brings several a step where it is right, and is asked as that pays.

use std::time::Duration;

use candlewick_engine::fake::FakeRule;
use candlewick_engine::{
    DraftAsk, Drafter, KvCacheShape, News, SampleSpec, SamplingParams, SchedulerLimits, Sequence,
    SpeculationLimits, StepPlan,
};

use crate::support::{EOS, Engine, VOCAB_SIZE, id, params, sequence, start_model, tokens_of};

/// By the draft model alone: so many tokens never come again.
const BY_DRAFT: SpeculationLimits = SpeculationLimits { max_draft_tokens: 4, ngram_min: 500, ngram_max: 500 };
const BY_BOTH: SpeculationLimits = SpeculationLimits { ngram_min: 2, ngram_max: 3, ..BY_DRAFT };

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_running: 8,
    max_step_tokens: 64,
    block_size: 4,
    num_blocks: 300,
    prefix_caching: false,
    max_inter_token: None,
    speculation: Some(BY_DRAFT),
};

/// A token by all before it; drawn, where there is temperature.
const TARGET: FakeRule = FakeRule::Hash(0..EOS);
/// One that is right one time in two.
fn half_right() -> FakeRule {
    FakeRule::Script([1, 2].repeat(100))
}

struct Pair {
    engine: Engine,
    drafter: Drafter,
    /// Tokens that the draft model computed, step by step.
    drafted: Vec<usize>,
}

impl Pair {
    fn new(limits: SchedulerLimits, target: FakeRule, draft: FakeRule, num_draft_blocks: u32) -> Self {
        let mut engine = Engine::with_rule(limits, target);
        engine.scheduler.set_drafting(true);
        Self { engine, drafter: drafter(draft, num_draft_blocks), drafted: Vec::new() }
    }

    /// Asks, plans and computes; draft steps take a millisecond, others ten and one for each token.
    fn step(&mut self) -> Option<(StepPlan, Vec<News>)> {
        let scheduler = &mut self.engine.scheduler;
        let asks = scheduler.plan_drafts();
        if !asks.is_empty() {
            let num_max = scheduler.num_draft_tokens_max();
            let mut drafts = self.drafter.draft(&asks, num_max).expect("its plans are valid");
            drafts.steps.iter_mut().for_each(|(_, elapsed)| *elapsed = Duration::from_millis(1));
            self.drafted.extend(drafts.steps.iter().map(|(num_tokens, _)| num_tokens));
            scheduler.take_drafts(drafts);
        }
        let plan = self.engine.scheduler.plan()?;
        let news = self.engine.finish(&plan);
        self.engine.scheduler.note_time(&plan, Duration::from_millis(10 + plan.num_tokens() as u64));
        Some((plan, news))
    }

    fn run(&mut self) -> (Vec<News>, usize) {
        let (mut news, mut num_steps) = (Vec::new(), 0);
        while let Some((_, more)) = self.step() {
            news.extend(more);
            num_steps += 1;
        }
        (news, num_steps)
    }
}

fn drafter(rule: FakeRule, num_blocks: u32) -> Drafter {
    let shape = KvCacheShape { num_blocks, block_size: 4 };
    Drafter::new(start_model(rule, num_blocks as usize, 4), shape, VOCAB_SIZE as usize, 1000)
}

/// One that is drawn, penalised and scored.
fn drawn(number: u64, num_prompt_tokens: usize, max_tokens: u32) -> Sequence {
    let change = |params: &mut SamplingParams| {
        (params.temperature, params.seed) = (1.0, number);
        (params.presence_penalty, params.logprobs) = (0.5, Some(2));
    };
    Sequence { params: params(max_tokens, change), ..sequence(number, num_prompt_tokens, 1) }
}

fn alone(rule: FakeRule, sequence: Sequence) -> Vec<News> {
    let mut engine = Engine::with_rule(SchedulerLimits { speculation: None, ..LIMITS }, rule);
    engine.scheduler.admit(sequence);
    engine.run()
}

#[test]
fn a_draft_that_knows_what_will_be_said_saves_steps_and_changes_nothing() {
    for sequence in [sequence(1, 9, 60), drawn(1, 9, 60)] {
        let mut pair = Pair::new(LIMITS, TARGET, TARGET, 300);
        pair.engine.scheduler.admit(sequence.clone());
        let (news, num_steps) = pair.run();
        assert_eq!(news, alone(TARGET, sequence));
        assert!(num_steps < 20, "{num_steps} steps for 60 tokens");
        let counts = pair.engine.scheduler.counts();
        assert_eq!(counts.num_accepted_tokens, counts.num_draft_tokens);
        assert!(counts.num_accepted_tokens > 40, "{counts:?}");
    }
}

#[test]
fn a_draft_that_is_wrong_changes_nothing_and_is_soon_asked_no_more() {
    let mut pair = Pair::new(LIMITS, TARGET, FakeRule::Script(vec![3]), 300);
    pair.engine.scheduler.admit(sequence(1, 9, 400));
    let (news, num_steps) = pair.run();
    assert_eq!(news, alone(TARGET, sequence(1, 9, 400)));
    assert!(num_steps > 380, "{num_steps}");
    assert!(pair.drafted.len() < 80, "{} steps of the draft model in {num_steps}", pair.drafted.len());
}

#[test]
fn what_the_text_tells_is_not_asked() {
    // The same three tokens again and again; the draft model is always right too.
    let repeats = || FakeRule::Script([1, 2, 3].repeat(100));
    let mut pair =
        Pair::new(SchedulerLimits { speculation: Some(BY_BOTH), ..LIMITS }, repeats(), repeats(), 300);
    pair.engine.scheduler.admit(sequence(1, 5, 200));
    let (mut early, mut late) = (0, 0);
    let mut news = Vec::new();
    while let Some((_, more)) = pair.step() {
        news.extend(more);
        let num_tokens = tokens_of(1, &news).len();
        if num_tokens <= 100 { early = pair.drafted.len() } else { late = pair.drafted.len() - early }
    }
    assert_eq!(news, alone(repeats(), sequence(1, 5, 200)));
    assert!(early > 0 && late <= early, "{early} and then {late} steps of the draft model");
}

#[test]
fn many_that_come_and_go_say_what_they_say_alone() {
    for (limits, num_draft_blocks) in [
        (LIMITS, 300),
        // Sequences are preempted, and texts of the draft model make way for others.
        (SchedulerLimits { num_blocks: 40, ..LIMITS }, 25),
        (SchedulerLimits { speculation: Some(BY_BOTH), prefix_caching: true, num_blocks: 40, ..LIMITS }, 25),
        (SchedulerLimits { max_step_tokens: 7, num_blocks: 40, ..LIMITS }, 40),
    ] {
        for draft in [TARGET, half_right()] {
            let mut pair = Pair::new(limits, TARGET, draft, num_draft_blocks);
            let sequences = (1..=12).map(|number| drawn(number, 3 + 5 * number as usize, 40));
            let mut waiting = sequences.collect::<Vec<_>>();
            let (mut news, mut seed) = (Vec::new(), 7u32);
            loop {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let number = u64::from(seed >> 16) % 12 + 1;
                match seed >> 29 {
                    0 | 1 => waiting.pop().into_iter().for_each(|next| pair.engine.scheduler.admit(next)),
                    2 => pair.engine.scheduler.pause(id(number)),
                    3 if number == 5 => drop(pair.engine.scheduler.cancel(id(5))),
                    4 if number < 3 => pair.drafter.forget(),
                    _ => (1..=12).for_each(|number| pair.engine.scheduler.resume(id(number))),
                }
                match pair.step() {
                    Some((_, more)) => news.extend(more),
                    None if waiting.is_empty() && pair.engine.scheduler.sequences().is_empty() => break,
                    None => {}
                }
            }
            for number in (1..=12).filter(|number| *number != 5) {
                let expected = alone(TARGET, drawn(number, 3 + 5 * number as usize, 40));
                assert_eq!(tokens_of(number, &news), tokens_of(number, &expected), "{number} in {limits:?}");
            }
            assert_eq!(pair.engine.scheduler.counts().num_blocks_used, 0);
        }
    }
}

fn ask(number: u64, prompt: impl Iterator<Item = u32>, num_max: usize) -> DraftAsk {
    DraftAsk {
        sequence: id(number),
        prompt: prompt.collect(),
        output: vec![1],
        sample: SampleSpec { params: params(100, |_| ()), num_generated: 1, ..SampleSpec::default() },
        cache_salt: None,
        num_max,
    }
}

/// Tokens of each step that it took to answer.
fn sizes(drafter: &mut Drafter, asks: &[DraftAsk], num_tokens_max: usize) -> Vec<usize> {
    let drafts = drafter.draft(asks, num_tokens_max).expect("its plans are valid");
    drafts.steps.iter().map(|(num_tokens, _)| *num_tokens).collect()
}

#[test]
fn a_long_text_is_read_over_several_questions_and_delays_no_other() {
    let mut drafter = drafter(TARGET, 100);
    let asks = [ask(1, (0..50).map(|position| position % 9), 2), ask(2, 0..5, 2)];
    let drafts = drafter.draft(&asks, 20).expect("its plans are valid");
    assert_eq!(drafts.guesses.iter().map(|(id, guess)| (*id, guess.len())).collect::<Vec<_>>(), [(id(2), 2)]);
    assert_eq!(drafts.steps.iter().map(|(num, _)| *num).collect::<Vec<_>>(), [20, 1]);
    // Of the second text, what was guessed has come.
    let next = DraftAsk { output: [&[1], &drafts.guesses[0].1[..]].concat(), ..asks[1].clone() };
    let asks = [asks[0].clone(), next];
    assert_eq!(sizes(&mut drafter, &asks, 20), [20, 1], "one of the second, nineteen of the first");
    assert_eq!(sizes(&mut drafter, &asks[..1], 20), [18, 1], "what was left of 51");
}

#[test]
fn the_next_turn_goes_on_from_the_one_before() {
    let mut drafter = drafter(TARGET, 100);
    assert_eq!(sizes(&mut drafter, &[ask(1, (0..30).map(|n| n % 7), 1)], 100), [31]);
    let longer = || (0..40).map(|n| n % 7);
    let salted = DraftAsk { cache_salt: Some("mine".into()), ..ask(2, longer(), 1) };
    assert_eq!(sizes(&mut drafter, &[salted], 100), [41], "nobody else's");
    assert_eq!(sizes(&mut drafter, &[ask(3, longer(), 1)], 100), [11]);
    assert_eq!(sizes(&mut drafter, &[ask(4, (0..40).map(|n| n % 5), 1)], 100), [41], "another text");
}

#[test]
fn what_it_cannot_follow_is_not_guessed() {
    let mut drafter = drafter(TARGET, 3);
    let unknown = ask(1, [3, VOCAB_SIZE].into_iter(), 2);
    let too_long = ask(2, (0..20).map(|n| n % 7), 2);
    let asks = [unknown, too_long, ask(3, 0..3, 2)];
    let drafts = drafter.draft(&asks, 100).expect("its plans are valid");
    assert_eq!(drafts.guesses.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(3)]);
}

#[test]
fn nothing_is_guessed_behind_an_end() {
    let mut drafter = drafter(FakeRule::Script(vec![4, 5, EOS, 6]), 10);
    let mut asked = ask(1, 0..3, 4);
    asked.sample.num_generated = 0;
    asked.sample.params = params(100, |params| params.eos_token_ids = vec![EOS]);
    let drafts = drafter.draft(&[asked], 100).expect("its plans are valid");
    assert_eq!(drafts.guesses, [(id(1), vec![4, 5])]);
}
