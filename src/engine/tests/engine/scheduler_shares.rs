//! Places among those who share a model: nobody waits for another's queue, and weights are kept.

use std::collections::HashMap;
use std::sync::Arc;

use candlewick_engine::{News, SchedulerLimits, Sequence, StepPlan};
use candlewick_protocol::Share;

use crate::support::{Engine, sequence, tokens_of};

const NUM_PLACES: usize = 4;

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_running: NUM_PLACES,
    max_step_tokens: 100,
    block_size: 4,
    num_blocks: 200,
    prefix_caching: false,
    max_inter_token: None,
    speculation: None,
};

fn of(holder: &str, weight: u32, sequence: Sequence) -> Sequence {
    Sequence { share: Arc::new(Share { holder: holder.into(), weight }), ..sequence }
}

/// Numbers of the sequences that a plan begins.
fn begun(plan: &StepPlan) -> Vec<u64> {
    plan.chunks.iter().filter(|chunk| chunk.start == 0).map(|chunk| chunk.sequence.request.0).collect()
}

/// Steps until somebody is begun who was not yet; who it is.
fn next_begun(engine: &mut Engine) -> Vec<u64> {
    loop {
        let (plan, _) = engine.step();
        let begun = begun(&plan);
        if !begun.is_empty() {
            return begun;
        }
    }
}

#[test]
fn one_who_comes_into_a_flood_is_the_next() {
    let mut engine = Engine::new(LIMITS);
    for number in 0..200 {
        engine.scheduler.admit(of("flood", 1, sequence(number, 5, 3 + number as u32 % 5)));
    }
    for _ in 0..20 {
        engine.step();
    }
    engine.scheduler.admit(of("other", 1, sequence(1000, 5, 8)));
    assert_eq!(next_begun(&mut engine).first(), Some(&1000));
    // And so is the one after it, as long as it asks for less than the flood.
    engine.scheduler.admit(of("other", 1, sequence(1001, 5, 8)));
    assert_eq!(next_begun(&mut engine).first(), Some(&1001));
}

#[test]
fn what_it_says_is_what_it_says_alone() {
    let mut engine = Engine::new(LIMITS);
    for number in 0..20 {
        engine.scheduler.admit(of("flood", 1, sequence(number, 5, 9)));
    }
    let mut news = engine.step().1;
    let other = of("other", 7, sequence(1000, 6, 12));
    engine.scheduler.admit(other.clone());
    news.extend(engine.run());
    let mut alone = Engine::new(LIMITS);
    alone.scheduler.admit(other);
    assert_eq!(tokens_of(1000, &news), tokens_of(1000, &alone.run()));
    assert_eq!(engine.scheduler.sequences().len(), 0);
}

/// Tokens told to each holder of two floods over so many steps; numbers from 1000 on are the second's.
fn floods(weights: [u32; 2], num_steps: usize) -> [usize; 2] {
    let mut engine = Engine::new(LIMITS);
    for number in 0..500 {
        engine.scheduler.admit(of("first", weights[0], sequence(number, 5, 6)));
        engine.scheduler.admit(of("second", weights[1], sequence(1000 + number, 5, 6)));
    }
    let mut counts = HashMap::<bool, usize>::new();
    for _ in 0..num_steps {
        for news in engine.step().1 {
            if let News::Sampled { sequence, .. } = news {
                *counts.entry(sequence.request.0 >= 1000).or_default() += 1;
            }
        }
    }
    [false, true].map(|is_second| counts.get(&is_second).copied().unwrap_or(0))
}

#[test]
fn two_who_want_all_get_it_by_their_weights() {
    for (weights, ratio) in [([1, 1], 1.0), ([3, 1], 3.0), ([1, 4], 0.25)] {
        let [first, second] = floods(weights, 300);
        let measured = first as f64 / second as f64;
        assert!((measured / ratio - 1.0).abs() < 0.1, "{weights:?}: {first} and {second}");
    }
}

#[test]
fn who_is_alone_has_all_whatever_its_weight() {
    let mut engine = Engine::new(LIMITS);
    for number in 0..20 {
        engine.scheduler.admit(of("only", 1, sequence(number, 5, 6)));
    }
    assert_eq!(engine.step().0.chunks.len(), NUM_PLACES);
}

#[test]
fn priority_orders_ones_own_and_does_not_pass_others_by() {
    let mut engine = Engine::new(LIMITS);
    for number in 0..20 {
        let urgent = Sequence { priority: -1000, ..sequence(number, 5, 6) };
        engine.scheduler.admit(of("pushy", 1, urgent));
    }
    engine.step();
    engine.scheduler.admit(of("other", 1, sequence(1000, 5, 6)));
    engine.scheduler.admit(of("other", 1, Sequence { priority: -1, ..sequence(1001, 5, 6) }));
    let begun = next_begun(&mut engine);
    assert_eq!(begun.first(), Some(&1001), "{begun:?}");
}
