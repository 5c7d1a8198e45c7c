//! Who is let in: pins, limits.

use std::time::{Duration, Instant};

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{ErrorKind, Event, FailAction, FailPlace, FailRule, GenerationRequest, Share};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_one_model_by_any_spelling() {
    let world =
        World::new(FakeRule::default(), TreeSettings { pinned: Some(model("fake/a")), ..settings() }).await;
    for spelling in [None, Some("fake/a"), Some("fake/a@main")] {
        let mut spelt = request("hi", 5);
        spelt.model = spelling.map(model);
        assert_eq!(world.answer(spelt).await.text(0).len(), 5);
    }
    for other in ["fake/b", "fake/a@dev"] {
        let mut wrong = request("hi", 5);
        wrong.model = Some(model(other));
        let failure = world.gateway.submit(wrong).await.err().expect("another model is refused");
        assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some("model")));
        assert_eq!(failure.message, format!("server is pinned to 'fake/a'; requested '{other}'"));
    }
    assert_eq!(world.factory.num_loads(), 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pin_a_model_must_be_named() {
    let world = World::letters().await;
    let mut nameless = request("hi", 5);
    nameless.model = None;
    let failure = world.gateway.submit(nameless).await.err().expect("there is no model to answer");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some("model")));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_is_told_when_to_come_back() {
    let settings = TreeSettings { max_running: 1, max_queued: 1, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    world.factory.control.step_gate.close();
    let first = world.submit(request("one", 5)).await;
    world.factory.control.step_gate.wait_held();
    let mut second = world.submit(request("two", 5)).await;
    assert_eq!(next(&mut second).await, Some(Event::Queued), "the second waits for a place");
    let failure = world.gateway.submit(request("three", 5)).await.err().expect("there is no place");
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert!(failure.retry_after.is_some());

    let mut other = request("other", 5);
    other.model = Some(model("fake/b"));
    let other = world.submit(other).await;

    world.factory.control.step_gate.open();
    for stream in [first, second, other] {
        assert_eq!(read_all(1, stream).await.text(0).len(), 5);
    }
    world.idle().await;
    assert_eq!(world.answer(request("three", 5)).await.text(0).len(), 5);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_together_are_all_admitted_or_none_is() {
    let settings = TreeSettings { max_running: 2, max_queued: 1, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    let prompts =
        |num_prompts: usize| (0..num_prompts).map(|n| request(&format!("{n}"), 5)).collect::<Vec<_>>();
    world.factory.control.step_gate.close();
    let first = world.gateway.submit_many(prompts(2)).await.expect("there is room");
    let failure = world.gateway.submit_many(prompts(2)).await.err().expect("there is room for one only");
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert_eq!(world.gateway.num_in_flight(), 2, "nothing is left of what was refused");
    let failure = world.gateway.submit_many(prompts(4)).await.err().expect("there are three places");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some("prompt")));
    world.factory.control.step_gate.open();
    for stream in first {
        assert_eq!(read_all(1, stream).await.text(0).len(), 5);
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_choice_takes_a_place() {
    let settings = TreeSettings { max_running: 2, max_queued: 1, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    world.factory.control.step_gate.close();
    let choices = |n: u32| GenerationRequest { num_choices: n, ..request("hi", 5) };
    let first = world.submit(choices(2)).await;
    let failure = world.gateway.submit(choices(2)).await.err().expect("there is room for one only");
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert!(failure.message.contains("2 sequences are in flight"), "{failure}");
    let failure = world.gateway.submit(choices(4)).await.err().expect("there are three places");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some("n")));
    assert!(failure.message.contains("at most 3 sequences"), "{failure}");
    world.factory.control.step_gate.open();
    assert_eq!(read_all(2, first).await.text(1).len(), 5);
    world.close().await;
}

fn of(holder: &str, prompt: &str) -> GenerationRequest {
    GenerationRequest { share: Share { holder: holder.into(), weight: 1 }, ..request(prompt, 5) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_delays_another_by_one_place() {
    let settings = TreeSettings { max_running: 1, max_queued: 210, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    let alone = world.answer(of("other", "the other")).await;
    world.factory.control.keep_plans();
    world.factory.control.step_gate.close();
    let mut streams = vec![world.submit(of("flood", "the first")).await];
    world.factory.control.step_gate.wait_held();
    for number in 0..200 {
        streams.push(world.submit(of("flood", &format!("number {number}"))).await);
    }
    for stream in &mut streams[1..] {
        assert_eq!(next(stream).await, Some(Event::Queued));
    }
    let mut other = world.submit(of("other", "the other")).await;
    assert_eq!(next(&mut other).await, Some(Event::Queued));
    world.factory.control.step_gate.open();
    assert_eq!(read_all(1, other).await.substance(), alone.substance(), "and says what it says alone");
    for stream in streams {
        assert_eq!(read_all(1, stream).await.text(0).len(), 5);
    }
    let mut begun = Vec::new();
    for chunk in world.factory.control.plans().iter().flat_map(|plan| &plan.chunks) {
        if !begun.contains(&chunk.sequence.request) {
            begun.push(chunk.sequence.request);
        }
    }
    let place = begun.iter().position(|key| Some(key) == begun.iter().max());
    // The first one is at work when it comes, and nobody else is begun before it.
    assert_eq!((begun.len(), place), (202, Some(1)));
    world.close().await;
}

/// A world on which each step takes 30 ms at least, with so many places.
async fn slow_world(max_running: usize, max_queued: usize) -> World {
    let world = World::new(FakeRule::default(), TreeSettings { max_running, max_queued, ..settings() }).await;
    let slow = FailAction::Delay(Duration::from_millis(30));
    world.failpoints.arm(FailRule { times: u64::MAX, ..FailRule::once(FailPlace::Stepper, slow) });
    world
}

/// Fills all places with 100 tokens each; what one more is told, and how long it really takes until one of them ends.
async fn told_and_taken(world: &World) -> (f64, f64) {
    let begun = world.factory.control.num_steps();
    let mut streams = Vec::new();
    for prompt in ["one", "two", "three"] {
        streams.push(tokio::spawn(read_all(1, world.submit(request(prompt, 100)).await)));
    }
    eventually("some steps were measured", || world.factory.control.num_steps() >= begun + 10).await;
    let now = Instant::now();
    let failure = world.gateway.submit(request("four", 5)).await.err().expect("there is no place");
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    let told = failure.retry_after.expect("a time").as_secs_f64();
    eventually("a place is free", || world.gateway.num_in_flight() < 3).await;
    let taken = now.elapsed().as_secs_f64();
    for stream in streams {
        assert_eq!(stream.await.expect("it ends").text(0).len(), 100);
    }
    (told, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_come_again_is_true_and_stays_true_after_a_pause() {
    let world = slow_world(2, 1).await;
    world.load("fake/a").await;
    for round in 0..2 {
        let (told, taken) = told_and_taken(&world).await;
        assert!(told < taken * 2.0 && told > taken / 2.0, "round {round}: told {told} s, taken {taken} s");
        world.idle().await;
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_wait_for_the_queue_is_not_put_into_it() {
    let world = slow_world(1, 5).await;
    world.load("fake/a").await;
    let first = tokio::spawn(read_all(1, world.submit(request("one", 200)).await));
    eventually("some steps were measured", || world.factory.control.num_steps() >= 10).await;
    let timed = |seconds: f64| GenerationRequest {
        timeout: Some(Duration::from_secs_f64(seconds)),
        ..request("two", 5)
    };
    let failure = world.gateway.submit(timed(0.5)).await.err().expect("its turn is five seconds away");
    assert!(failure.message.contains("and the request's timeout is 0.5 s"), "{failure}");
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert_eq!(world.answer(timed(3600.0)).await.text(0).len(), 5);
    assert_eq!(first.await.expect("it ends").text(0).len(), 200);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_fit_is_refused_at_once_with_what_would() {
    // Eight blocks of four tokens.
    let settings = TreeSettings { num_blocks: Some(8), ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    world.load("fake/a").await;
    world.factory.control.step_gate.close();
    let long = "x".repeat(40);
    let several = |n: u32, prompt: &str, max_tokens| GenerationRequest {
        num_choices: n,
        ..request(prompt, max_tokens)
    };
    for (what, asked) in [
        ("a prompt", request(&long, 1)),
        ("a prompt and its output", request("short", 100)),
        ("each of several choices", several(3, "short", 100)),
    ] {
        let failure = world.answer(asked).await.failure();
        assert_eq!(failure.kind, ErrorKind::ContextOverflow, "{what}: {failure}");
        assert!(failure.message.contains("32"), "{what}: how much would fit is not in: {failure}");
    }
    assert_eq!(world.factory.control.num_steps(), 0, "nobody waited for a step");
    world.factory.control.step_gate.open();
    // Choices that fit one by one, and not all at once, take turns.
    let answer = world.answer(several(4, "short", 20)).await;
    assert!((0..4).all(|choice| answer.text(choice).len() == 20));
    world.close().await;
}
