//! What a client of a generation gets: choices, stops, log-probabilities, a slow reader, another runtime.

use candlewick_engine::fake::{END_OF_TEXT, FakeRule, IM_END};
use candlewick_protocol::{ErrorKind, Event, FinishReason, OutputOptions, Prompt, StopCause};

use crate::support::*;

async fn saying(text: &str) -> World {
    World::new(FakeRule::says(text), settings()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_told_whole_and_counted() {
    let world = saying("héllo, wörld").await;
    let answer = world.answer(request("hi", 100)).await;
    assert_eq!(answer.text(0), "héllo, wörld");
    assert_eq!(answer.end(0), (FinishReason::Stop, None));
    let usage = answer.usage();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, 15), "14 bytes, and the end of the turn");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_tokens_ends_with_length() {
    let world = World::letters().await;
    let answer = world.answer(request("hi", 9)).await;
    assert_eq!((answer.text(0).len(), answer.end(0).0), (9, FinishReason::Length));
    assert_eq!(answer.usage().completion_tokens, 9);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_across_tokens_is_cut_and_named() {
    let world = saying("one, two, STOP three").await;
    let mut with_stop = request("count", 100);
    with_stop.sampling.stop = vec!["STOP".into()];
    let answer = world.answer(with_stop).await;
    assert_eq!(answer.text(0), "one, two, ");
    assert_eq!(answer.end(0), (FinishReason::Stop, Some(StopCause::Text("STOP".into()))));
    assert_eq!(answer.usage().completion_tokens, 14, "up to the stop, and nothing after it");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_token_is_named_and_not_told() {
    let world = saying("ab!cd").await;
    let mut with_stop = request("say", 100);
    with_stop.sampling.stop_token_ids = vec![u32::from(b'!')];
    let answer = world.answer(with_stop).await;
    assert_eq!(answer.text(0), "ab");
    assert_eq!(answer.end(0), (FinishReason::Stop, Some(StopCause::Token(u32::from(b'!')))));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_choices_are_complete_each_and_differ() {
    let world = World::letters().await;
    let mut several = request("say", 12);
    several.num_choices = 3;
    several.sampling.temperature = Some(1.0);
    several.sampling.seed = Some(5);
    let answer = world.answer(several.clone()).await;
    let texts = [answer.text(0), answer.text(1), answer.text(2)];
    assert!(texts.iter().all(|text| text.len() == 12));
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "each choice draws for itself: {texts:?}");
    assert_eq!(answer.usage().completion_tokens, 36);
    assert_eq!(answer.usage().prompt_tokens, 3, "the prompt counts once");
    let again = world.answer(several).await;
    assert_eq!(again.text(2), texts[2], "the same seed draws the same");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logprobs_come_with_their_tokens() {
    let world = saying("né").await;
    let mut scored = request("say", 100);
    scored.output.logprobs = Some(2);
    let answer = world.answer(scored).await;
    let pieces = answer.events.iter().filter_map(|event| match event {
        Event::Piece(piece) => Some(piece),
        _ => None,
    });
    let logprobs = pieces.flat_map(|piece| &piece.logprobs).collect::<Vec<_>>();
    let bytes = logprobs.iter().flat_map(|token| token.bytes.clone()).collect::<Vec<_>>();
    assert_eq!(bytes, "né".as_bytes(), "half a character is not told as text, but scored");
    assert!(logprobs.iter().all(|token| token.logprob.is_some() && token.top.len() == 2));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_scored_and_nothing_generated() {
    let world = World::letters().await;
    let mut scored =
        request("a longer prompt than one step can hold, which is why its scores come in parts", 0);
    scored.output = OutputOptions { logprobs: Some(1), echo: true, ..OutputOptions::default() };
    let Prompt::Text { text: prompt, .. } = scored.prompt.clone() else { unreachable!("it is a text") };
    let answer = world.answer(scored).await;
    let Some(Event::Started(started)) = answer.events.iter().find(|event| matches!(event, Event::Started(_)))
    else {
        panic!("the answer did not start: {answer:?}")
    };
    assert_eq!(started.prompt_text.as_deref(), Some(prompt.as_str()));
    let logprobs = started.prompt_logprobs.as_ref().expect("they were asked for");
    assert_eq!(logprobs.len(), prompt.len());
    assert!(logprobs[0].logprob.is_none() && logprobs[1..].iter().all(|token| token.logprob.is_some()));
    assert_eq!((answer.text(0), answer.end(0).0), (String::new(), FinishReason::Length));
    assert_eq!(answer.usage().completion_tokens, 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_with_several_choices_starts_once_the_prompt_is_scored() {
    let world = World::letters().await;
    let mut scored =
        request("a prompt of more than sixty-four tokens, so that it is computed in two steps", 5);
    scored.output = OutputOptions { logprobs: Some(0), echo: true, ..OutputOptions::default() };
    scored.num_choices = 2;
    let answer = world.answer(scored).await;
    assert_eq!((answer.text(0).len(), answer.text(1).len()), (5, 5));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_answered_say_why() {
    let world = World::letters().await;
    let overlong = world.answer(request("hi", 100_000)).await.failure();
    assert_eq!(overlong.kind, ErrorKind::ContextOverflow);
    assert!(overlong.message.contains("2048"), "{overlong}");

    let mut unknown_token = request("", 5);
    unknown_token.prompt = Prompt::Tokens(vec![5, 100_000]);
    assert_eq!(world.answer(unknown_token).await.failure().kind, ErrorKind::InvalidRequest);

    let mut nothing = request("hi", 5);
    nothing.num_choices = 0;
    assert_eq!(world.answer(nothing).await.failure().param.as_deref(), Some("n"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_smaller_than_the_context_is_the_context() {
    let world = World::new(
        FakeRule::default(),
        candlewick_actors::TreeSettings { num_blocks: Some(5), ..settings() },
    )
    .await;
    let failure = world.answer(request("four", 17)).await.failure();
    assert_eq!(failure.kind, ErrorKind::ContextOverflow);
    assert!(failure.message.contains("20"), "five blocks of four tokens: {failure}");
    assert_eq!(world.answer(request("four", 16)).await.text(0).len(), 16);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_pauses_alone_and_loses_nothing() {
    let world = World::letters().await;
    let undisturbed = world.answer(request("slow", 200)).await;

    world.factory.control.keep_plans();
    let mut slow = world.submit(request("slow", 200)).await;
    read_started(&mut slow).await;
    // The other reads as fast as it comes: when it is through, the slow one has long been passed by.
    let quick = world.answer(request("quick", 400)).await;
    assert_eq!(quick.text(0).len(), 400);
    let plans = world.factory.control.plans();
    let slow_key = plans[0].chunks[0].sequence.request;
    let num_steps =
        plans.iter().flat_map(|plan| &plan.chunks).filter(|chunk| chunk.sequence.request == slow_key).count();
    assert!(
        num_steps <= 2 * settings().stream_capacity,
        "the slow reader's sequence was paused: {num_steps} steps"
    );

    let mut events = Vec::new();
    while let Some(event) = next(&mut slow).await {
        events.push(event);
    }
    assert_eq!(events, undisturbed.substance()[1..], "and went on where it was");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_runtime_may_talk_to_the_tree() {
    let world = World::letters().await;
    let gateway = world.gateway.clone();
    let elsewhere = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let stream = gateway.submit(request("hi", 5)).await.expect("the request is admitted");
            let answer = read_all(1, stream).await;
            (answer.text(0).len(), gateway.list().await.len(), gateway.status().await.ready)
        })
    });
    assert_eq!(elsewhere.join().expect("nothing panics"), (5, MODELS.len(), true));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_turn_is_not_text_even_where_special_tokens_are() {
    let world = World::new(FakeRule::Script(vec![u32::from(b'x'), END_OF_TEXT, IM_END]), settings()).await;
    let mut plain = request("say", 10);
    plain.sampling.skip_special_tokens = Some(false);
    let answer = world.answer(plain).await;
    assert_eq!((answer.text(0).as_str(), answer.end(0).0), ("x", FinishReason::Stop));
    world.close().await;
}
