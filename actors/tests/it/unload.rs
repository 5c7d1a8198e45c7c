//! A model leaves memory: when it is idle, when it is told to, and never in use.

use std::time::Duration;

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{ErrorKind, ModelStatus};

use crate::support::*;

async fn loaded(world: &World) -> Vec<String> {
    let models = world.gateway.status().await.models.into_iter();
    models.filter(|(_, status)| *status == ModelStatus::Loaded).map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_model_is_unloaded_and_one_in_use_is_not() {
    let settings = TreeSettings { model_timeout: Some(Duration::from_millis(20)), ..settings() };
    let world = World::new(FakeRule::default(), settings).await;
    world.factory.control.step_gate.close();
    let busy = world.submit(request("busy", 5)).await;
    world.factory.control.step_gate.wait_held();
    // A second model becomes idle after the first became busy. When its time is over, so would be the first one's.
    world.load("fake/b").await;
    eventually("the idle model is gone", || world.metric("candlewick_models_loaded ") == 1.0).await;
    assert_eq!(loaded(&world).await, ["fake/a@main"]);
    world.factory.control.step_gate.open();
    assert_eq!(read_all(1, busy).await.text(0).len(), 5);
    eventually("the other has become idle too", || world.metric("candlewick_models_loaded ") == 0.0).await;
    // Root and registry.
    eventually("their subtrees are gone", || world.gateway.num_actors() == 2).await;
    assert_eq!(world.answer(request("again", 5)).await.text(0).len(), 5);
    assert_eq!(world.factory.num_loads(), 3);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pinned_model_stays() {
    let settings = TreeSettings {
        model_timeout: Some(Duration::from_millis(1)),
        pinned: Some(model("fake/a")),
        ..settings()
    };
    let world = World::new(FakeRule::default(), settings).await;
    world.load("fake/a").await;
    world.load("fake/b").await;
    eventually("the other model is gone", || world.metric("candlewick_models_loaded ") == 1.0).await;
    assert_eq!(loaded(&world).await, ["fake/a@main"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_model_is_unloaded_only_by_force() {
    let world = World::letters().await;
    let mut stream = world.submit(request("busy", 1000)).await;
    read_started(&mut stream).await;
    let failure = world.gateway.unload(&model("fake/a"), false).await.expect_err("the model is busy");
    assert_eq!(failure.kind, ErrorKind::Conflict);
    world.gateway.unload(&model("fake/a@main"), true).await.expect("it is forced");
    let mut last = None;
    while let Some(event) = next(&mut stream).await {
        last = Some(event);
    }
    assert!(
        matches!(last, Some(candlewick_protocol::Event::Failed(failure)) if failure.kind == ErrorKind::Unavailable)
    );
    assert!(loaded(&world).await.is_empty());
    eventually("its subtree is gone", || world.gateway.num_actors() == 2).await;
    let failure = world.gateway.unload(&model("fake/a"), true).await.expect_err("it is not there");
    assert_eq!(failure.kind, ErrorKind::ModelNotFound);
    assert_eq!(world.answer(request("again", 5)).await.text(0).len(), 5);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_unloads_everything() {
    let world = World::letters().await;
    world.load("fake/a").await;
    world.load("fake/b").await;
    world.factory.load_gate.close();
    let loading = world.gateway.load(model("fake/a@dev"));
    world.factory.load_gate.wait_held();
    world.gateway.reset().await;
    assert!(matches!(
        drain(loading).await.last(),
        Some(candlewick_protocol::LoadEvent::Failed { failure, .. }) if failure.kind == ErrorKind::Unavailable
    ));
    world.factory.load_gate.open();
    eventually("every subtree is gone", || world.gateway.num_actors() == 2).await;
    assert_eq!(world.metric("candlewick_models_loaded "), 0.0);
    world.close().await;
}
