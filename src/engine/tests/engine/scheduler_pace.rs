//! Prompts and a wished latency: by a clock that the test keeps.

use std::time::Duration;

use candlewick_engine::fake::FakeRule;
use candlewick_engine::{News, SchedulerLimits, StepPlan};

use crate::support::{EOS, Engine, sequence, tokens_of};

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_running: 8,
    max_step_tokens: 512,
    block_size: 16,
    num_blocks: 1000,
    prefix_caching: false,
    max_inter_token: Some(Duration::from_millis(100)),
    speculation: None,
};

/// An engine on a machine whose steps take so long.
struct Timed {
    engine: Engine,
    time: fn(usize) -> Duration,
    news: Vec<News>,
}

impl Timed {
    fn new(limits: SchedulerLimits, time: fn(usize) -> Duration) -> Self {
        Self { engine: Engine::with_rule(limits, FakeRule::Hash(0..EOS)), time, news: Vec::new() }
    }

    /// One step: its plan and how long it took.
    fn step(&mut self) -> Option<(StepPlan, Duration)> {
        let plan = self.engine.scheduler.plan()?;
        let elapsed = (self.time)(plan.num_tokens());
        self.news.extend(self.engine.finish(&plan));
        self.engine.scheduler.note_time(&plan, elapsed);
        Some((plan, elapsed))
    }

    fn is_decoding(plan: &StepPlan) -> bool {
        plan.chunks.iter().any(|chunk| chunk.token_ids.len() == 1)
    }
}

/// 20 ms for the weights and a millisecond for each token.
fn small_model(num_tokens: usize) -> Duration {
    Duration::from_millis(20 + num_tokens as u64)
}

/// Half a second for the weights and 25 ms for each token: decoding alone takes longer than is wished.
fn large_model(num_tokens: usize) -> Duration {
    Duration::from_millis(500 + 25 * num_tokens as u64)
}

#[test]
fn who_decodes_waits_for_prompts_no_longer_than_wished() {
    let mut timed = Timed::new(LIMITS, small_model);
    timed.engine.scheduler.admit(sequence(1, 300, 120));
    let (plan, _) = timed.step().expect("a prompt");
    assert_eq!(plan.num_tokens(), 300, "nobody waits for it");
    timed.step().expect("it decodes");
    timed.engine.scheduler.admit(sequence(2, 900, 5));
    let mut num_steps = 0;
    while tokens_of(2, &timed.news).is_empty() {
        let (plan, elapsed) = timed.step().expect("two are here");
        assert!(Timed::is_decoding(&plan), "decoding goes on");
        assert!(elapsed <= Duration::from_millis(101), "{elapsed:?}");
        num_steps += 1;
    }
    assert!(num_steps <= 13, "{num_steps} steps for what fits into twelve");
}

#[test]
fn prompts_advance_however_slow_decoding_is() {
    let mut timed = Timed::new(LIMITS, large_model);
    timed.engine.scheduler.admit(sequence(1, 40, 200));
    (0..3).for_each(|_| drop(timed.step()));
    timed.engine.scheduler.admit(sequence(2, 60, 5));
    let mut num_steps = 0;
    while tokens_of(2, &timed.news).is_empty() {
        let (plan, elapsed) = timed.step().expect("two are here");
        assert!(Timed::is_decoding(&plan), "decoding goes on");
        assert!(
            elapsed <= large_model(1) * 13 / 10,
            "a quarter more, and what a mean is off by: {elapsed:?}"
        );
        num_steps += 1;
    }
    assert!(num_steps <= 15, "{num_steps} steps");
}

#[test]
fn the_wish_changes_no_token() {
    let run = |limits: SchedulerLimits| {
        let mut timed = Timed::new(limits, small_model);
        for number in 1..=4 {
            timed.engine.scheduler.admit(sequence(number, 150 * number as usize, 10 * number as u32));
            (0..3).for_each(|_| drop(timed.step()));
        }
        while timed.step().is_some() {}
        (1..=4).map(|number| tokens_of(number, &timed.news)).collect::<Vec<_>>()
    };
    let plain = run(SchedulerLimits { max_inter_token: None, ..LIMITS });
    assert_eq!(run(LIMITS), plain);
    assert_eq!(run(SchedulerLimits { max_inter_token: Some(Duration::ZERO), ..LIMITS }), plain);
}
