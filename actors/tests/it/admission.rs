//! Who is let in: pins, limits.

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{ErrorKind, Event};

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
