//! Continuations that are chosen among many: beam search and the best of several. Found as by hand, whatever the blocks,
//! the company and the crashes.

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::{FakeRule, Fault, VOCAB_SIZE, fake_logprobs, hash_tokens};
use candlewick_engine::{BeamSearch, TokenScore};
use candlewick_protocol::{Event, FinishReason, GenerationRequest, Search, StopCause};

use crate::support::*;

/// Ends of the fake model's answers.
const ENDS: [u32; 2] = [256, 258];

fn beam_request(width: u32, max_tokens: u32) -> GenerationRequest {
    GenerationRequest {
        num_choices: width,
        search: Search::Beam { length_penalty: 1.0 },
        ..request("a prompt of some blocks", max_tokens)
    }
}

/// What a search finds that computes every beam from its first token, without an engine: its tokens, best first.
fn by_hand(prompt: &str, width: usize, max_tokens: usize) -> Vec<Vec<u32>> {
    let mut search = BeamSearch::new(width, 1.0);
    let num_candidates = BeamSearch::<()>::num_candidates(width, ENDS.len());
    let likeliest = |output: &[u32]| {
        let tokens = prompt.bytes().map(u32::from).chain(output.iter().copied());
        let mut top: Vec<(u32, f32)> = (0..).zip(fake_logprobs(hash_tokens(tokens), VOCAB_SIZE)).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(num_candidates);
        TokenScore { logprob: 0.0, rank: 1, top }
    };
    let end_of = |output: &[u32]| {
        let is_end = output.last().is_some_and(|last| ENDS.contains(last));
        (is_end || output.len() == max_tokens).then_some(())
    };
    loop {
        let scores: Vec<TokenScore> =
            search.running().iter().map(|beam| likeliest(&beam.token_ids)).collect();
        if search.step(&scores, num_candidates, 0, end_of).is_none() {
            return search.into_best().into_iter().map(|found| found.beam.token_ids).collect();
        }
    }
}

/// The tokens that a choice was told, with every one asked for.
fn tokens(answer: &Answer, choice: u32) -> Vec<u32> {
    let pieces = answer.events.iter().filter_map(|event| match event {
        Event::Piece(piece) if piece.choice == choice => Some(piece.token_ids.clone()),
        _ => None,
    });
    pieces.flatten().collect()
}

fn all_tokens(answer: &Answer, num: u32) -> Vec<Vec<u32>> {
    (0..num).map(|choice| tokens(answer, choice)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn beams_are_those_of_a_search_by_hand() {
    let world = World::letters().await;
    for (width, max_tokens) in [(1, 6), (2, 13), (5, 9)] {
        let mut request = beam_request(width, max_tokens);
        request.output.token_ids = true;
        let answer = world.answer(request).await;
        let expected = by_hand("a prompt of some blocks", width as usize, max_tokens as usize);
        assert_eq!(all_tokens(&answer, width), expected, "width {width}");
        let num_told = expected.iter().map(|tokens| tokens.len() as u64).sum::<u64>();
        assert_eq!(answer.usage().completion_tokens, num_told);
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_over_crashes_in_company_and_with_few_blocks_finds_the_same() {
    let expected = by_hand("a prompt of some blocks", 4, 20);
    // Room for one beam and a little: the others are preempted again and again.
    let tight = TreeSettings { num_blocks: Some(14), max_step_tokens: 7, ..settings() };
    for settings in [settings(), tight] {
        let world = World::new(FakeRule::default(), settings).await;
        // A third would find it guilty, with company or without.
        for step in [2, 9] {
            world.factory.control.break_step(step, Fault::Panic);
        }
        let company = world.submit(request("company", 20)).await;
        let mut request = beam_request(4, 20);
        request.output.token_ids = true;
        let answer = world.answer(request).await;
        assert_eq!(all_tokens(&answer, 4), expected);
        assert_eq!(read_all(1, company).await.text(0).len(), 20);
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_a_beam() {
    let world = World::letters().await;
    let mut plain = beam_request(1, 8);
    plain.output.token_ids = true;
    let whole = world.answer(plain.clone()).await.text(0);
    let stop = whole.chars().nth(3).expect("it is long enough").to_string();
    plain.sampling.stop = vec![stop.clone()];
    let answer = world.answer(plain).await;
    let at = whole.find(&stop).expect("it is in there");
    assert_eq!(answer.text(0), whole[..at]);
    assert_eq!(answer.end(0), (FinishReason::Stop, Some(StopCause::Text(stop))));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beams_tell_log_probabilities_of_what_they_went_by() {
    let world = World::letters().await;
    let mut request = beam_request(2, 5);
    request.output.logprobs = Some(3);
    let answer = world.answer(request).await;
    let mut means = Vec::new();
    for choice in 0..2 {
        let logprobs = answer.events.iter().filter_map(|event| match event {
            Event::Piece(piece) if piece.choice == choice => Some(piece.logprobs.clone()),
            _ => None,
        });
        let logprobs: Vec<_> = logprobs.flatten().collect();
        assert!(!logprobs.is_empty() && logprobs.iter().all(|token| token.top.len() == 3));
        let sum: f32 = logprobs.iter().filter_map(|token| token.logprob).sum();
        means.push(sum / logprobs.len() as f32);
    }
    assert!(means[0] >= means[1], "best first: {means:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_of_several_are_told_best_first_and_all_are_counted() {
    let world = World::letters().await;
    let mut all = request("choose", 6);
    (all.num_choices, all.output.logprobs) = (5, Some(0));
    all.sampling.temperature = Some(1.0);
    all.sampling.seed = Some(3);
    let everything = world.answer(all.clone()).await;
    let mean = |choice: u32| -> f32 {
        let logprobs = everything.events.iter().filter_map(|event| match event {
            Event::Piece(piece) if piece.choice == choice => Some(&piece.logprobs),
            _ => None,
        });
        logprobs.flatten().filter_map(|token| token.logprob).sum()
    };
    let mut ranked: Vec<u32> = (0..5).collect();
    ranked.sort_by(|&a, &b| mean(b).total_cmp(&mean(a)));

    for fault in [None, Some(Fault::Panic)] {
        let mut best = all.clone();
        (best.num_choices, best.output.logprobs) = (2, None);
        best.search = Search::BestOf { num_candidates: 5 };
        if let Some(fault) = fault {
            world.factory.control.break_step(world.factory.control.num_steps() + 3, fault);
        }
        let answer = world.answer(best).await;
        for choice in 0..2 {
            assert_eq!(answer.text(choice), everything.text(ranked[choice as usize]));
        }
        assert_eq!(answer.usage().completion_tokens, 30);
        let untold = |event: &Event| matches!(event, Event::Piece(piece) if !piece.logprobs.is_empty());
        assert!(!answer.events.iter().any(untold), "they were not asked for");
    }
    world.close().await;
}
