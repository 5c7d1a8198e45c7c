//! Prefix caching: what a sequence need not compute because another began alike, and what it must.

use candlewick_engine::{SchedulerLimits, Sequence, SequenceId};

use crate::support::{Engine, brief, sequence, tokens_of};

const CACHING: SchedulerLimits = SchedulerLimits {
    max_running: 8,
    max_step_tokens: 100,
    block_size: 4,
    num_blocks: 20,
    prefix_caching: true,
    max_inter_token: None,
    speculation: None,
};

/// A sequence of this prompt that generates so many tokens.
fn asks(number: u64, prompt: &[u32], max_tokens: u32) -> Sequence {
    Sequence { prompt: prompt.into(), ..sequence(number, 1, max_tokens) }
}

/// Runs a sequence to its end: what its first chunk computes, in brief, and its tokens.
fn run(engine: &mut Engine, sequence: Sequence) -> (String, Vec<u32>) {
    let number = sequence.id.request.0;
    engine.scheduler.admit(sequence);
    let (plan, mut news) = engine.step();
    news.extend(engine.run());
    (brief(&plan)[0].clone(), tokens_of(number, &news))
}

/// The same sequence in a cache of its own.
fn alone(sequence: Sequence) -> Vec<u32> {
    run(&mut Engine::new(CACHING), sequence).1
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut engine = Engine::new(CACHING);
    let prompt = [1, 2, 3, 4, 5, 6];
    let (first, answer) = run(&mut engine, asks(1, &prompt, 4));
    assert_eq!(first, "1:0..6*");
    let turn: Vec<u32> = prompt.into_iter().chain(answer).chain([7, 8, 9]).collect();
    // Of 6 + 4 tokens the last was never computed: two blocks of four are whole.
    let (second, tokens) = run(&mut engine, asks(2, &turn, 3));
    assert_eq!(second, "2:8..13*");
    assert_eq!(tokens, alone(asks(2, &turn, 3)));
    let counts = engine.scheduler.counts();
    assert_eq!((counts.num_prefix_queries, counts.num_prefix_hits, counts.num_blocks_used), (6 + 13, 8, 0));
}

#[test]
fn the_last_token_is_computed_even_of_a_prompt_that_is_cached_whole() {
    let mut engine = Engine::new(CACHING);
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
    run(&mut engine, asks(1, &prompt, 1));
    let (again, tokens) = run(&mut engine, asks(2, &prompt, 3));
    assert_eq!(again, "2:4..8*");
    assert_eq!(tokens, alone(asks(2, &prompt, 3)));
}

#[test]
fn sequences_that_run_share_the_blocks_of_their_beginning() {
    let mut engine = Engine::new(CACHING);
    let prompt: Vec<u32> = (1..=9).collect();
    engine.scheduler.admit(asks(1, &prompt, 9));
    engine.step();
    assert_eq!(engine.scheduler.counts().num_blocks_used, 3);
    engine.scheduler.admit(asks(2, &prompt, 9));
    engine.step();
    assert_eq!(engine.scheduler.counts().num_blocks_used, 4, "one block more, for what they do not share");
    let news = engine.run();
    // The first of its tokens came before `news`.
    assert!(alone(asks(2, &prompt, 9)).ends_with(&tokens_of(2, &news)));
}

#[test]
fn choices_of_one_request_read_their_prompt_once() {
    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 6, ..CACHING });
    let prompt: Vec<u32> = (1..=10).collect();
    let choice = |choice| {
        let asked = asks(1, &prompt, 2);
        Sequence { id: SequenceId { choice, ..asked.id }, ..asked }
    };
    (0..2).for_each(|index| engine.scheduler.admit(choice(index)));
    engine.scheduler.admit(asks(2, &[20, 21, 22], 1));
    let mut plans = Vec::new();
    while let Some(plan) = engine.scheduler.plan() {
        plans.push(brief(&plan).join(" "));
        engine.finish(&plan);
    }
    // The second choice reads only what is no whole block; who comes after it is not held up meanwhile.
    assert_eq!(plans, ["1:0..6", "1:6..10* 2:0..2", "1:10..11* 2:2..3* 1:8..10*", "1:10..11*"]);
}

#[test]
fn another_salt_shares_nothing() {
    let mut engine = Engine::new(CACHING);
    let prompt: Vec<u32> = (1..=9).collect();
    let salted = |number, salt: &str| Sequence { cache_salt: Some(salt.into()), ..asks(number, &prompt, 1) };
    run(&mut engine, salted(1, "a"));
    assert_eq!(run(&mut engine, salted(2, "b")).0, "2:0..9*");
    assert_eq!(run(&mut engine, asks(3, &prompt, 1)).0, "3:0..9*");
    assert_eq!(run(&mut engine, salted(4, "a")).0, "4:8..9*");
}

#[test]
fn a_prompt_that_is_scored_is_computed_whole() {
    let mut engine = Engine::new(CACHING);
    let prompt: Vec<u32> = (1..=9).collect();
    run(&mut engine, asks(1, &prompt, 1));
    let scored = Sequence { prompt_logprobs: Some(0), ..asks(2, &prompt, 1) };
    assert_eq!(run(&mut engine, scored).0, "2:0..9*");
}

#[test]
fn what_was_used_last_stays_longest() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 6, ..CACHING });
    let text = |start: u32| (start..start + 9).collect::<Vec<u32>>();
    run(&mut engine, asks(1, &text(0), 1));
    run(&mut engine, asks(2, &text(10), 1));
    assert_eq!(
        run(&mut engine, asks(3, &text(0), 1)).0,
        "3:8..9*",
        "both are in the cache, and this one is used"
    );
    run(&mut engine, asks(4, &text(20), 1));
    assert_eq!(run(&mut engine, asks(5, &text(0), 1)).0, "5:8..9*");
    assert_eq!(
        run(&mut engine, asks(6, &text(10), 1)).0,
        "6:4..9*",
        "its end was given away, and not yet its beginning"
    );
}

#[test]
fn who_was_preempted_finds_what_nobody_has_overwritten() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 5, max_step_tokens: 12, ..CACHING });
    engine.scheduler.admit(sequence(1, 8, 9));
    engine.step();
    engine.scheduler.admit(sequence(2, 7, 4));
    let news = engine.run();
    assert_eq!(tokens_of(2, &news), alone(sequence(2, 7, 4)));
    assert!(engine.scheduler.counts().num_preemptions > 0, "the cache is too small for both");
}

#[test]
fn a_cache_that_is_turned_off_keeps_nothing() {
    let mut engine = Engine::new(SchedulerLimits { prefix_caching: false, ..CACHING });
    let prompt: Vec<u32> = (1..=9).collect();
    run(&mut engine, asks(1, &prompt, 1));
    assert_eq!(run(&mut engine, asks(2, &prompt, 1)).0, "2:0..9*");
    assert_eq!(engine.scheduler.counts().num_prefix_queries, 0);
}
