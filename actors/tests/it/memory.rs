//! Memory: a load that cannot fit is refused before it begins, and models that nobody uses make room.

use std::sync::{Arc, OnceLock};

use candlewick_actors::{Gateway, Memory, MemoryUse};
use candlewick_engine::fake::FakeFactory;
use candlewick_protocol::{ErrorKind, LoadEvent, ModelStatus};

use crate::support::*;

const MEGABYTE: u64 = 1_000_000;

/// A machine on which each model in memory takes 100 MB.
struct Machine {
    limit_bytes: u64,
    gateway: OnceLock<Gateway>,
}

impl Memory for Machine {
    fn read(&self) -> Vec<MemoryUse> {
        let text = self.gateway.get().map(Gateway::metrics_text).unwrap_or_default();
        let loaded = text.lines().find_map(|line| line.strip_prefix("candlewick_models_loaded "));
        let used_bytes = loaded.map_or(0, |count| count.parse().expect("a count")) * 100 * MEGABYTE;
        let endless = MemoryUse { whose: "the other limit", limit_bytes: u64::MAX, used_bytes: 0 };
        vec![endless, MemoryUse { whose: "the test", limit_bytes: self.limit_bytes, used_bytes }]
    }

    fn give_back(&self) {}
}

/// Models whose weights are said to take 100 MB, on a machine of so many.
async fn world(limit_megabytes: u64) -> World {
    let machine = Arc::new(Machine { limit_bytes: limit_megabytes * MEGABYTE, gateway: OnceLock::new() });
    let mut factory = FakeFactory::default();
    factory.weight_bytes = 100 * MEGABYTE;
    let world = World::within(Some(machine.clone()), factory, settings()).await;
    assert!(machine.gateway.set(world.gateway.clone()).is_ok());
    world
}

fn failure_of(events: &[LoadEvent]) -> &candlewick_protocol::Failure {
    match events.last() {
        Some(LoadEvent::Failed { failure, .. }) => failure,
        other => panic!("the load should have failed: {other:?}"),
    }
}

async fn loaded(world: &World) -> Vec<String> {
    let models = world.gateway.status().await.models;
    models.into_iter().filter(|(_, status)| *status == ModelStatus::Loaded).map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_with_the_numbers_before_it_is_loaded() {
    let world = world(120).await;
    let events = world.load("fake/a").await;
    let failure = failure_of(&events);
    assert_eq!(failure.kind, ErrorKind::OutOfMemory);
    for part in ["134 MB", "100 MB of them", "120 MB are free of the 120 MB that the test has"] {
        assert!(failure.message.contains(part), "{part} in {failure}");
    }
    assert_eq!(world.factory.num_loads(), 0);
    assert!(loaded(&world).await.is_empty(), "nothing of it stays");
    let asked = world.answer(request("hi", 5)).await.failure();
    assert_eq!(&asked, failure, "a request that waits is told the same");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_that_was_idle_longest_makes_room() {
    let world = world(300).await;
    let is_ready = |events: Vec<LoadEvent>| matches!(events.last(), Some(LoadEvent::Ready { .. }));
    for name in ["fake/a", "fake/b", "fake/a"] {
        assert!(is_ready(world.load(name).await), "{name}");
    }
    assert_eq!(loaded(&world).await, ["fake/a@main", "fake/b@main"]);
    assert!(is_ready(world.load("fake/a@dev").await));
    assert_eq!(loaded(&world).await, ["fake/a@dev", "fake/a@main"], "fake/a was asked for after fake/b");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_answers_is_not_unloaded_for_another() {
    let world = world(200).await;
    world.factory.control.step_gate.close();
    let stream = world.submit(request("hi", 3)).await;
    world.factory.control.step_gate.wait_held();
    let events = world.load("fake/b").await;
    assert_eq!(failure_of(&events).kind, ErrorKind::OutOfMemory);
    world.factory.control.step_gate.open();
    assert_eq!(read_all(1, stream).await.text(0).len(), 3);
    // Its supervisor hears of the end of the request a moment after the client.
    loop {
        if matches!(world.load("fake/b").await.last(), Some(LoadEvent::Ready { .. })) {
            break;
        }
    }
    assert_eq!(loaded(&world).await, ["fake/b@main"]);
    world.close().await;
}
