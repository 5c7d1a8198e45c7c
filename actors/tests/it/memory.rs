//! Memory: a load that cannot fit is refused before it begins, models that nobody uses make room, and what can be given up is
//! given up in order when memory runs out.

use std::sync::atomic::{AtomicU64, Ordering};
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
    for part in [
        "134 MB",
        "100 MB of them",
        "120 MB are free of the 120 MB that the test has, of which 12 MB stay free",
    ] {
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

/// A machine of 40 MB, of which as much is used as the test says, in thousandths.
#[derive(Default)]
struct Gauge(AtomicU64);

impl Gauge {
    fn set(&self, thousandths: u64) {
        self.0.store(thousandths, Ordering::SeqCst);
    }
}

impl Memory for Gauge {
    fn read(&self) -> Vec<MemoryUse> {
        let limit_bytes = 40 * MEGABYTE;
        let used_bytes = limit_bytes / 1000 * self.0.load(Ordering::SeqCst);
        vec![MemoryUse { whose: "the test", limit_bytes, used_bytes }]
    }

    fn give_back(&self) {}
}

/// Models in memory, on a machine that is empty otherwise.
async fn gauged(models: &[&str]) -> (World, Arc<Gauge>) {
    let gauge = Arc::new(Gauge::default());
    let world = World::within(Some(gauge.clone()), FakeFactory::default(), settings()).await;
    for name in models {
        assert!(matches!(world.load(name).await.last(), Some(LoadEvent::Ready { .. })));
    }
    (world, gauge)
}

fn level(world: &World) -> f64 {
    world.metric("candlewick_memory_pressure ")
}

fn steps(world: &World, name: &str) -> f64 {
    world.metric(&format!("candlewick_memory_pressure_steps_total{{step=\"{name}\"}} "))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_of_prompts_goes_first_and_comes_back() {
    let (world, gauge) = gauged(&["fake/a"]).await;
    let prompt = "a prompt of several blocks of four tokens each";
    let cached = async || world.answer(request(prompt, 2)).await.usage().cached_tokens;
    assert_eq!(cached().await, 0);
    assert!(cached().await > 0, "nothing is given up while there is room");
    gauge.set(820);
    eventually("the first step is taken", || level(&world) == 1.0).await;
    assert_eq!(cached().await, 0);
    assert_eq!((steps(&world, "drop_prefixes"), steps(&world, "no_long_prompts")), (1.0, 0.0));
    gauge.set(100);
    eventually("the step is taken back", || level(&world) == 0.0).await;
    cached().await;
    assert!(cached().await > 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_prompts_are_refused_before_short_ones() {
    let (world, gauge) = gauged(&["fake/a"]).await;
    gauge.set(880);
    eventually("the second step is taken", || level(&world) == 2.0).await;
    // Of the 4.8 MB that are left a prompt may take a quarter, and a token takes 1024 bytes.
    let failure = world.answer(request(&"x".repeat(1200), 1)).await.failure();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure}");
    assert!(failure.message.contains("1200 tokens takes 2 MB"), "{failure}");
    assert_eq!(world.metric("candlewick_memory_refused_total{what=\"long_prompt\"} "), 1.0);
    assert_eq!(world.answer(request("short", 3)).await.text(0).len(), 3);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_models_go_before_requests_are_refused_and_what_runs_goes_on() {
    let (world, gauge) = gauged(&["fake/b", "fake/a"]).await;
    let undisturbed = world.answer(request("hi", 20)).await;
    world.factory.control.step_gate.close();
    let stream = world.submit(request("hi", 20)).await;
    world.factory.control.step_gate.wait_held();
    gauge.set(990);
    eventually("all steps are taken", || level(&world) == 4.0).await;
    for name in ["drop_prefixes", "no_long_prompts", "unload_idle", "refuse"] {
        assert_eq!(steps(&world, name), 1.0, "{name}");
    }
    eventually("the idle model is unloaded", || world.metric("candlewick_models_loaded ") == 1.0).await;
    assert_eq!(loaded(&world).await, ["fake/a@main"]);
    let failure = world.gateway.submit(request("one more", 5)).await.err().expect("nobody comes in");
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    assert!(failure.retry_after.is_some());
    assert_eq!(world.metric("candlewick_memory_refused_total{what=\"request\"} "), 1.0);
    world.factory.control.step_gate.open();
    let answer = read_all(1, stream).await;
    assert_eq!(answer.text(0), undisturbed.text(0), "what was begun is finished, by {:?}", answer.events);
    gauge.set(0);
    eventually("nothing is given up any more", || level(&world) == 0.0).await;
    let answer = world.answer(request("one more", 5)).await;
    assert_eq!(answer.text(0).len(), 5, "{:?}", answer.events);
    world.close().await;
}
