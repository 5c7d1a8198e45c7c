//! Who is let in: pins, limits.

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{ErrorKind, Event, GenerationRequest, Share};

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
    let settings = TreeSettings { max_running: 2, max_queued: 210, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    let alone = world.answer(of("other", "the other")).await;
    world.factory.control.keep_plans();
    world.factory.control.step_gate.close();
    let mut streams = vec![world.submit(of("flood", "the first")).await];
    world.factory.control.step_gate.wait_held();
    for number in 0..200 {
        streams.push(world.submit(of("flood", &format!("number {number}"))).await);
    }
    for stream in &mut streams[2..] {
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
