//! What is kept of a prompt, what is told of it, and in which pieces an answer comes.

use candlewick_engine::fake::{FakeFactory, FakeRule, IM_END};
use candlewick_protocol::{
    ErrorKind, Event, FinishReason, PromptTruncation, RepetitionDetection, Started, StopCause, TokenLogprob,
    TruncationSide,
};

use crate::support::*;

fn started(answer: &Answer) -> Started {
    let started = answer.events.iter().find_map(|event| match event {
        Event::Started(started) => Some(started.clone()),
        _ => None,
    });
    started.expect("it has begun")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_cut_at_the_side_that_is_named() {
    let world = World::letters().await;
    let cut = |num_tokens, side| {
        let mut request = request("abcdef", 1);
        request.truncation = Some(PromptTruncation { num_tokens, side });
        request.output.prompt_text = true;
        request
    };
    let text = async |request| started(&world.answer(request).await).prompt_text.expect("it was asked for");
    assert_eq!(text(cut(Some(2), TruncationSide::Left)).await, "ef");
    assert_eq!(text(cut(Some(4), TruncationSide::Right)).await, "abcd");
    assert_eq!(text(cut(Some(9), TruncationSide::Left)).await, "abcdef");

    let long = "x".repeat(5000);
    let mut request = request(&long, 48);
    let failure = world.answer(request.clone()).await.failure();
    assert_eq!(failure.kind, ErrorKind::ContextOverflow);
    assert!(failure.message.contains("5000") && failure.message.contains("2048"), "{failure}");
    request.truncation = Some(PromptTruncation { num_tokens: None, side: TruncationSide::Left });
    let answer = world.answer(request).await;
    assert_eq!((answer.usage().prompt_tokens, answer.usage().completion_tokens), (2000, 48));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_scored_without_being_echoed() {
    let world = World::letters().await;
    let mut scored = request("abc", 2);
    scored.output.prompt_logprobs = Some(2);
    let told = started(&world.answer(scored).await);
    assert_eq!(told.prompt_text, None);
    let places: Vec<TokenLogprob> = told.prompt_logprobs.expect("they were asked for");
    assert_eq!(places.iter().map(|place| place.token_id).collect::<Vec<_>>(), [97, 98, 99]);
    assert_eq!((places[0].logprob, places[0].rank), (None, None), "nothing comes before the first");
    for place in &places[1..] {
        assert_eq!(place.top.len(), 2);
        let (rank, logprob) = (place.rank.expect("a rank"), place.logprob.expect("a log-probability"));
        assert_eq!(place.top.iter().filter(|top| top.logprob > logprob).count(), (rank as usize - 1).min(2));
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_hold_as_many_tokens_as_is_asked() {
    let world = World::letters().await;
    let mut lumpy = request("go", 10);
    lumpy.output.stream_interval = 4;
    lumpy.output.logprobs = Some(0);
    let answer = world.answer(lumpy).await;
    let pieces = answer.events.iter().filter_map(|event| match event {
        Event::Piece(piece) => Some((piece.token_ids.len(), piece.logprobs.len())),
        _ => None,
    });
    assert_eq!(pieces.collect::<Vec<_>>(), [(1, 1), (4, 4), (4, 4), (1, 1)], "the first at once");
    assert_eq!(answer.text(0), world.answer(request("go", 10)).await.text(0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_text_is_told_where_ids_are_asked_for() {
    let world = World::new(FakeRule::says("hi"), settings()).await;
    let mut request = request("go", 10);
    request.output.token_ids = true;
    let answer = world.answer(request).await;
    let ids = answer.events.iter().flat_map(|event| match event {
        Event::Piece(piece) => piece.token_ids.clone(),
        _ => Vec::new(),
    });
    assert_eq!(ids.collect::<Vec<_>>(), [104, 105, IM_END]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_goes_round_in_circles_is_ended() {
    let world = World::new(FakeRule::says("so abcabcabcabcabc"), settings()).await;
    let mut request = request("go", 18);
    request.sampling.repetition_detection =
        Some(RepetitionDetection { max_pattern_size: 5, min_pattern_size: 2, min_count: 3 });
    let answer = world.answer(request).await;
    assert_eq!(answer.text(0), "so abcabcabc");
    assert_eq!(answer.end(0), (FinishReason::Stop, Some(StopCause::Repetition)));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_wait_for_min_tokens() {
    let world = World::of(FakeFactory::new(FakeRule::says("a.b.c.d")), settings()).await;
    let mut request = request("go", 20);
    request.sampling.stop = vec![".".into()];
    assert_eq!(world.answer(request.clone()).await.text(0), "a");
    request.sampling.min_tokens = Some(3);
    assert_eq!(world.answer(request).await.text(0), "a.b");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_for_thinking_needs_a_model_that_is_known_to_think() {
    let world = World::letters().await;
    let mut request = request("go", 5);
    request.sampling.thinking_token_budget = Some(3);
    let failure = world.answer(request).await.failure();
    assert_eq!(failure.kind, ErrorKind::Unsupported);
    assert_eq!(failure.param.as_deref(), Some("thinking_token_budget"));
    world.close().await;
}
