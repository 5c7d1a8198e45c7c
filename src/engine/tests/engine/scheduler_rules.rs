//! The scheduler rule by rule: sequences in, plans and news out.

use candlewick_engine::fake::{FakeRule, hash_tokens};
use candlewick_engine::{
    Branch, News, Scheduler, SchedulerLimits, Sequence, SequenceEnd, SequenceId, ThinkingBudget,
};

use crate::support::{EOS, Engine, brief, id, params, sequence, tokens_of};

/// Plenty of everything; tests narrow what they are about.
const ROOMY: SchedulerLimits = SchedulerLimits {
    max_running: 8,
    max_step_tokens: 100,
    block_size: 4,
    num_blocks: 100,
    prefix_caching: false,
    max_inter_token: None,
    speculation: None,
};

#[track_caller]
fn check_plan(engine: &mut Engine, expected: &[&str]) -> Vec<News> {
    let (plan, news) = engine.step();
    assert_eq!(brief(&plan), expected);
    news
}

/// What a sequence generates when it is alone.
fn solo(sequence: Sequence) -> Vec<u32> {
    let number = sequence.id.request.0;
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(sequence);
    tokens_of(number, &engine.run())
}

fn end_of(news: &[News]) -> Option<SequenceEnd> {
    news.iter().find_map(|news| match news {
        News::Sampled { end, .. } => *end,
        _ => None,
    })
}

#[test]
fn a_prompt_is_prefilled_in_chunks_and_then_decoded() {
    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 4, ..ROOMY });
    engine.scheduler.admit(sequence(1, 10, 3));
    assert!(check_plan(&mut engine, &["1:0..4"]).is_empty());
    assert!(check_plan(&mut engine, &["1:4..8"]).is_empty());
    assert_eq!(check_plan(&mut engine, &["1:8..10*"]).len(), 1);
    check_plan(&mut engine, &["1:10..11*"]);
    let news = check_plan(&mut engine, &["1:11..12*"]);
    assert_eq!(end_of(&news), Some(SequenceEnd::Length));
    assert!(engine.scheduler.plan().is_none(), "nothing is left");
    assert!(engine.scheduler.sequences().is_empty());
}

#[test]
fn what_is_decoding_goes_first_and_prompts_get_the_rest_of_the_step() {
    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 6, ..ROOMY });
    engine.scheduler.admit(sequence(1, 2, 9));
    engine.scheduler.admit(sequence(2, 3, 9));
    check_plan(&mut engine, &["1:0..2*", "2:0..3*"]);
    engine.scheduler.admit(sequence(3, 20, 9));
    check_plan(&mut engine, &["1:2..3*", "2:3..4*", "3:0..4"]);
    check_plan(&mut engine, &["1:3..4*", "2:4..5*", "3:4..8"]);
}

#[test]
fn a_partly_prefilled_prompt_goes_before_a_waiting_one() {
    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 6, ..ROOMY });
    engine.scheduler.admit(sequence(1, 10, 9));
    check_plan(&mut engine, &["1:0..6"]);
    engine.scheduler.admit(Sequence { priority: -1, ..sequence(2, 6, 9) });
    check_plan(&mut engine, &["1:6..10*", "2:0..2"]);
}

#[test]
fn waiting_sequences_are_admitted_by_priority_and_then_by_arrival() {
    let mut engine = Engine::new(SchedulerLimits { max_running: 2, ..ROOMY });
    engine.scheduler.admit(Sequence { priority: 5, ..sequence(1, 1, 1) });
    engine.scheduler.admit(sequence(2, 1, 1));
    engine.scheduler.admit(sequence(3, 1, 1));
    engine.scheduler.admit(Sequence { priority: -5, ..sequence(4, 1, 1) });
    check_plan(&mut engine, &["4:0..1*", "2:0..1*"]);
    check_plan(&mut engine, &["3:0..1*", "1:0..1*"]);
}

#[test]
fn one_token_of_each_step_is_left_for_prompts() {
    let mut engine = Engine::new(SchedulerLimits { max_running: 8, max_step_tokens: 3, ..ROOMY });
    (1..=3).for_each(|number| engine.scheduler.admit(sequence(number, 3, 50)));
    check_plan(&mut engine, &["1:0..3*"]);
    check_plan(&mut engine, &["1:3..4*", "2:0..2"]);
    check_plan(&mut engine, &["1:4..5*", "2:2..3*"]);
    check_plan(&mut engine, &["1:5..6*", "2:3..4*"]);
}

#[test]
fn a_step_of_one_token_still_serves_everyone() {
    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 1, ..ROOMY });
    (1..=3).for_each(|number| engine.scheduler.admit(sequence(number, 3, 3)));
    let news = engine.run();
    (1..=3).for_each(|number| assert_eq!(tokens_of(number, &news), solo(sequence(number, 3, 3))));
}

#[test]
fn nobody_overtakes_a_waiting_sequence_that_does_not_fit() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 5, ..ROOMY });
    engine.scheduler.admit(sequence(1, 8, 4));
    check_plan(&mut engine, &["1:0..8*"]);
    engine.scheduler.admit(sequence(2, 12, 2));
    engine.scheduler.admit(sequence(3, 1, 1));
    check_plan(&mut engine, &["1:8..9*"]);
    engine.scheduler.cancel(id(1));
    check_plan(&mut engine, &["2:0..12*", "3:0..1*"]);
}

#[test]
fn blocks_are_taken_as_tokens_are_computed() {
    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 4, ..ROOMY });
    engine.scheduler.admit(sequence(1, 10, 50));
    let mut num_used = || {
        engine.step();
        engine.scheduler.counts().num_blocks_used
    };
    assert_eq!([num_used(), num_used(), num_used(), num_used(), num_used(), num_used()], [1, 2, 3, 3, 3, 4]);
}

#[test]
fn the_least_favoured_gives_its_blocks_back_and_recomputes_without_repeating_itself() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 4, ..ROOMY });
    engine.scheduler.admit(sequence(1, 7, 9));
    engine.scheduler.admit(sequence(2, 7, 6));
    let mut news = check_plan(&mut engine, &["1:0..7*", "2:0..7*"]);
    news.extend(check_plan(&mut engine, &["1:7..8*", "2:7..8*"]));
    // Both are at the end of a block, and none is free: the later one makes room.
    news.extend(check_plan(&mut engine, &["1:8..9*"]));
    let counts = engine.scheduler.counts();
    assert_eq!((counts.num_running, counts.num_waiting, counts.num_preemptions), (1, 1, 1));
    news.extend(engine.run());
    assert_eq!(tokens_of(1, &news), solo(sequence(1, 7, 9)));
    assert_eq!(tokens_of(2, &news), solo(sequence(2, 7, 6)));
    assert_eq!(engine.scheduler.counts().num_blocks_used, 0);
}

#[test]
fn a_more_favoured_prompt_takes_blocks_that_this_very_step_had_given_to_decoding() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 5, max_step_tokens: 6, ..ROOMY });
    engine.scheduler.admit(sequence(1, 3, 9));
    let mut news = check_plan(&mut engine, &["1:0..3*"]);
    engine.scheduler.admit(Sequence { priority: -1, ..sequence(2, 16, 1) });
    news.extend(check_plan(&mut engine, &["1:3..4*", "2:0..5"]));
    // The decoding one outgrows its block, so that the cache is one short at the end of the prompt.
    news.extend(check_plan(&mut engine, &["1:4..5*", "2:5..10"]));
    news.extend(check_plan(&mut engine, &["2:10..15"]));
    assert_eq!(engine.scheduler.counts().num_preemptions, 1);
    news.extend(engine.run());
    assert_eq!(tokens_of(1, &news), solo(sequence(1, 3, 9)));
    assert_eq!(tokens_of(2, &news), solo(sequence(2, 16, 1)));
}

#[test]
fn a_paused_sequence_keeps_its_blocks_until_they_are_needed() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 4, ..ROOMY });
    engine.scheduler.admit(Sequence { priority: -1, ..sequence(1, 4, 9) });
    let mut news = engine.step().1;
    engine.scheduler.pause(id(1));
    assert!(engine.scheduler.plan().is_none(), "nobody else is here");
    assert_eq!(engine.scheduler.counts().num_paused, 1);
    engine.scheduler.admit(sequence(2, 8, 1));
    check_plan(&mut engine, &["2:0..8*"]);
    assert_eq!(engine.scheduler.counts().num_blocks_used, 1, "there was room beside it");
    engine.scheduler.admit(sequence(3, 16, 0));
    check_plan(&mut engine, &["3:0..16"]);
    assert_eq!(engine.scheduler.counts().num_preemptions, 1, "its blocks go first, however favoured it is");
    engine.scheduler.resume(id(1));
    news.extend(check_plan(&mut engine, &["1:0..5*"]));
    news.extend(engine.run());
    assert_eq!(tokens_of(1, &news), solo(sequence(1, 4, 9)));
}

#[test]
fn a_sequence_paused_before_it_runs_is_passed_by() {
    let mut engine = Engine::new(SchedulerLimits { max_running: 1, ..ROOMY });
    engine.scheduler.admit(sequence(1, 2, 1));
    engine.scheduler.admit(sequence(2, 2, 1));
    engine.scheduler.pause(id(1));
    check_plan(&mut engine, &["2:0..2*"]);
    assert!(engine.scheduler.plan().is_none());
    engine.scheduler.resume(id(1));
    check_plan(&mut engine, &["1:0..2*"]);
}

#[test]
fn cancelled_sequences_are_gone_at_once_and_what_their_step_says_is_ignored() {
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(sequence(1, 5, 9));
    engine.scheduler.admit(sequence(2, 5, 1));
    let plan = engine.scheduler.plan().expect("two are waiting");
    assert!(engine.scheduler.cancel(id(1)));
    assert!(!engine.scheduler.cancel(id(1)), "it is not here any more");
    assert_eq!(engine.scheduler.sequences(), [id(2)]);
    let news = engine.finish(&plan);
    assert!(tokens_of(1, &news).is_empty());
    assert_eq!(tokens_of(2, &news), solo(sequence(2, 5, 1)));
    assert_eq!(engine.scheduler.counts().num_blocks_used, 0);
}

#[test]
fn a_step_in_flight_says_nothing_of_a_new_sequence_of_the_same_name() {
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(sequence(1, 5, 9));
    let plan = engine.scheduler.plan().expect("it is waiting");
    engine.scheduler.cancel(id(1));
    engine.scheduler.admit(sequence(1, 3, 2));
    assert!(engine.finish(&plan).is_empty());
    assert_eq!(tokens_of(1, &engine.run()), solo(sequence(1, 3, 2)));
}

#[test]
fn a_sequence_admitted_again_goes_on_where_it_was() {
    let whole = solo(sequence(1, 6, 8));
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(Sequence { output: whole[..5].to_vec(), ..sequence(1, 6, 8) });
    let (plan, mut news) = engine.step();
    assert_eq!(brief(&plan), ["1:0..11*"]);
    assert_eq!(plan.chunks[0].samples[0].num_generated, 5);
    news.extend(engine.run());
    assert_eq!(tokens_of(1, &news), whole[5..], "max_tokens counts what was generated before");
}

#[test]
fn a_sequence_that_has_all_its_tokens_is_complete() {
    let whole = solo(sequence(1, 6, 3));
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(Sequence { output: whole, ..sequence(1, 6, 3) });
    assert_eq!(engine.run(), [News::Complete { sequence: id(1) }]);
}

#[test]
fn a_prompt_is_scored_over_its_chunks_and_nothing_is_generated() {
    let scored = || Sequence { prompt_logprobs: Some(2), ..sequence(1, 10, 0) };
    let run = |limits| {
        let mut engine = Engine::new(limits);
        engine.scheduler.admit(scored());
        engine.run()
    };
    let whole = run(ROOMY);
    let [News::PromptScored { scores, .. }, News::Complete { .. }] = &whole[..] else { panic!("{whole:?}") };
    assert_eq!(scores.len(), 9, "one for each token but the first");
    assert_eq!(scores[0].top.len(), 2);
    assert_eq!(run(SchedulerLimits { max_step_tokens: 4, ..ROOMY }), whole);
    assert_eq!(
        run(SchedulerLimits { max_step_tokens: 3, ..ROOMY }),
        whole,
        "the last chunk has nothing to score"
    );
}

#[test]
fn a_prompt_of_one_token_has_no_scores_and_says_so() {
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(Sequence { prompt_logprobs: Some(0), ..sequence(1, 1, 1) });
    let news = engine.run();
    assert_eq!(news[0], News::PromptScored { sequence: id(1), scores: Vec::new() });
    assert_eq!(tokens_of(1, &news).len(), 1);
}

#[test]
fn a_prompt_preempted_while_it_is_scored_is_scored_once() {
    let scored = || Sequence { prompt_logprobs: Some(0), priority: 1, ..sequence(1, 16, 2) };
    let mut alone = Engine::new(ROOMY);
    alone.scheduler.admit(scored());
    let expected = alone.run();

    let mut engine = Engine::new(SchedulerLimits { max_step_tokens: 8, num_blocks: 5, ..ROOMY });
    engine.scheduler.admit(scored());
    let mut news = check_plan(&mut engine, &["1:0..8"]);
    engine.scheduler.pause(id(1));
    engine.scheduler.admit(sequence(2, 20, 0));
    while engine.scheduler.counts().num_waiting + engine.scheduler.counts().num_running > 1 {
        engine.step();
    }
    assert_eq!(engine.scheduler.counts().num_preemptions, 1);
    engine.scheduler.resume(id(1));
    news.extend(engine.run());
    assert_eq!(news, expected);
}

#[test]
fn a_sequence_ends_by_its_end_token_its_stop_token_or_its_length() {
    let script = FakeRule::Script(vec![3, 7, EOS, 5]);
    let end = |change: fn(&mut candlewick_engine::SamplingParams)| {
        let mut engine = Engine::with_rule(ROOMY, script.clone());
        engine.scheduler.admit(Sequence { params: params(4, change), ..sequence(1, 2, 4) });
        let news = engine.run();
        (tokens_of(1, &news), end_of(&news))
    };
    assert_eq!(end(|p| p.eos_token_ids = vec![EOS]), (vec![3, 7, EOS], Some(SequenceEnd::Eos)));
    assert_eq!(end(|p| p.stop_token_ids = vec![7]), (vec![3, 7], Some(SequenceEnd::StopToken(7))));
    assert_eq!(end(|_| ()), (vec![3, 7, EOS, 5], Some(SequenceEnd::Length)));
}

#[test]
fn the_tokens_so_far_are_given_only_to_those_who_look_at_them() {
    let mut engine = Engine::new(ROOMY);
    engine.scheduler.admit(sequence(1, 3, 2));
    engine
        .scheduler
        .admit(Sequence { params: params(2, |p| p.repetition_penalty = 1.2), ..sequence(2, 3, 2) });
    let (_, news) = engine.step();
    let (plan, _) = engine.step();
    let histories: Vec<_> = plan.chunks.iter().map(|chunk| chunk.samples[0].history.clone()).collect();
    assert!(histories[0].is_none());
    let history = histories[1].as_ref().expect("a penalty looks back");
    assert_eq!(history.prompt, sequence(2, 3, 2).prompt);
    assert_eq!(history.output, tokens_of(2, &news));
}

#[test]
fn what_can_never_fit_is_known_beforehand() {
    let mut scheduler = Scheduler::new(SchedulerLimits { num_blocks: 3, ..ROOMY });
    assert!(scheduler.can_ever_fit(12));
    assert!(!scheduler.can_ever_fit(13));
    scheduler.admit(sequence(1, 10, 2));
    let refused =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scheduler.admit(sequence(2, 10, 3))));
    assert!(refused.is_err(), "it would wait for ever");
}

#[test]
fn the_oldest_sequence_gets_the_whole_cache_if_it_needs_it() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 4, max_step_tokens: 5, ..ROOMY });
    (1..=4).for_each(|number| engine.scheduler.admit(sequence(number, 3, 13)));
    let news = engine.run();
    (1..=4).for_each(|number| assert_eq!(tokens_of(number, &news), solo(sequence(number, 3, 13))));
    assert!(engine.scheduler.counts().num_preemptions > 0, "they did not fit together");
}

#[test]
fn the_fake_model_says_what_its_rule_says() {
    let sequence = sequence(1, 4, 1);
    let hash = hash_tokens(sequence.prompt.iter().copied());
    let other = hash_tokens(sequence.prompt.iter().rev().copied());
    assert_ne!(hash, other, "the order of tokens matters");
    assert_eq!(solo(sequence).len(), 1);
}

#[test]
fn the_end_of_reasoning_is_forced_the_same_after_a_crash() {
    let thinking = ThinkingBudget {
        num_tokens: 3,
        open: [5].into(),
        close: [6].into(),
        forced: [6, 7].into(),
        starts_inside: true,
    };
    let thinks = || Sequence {
        params: params(10, |params| params.thinking = Some(thinking.clone())),
        ..sequence(1, 6, 10)
    };
    let run = |sequence| {
        let mut engine = Engine::with_rule(ROOMY, FakeRule::Hash(10..EOS));
        engine.scheduler.admit(sequence);
        tokens_of(1, &engine.run())
    };
    let whole = run(thinks());
    assert!(whole[..3].iter().all(|&token| token >= 10) && whole[3..5] == [6, 7], "{whole:?}");
    for num_told in 0..10 {
        assert_eq!(run(Sequence { output: whole[..num_told].to_vec(), ..thinks() }), whole[num_told..]);
    }
}

#[test]
fn what_goes_on_from_one_that_is_held_shares_its_full_blocks() {
    for prefix_caching in [false, true] {
        let mut engine = Engine::new(SchedulerLimits { prefix_caching, ..ROOMY });
        let held = |choice, output: &[u32]| {
            let sequence = sequence(1, 10, 9);
            let id = SequenceId { choice, ..sequence.id };
            Sequence { id, output: output.to_vec(), holds: true, ..sequence }
        };
        engine.scheduler.admit(held(0, &[]));
        let news = check_plan(&mut engine, &["1:0..10*"]);
        assert_eq!((news.len(), end_of(&news)), (1, None));
        assert!(engine.scheduler.plan().is_none(), "it is held");

        let branch = |parent, child| Branch { parent: SequenceId { choice: parent, ..id(1) }, child };
        let branches = vec![branch(0, held(1, &[3])), branch(0, held(2, &[4])), branch(0, held(3, &[5]))];
        engine.scheduler.branch(id(1).request, branches);
        // Two blocks of four are full; what stood in the third is computed anew, but for the first that goes on.
        check_plan(&mut engine, &["1:10..11*", "1:8..11*", "1:8..11*"]);
        assert_eq!(engine.scheduler.counts().num_blocks_used, 2 + 3);

        // One is given up, one goes on in two ways; a parent that is not here leaves nothing.
        let branches =
            vec![branch(2, held(4, &[4, 1])), branch(2, held(5, &[4, 2])), branch(9, held(6, &[9]))];
        engine.scheduler.branch(id(1).request, branches);
        let start = if prefix_caching { 8 } else { 0 };
        check_plan(&mut engine, &["1:11..12*", "1:8..12*", &format!("1:{start}..11*")]);
        for sequence in engine.scheduler.sequences() {
            engine.scheduler.cancel(sequence);
        }
        assert_eq!(engine.scheduler.counts().num_blocks_used, 0, "no block is lost");
    }
}

#[test]
fn one_that_is_held_gives_its_blocks_to_who_needs_them() {
    let mut engine = Engine::new(SchedulerLimits { num_blocks: 4, ..ROOMY });
    let held = |choice, output: &[u32]| Sequence {
        id: SequenceId { choice, ..id(1) },
        output: output.to_vec(),
        holds: true,
        ..sequence(1, 8, 4)
    };
    engine.scheduler.admit(held(0, &[]));
    engine.step();
    engine.scheduler.admit(sequence(2, 14, 1));
    check_plan(&mut engine, &["2:0..14*"]);
    assert_eq!(engine.scheduler.counts().num_preemptions, 1);
    let child = held(1, &[3]);
    engine.scheduler.branch(id(1).request, vec![Branch { parent: id(1), child }]);
    check_plan(&mut engine, &["1:0..9*"]);
}
