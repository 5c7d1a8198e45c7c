//! Loading: one load whoever asks, progress for all, failures that are answers.

use std::time::Duration;

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::{FakeFactory, FakeRule, Fault};
use candlewick_protocol::{ErrorKind, Event, LoadEvent, LoadStage, ModelStatus, Progress, ProgressUnit};

use crate::support::*;

fn stage(stage: LoadStage) -> LoadEvent {
    LoadEvent::Loading { model: "fake/a@main".into(), stage, progress: None }
}

fn weights(current: u64) -> LoadEvent {
    let progress = Some(Progress { current, total: Some(4), unit: ProgressUnit::Tensors });
    LoadEvent::Loading { model: "fake/a@main".into(), stage: LoadStage::Weights, progress }
}

fn ready(cached: bool) -> LoadEvent {
    LoadEvent::Ready { model: "fake/a@main".into(), cached }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_tells_its_stages_and_a_warm_one_only_its_end() {
    let world = World::letters().await;
    let cold = world.load("fake/a").await;
    let mut expected = vec![stage(LoadStage::Processor), stage(LoadStage::Config)];
    expected.extend((1..=4).map(weights));
    expected.push(ready(false));
    assert_eq!(cold, expected);
    assert_eq!(world.load("fake/a@main").await, [ready(true)]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_load_whoever_asks_and_however_it_is_spelt() {
    let world = World::letters().await;
    world.factory.load_gate.close();
    let loads = [world.gateway.load(model("fake/a")), world.gateway.load(model("fake/a@main"))];
    let mut streams = Vec::new();
    for prompt in ["one", "two", "three"] {
        streams.push(world.submit(request(prompt, 5)).await);
    }
    world.factory.load_gate.open();
    for load in loads {
        assert_eq!(drain(load).await.last(), Some(&ready(false)));
    }
    for stream in streams {
        assert_eq!(read_all(1, stream).await.text(0).len(), 5);
    }
    assert_eq!(world.factory.num_loads(), 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_is_told_what_has_passed() {
    let world = World::letters().await;
    world.factory.load_gate.close();
    let mut first = world.gateway.load(model("fake/a"));
    world.factory.load_gate.let_pass(3);
    while first.recv().await.expect("the load goes on") != weights(2) {}

    let late = world.gateway.load(model("fake/a"));
    let mut waiting = world.submit(request("late", 3)).await;
    // The request is told as well; by then both have arrived.
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(next(&mut waiting).await.expect("the stream is open"));
    }
    let is_weights = |event: &Event| matches!(event, Event::Loading { stage: LoadStage::Weights, progress: Some(p) } if p.current == 2);
    assert!(told.last().is_some_and(is_weights), "{told:?}");
    world.factory.load_gate.open();
    let replayed = [
        stage(LoadStage::Processor),
        stage(LoadStage::Config),
        weights(2),
        weights(3),
        weights(4),
        ready(false),
    ];
    assert_eq!(drain(late).await, replayed);
    drop(waiting);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_who_leaves_does_not_stop_the_load() {
    let world = World::letters().await;
    world.factory.load_gate.close();
    drop(world.gateway.load(model("fake/a")));
    world.factory.load_gate.wait_held();
    world.factory.load_gate.open();
    eventually("the model is loaded", || world.metric("candlewick_models_loaded ") == 1.0).await;
    assert_eq!(world.load("fake/a").await, [ready(true)]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_not_found() {
    let world = World::letters().await;
    for name in ["fake/none", "elsewhere/none"] {
        let mut unknown = request("hi", 5);
        unknown.model = Some(model(name));
        let failure = world.answer(unknown).await.failure();
        assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::ModelNotFound, Some("model")));
    }
    let events = world.load("fake/none").await;
    assert!(matches!(&events[0], LoadEvent::Loading { stage: LoadStage::Processor, .. }), "{events:?}");
    assert!(
        matches!(events.last(), Some(LoadEvent::Failed { failure, .. }) if failure.kind == ErrorKind::ModelNotFound)
    );
    let ids = world.gateway.list().await.into_iter().map(|card| card.id).collect::<Vec<_>>();
    assert_eq!(ids, ["fake/a", "fake/a@dev", "fake/b"], "what was asked for in vain is not listed");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_panics_is_an_answer_and_is_remembered_for_a_moment() {
    let world = World::letters().await;
    world.factory.break_next_load(Fault::Panic);
    let failure = world.answer(request("hi", 5)).await.failure();
    assert_eq!(failure.kind, ErrorKind::Internal);
    assert!(failure.message.contains("told to panic"), "{failure}");
    assert_eq!(world.answer(request("hi", 5)).await.failure(), failure);
    assert_eq!(world.factory.num_loads(), 1, "the second request did not try again");
    assert_eq!(world.load("fake/a").await.last(), Some(&ready(false)), "who asks for a load gets one");
    assert_eq!(world.answer(request("hi", 5)).await.text(0).len(), 5);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_failed_load_is_forgotten_the_next_request_tries_again() {
    let settings = TreeSettings { load_failure_ttl: Duration::ZERO, ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    world.factory.break_next_load(Fault::Error);
    assert_eq!(world.answer(request("hi", 5)).await.failure().kind, ErrorKind::Internal);
    // The supervisor goes when it has nothing to remember: the root, and the registry.
    eventually("the failure is forgotten", || world.gateway.num_actors() == 2).await;
    assert_eq!(world.answer(request("hi", 5)).await.text(0).len(), 5);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_answers_while_a_model_loads() {
    let world =
        World::new(FakeRule::default(), TreeSettings { pinned: Some(model("fake/a")), ..settings() }).await;
    world.factory.load_gate.close();
    eventually("the pinned model loads unasked", || world.factory.num_loads() == 1).await;
    let status = world.gateway.status().await;
    assert!(!status.ready && status.reason.is_some_and(|reason| reason.contains("loading")));
    assert_eq!(status.models, [("fake/a@main".to_owned(), ModelStatus::Loading)]);
    world.factory.load_gate.open();
    eventually("the model is loaded", || world.metric("candlewick_models_loaded ") == 1.0).await;
    let status = world.gateway.status().await;
    assert_eq!((status.ready, status.reason), (true, None));
    let cards = world.gateway.list().await;
    assert_eq!((cards[0].status, cards[0].max_model_len), (ModelStatus::Loaded, Some(2048)));
    assert_eq!(cards[1].status, ModelStatus::Available);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_model_that_failed_to_load_is_tried_again_unasked() {
    let settings = TreeSettings {
        pinned: Some(model("fake/a")),
        load_failure_ttl: Duration::from_millis(1),
        ..settings()
    };
    let factory = FakeFactory::default();
    factory.break_next_load(Fault::Error);
    let world = World::of(factory, settings).await;
    eventually("the model is loaded", || world.metric("candlewick_models_loaded ") == 1.0).await;
    assert_eq!(world.factory.num_loads(), 2);
    assert!(world.gateway.status().await.ready);
    world.close().await;
}
