//! Responses in the background: written down as they come, whoever listens, and ended in good order.

use std::time::Duration;

use candlewick_actors::{Archive, ArchiveSettings, Gateway, TreeParts};
use candlewick_engine::fake::{FakeFactory, FakeRule, FakeSource};
use candlewick_protocol::{ErrorKind, Event, Failpoints, LoggedEvent, ResponseRecord, StoredResponse};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

use crate::support::{MODELS, World, eventually, request, settings};

fn record(id: &str) -> ResponseRecord {
    ResponseRecord {
        id: id.into(),
        created_at: 4_000_000_000,
        background: true,
        previous: None,
        head: json!({}),
        input: Vec::new(),
    }
}

/// A tree that keeps what it is told in a folder.
async fn world(dir: &Path, rule: FakeRule) -> World {
    let archive = ArchiveSettings { dir: dir.into(), ttl: Some(Duration::from_secs(3600)) };
    let factory = Arc::new(FakeFactory::new(rule));
    let parts = TreeParts {
        sources: vec![Arc::new(FakeSource::new(MODELS))],
        factory: factory.clone(),
        settings: settings(),
        failpoints: Failpoints::default(),
        archive: Some(Archive::open(&archive).expect("the folder is free")),
        memory: None,
        settings_source: None,
    };
    World {
        gateway: Gateway::start(parts).await.expect("the tree starts"),
        factory,
        failpoints: Failpoints::default(),
    }
}

async fn find(world: &World, id: &str) -> StoredResponse {
    world.gateway.find_response(id).await.expect("readable").expect("there")
}

/// Reads the log of a job to its end.
async fn follow(world: &World, id: &str) -> Vec<LoggedEvent> {
    let mut follower = world.gateway.follow_response(id).await.expect("it is at work");
    let mut log = Vec::new();
    while let Some(entry) = follower.next().await {
        log.push(entry);
    }
    log
}

fn last(stored: &StoredResponse) -> Option<ErrorKind> {
    match &stored.log.last().expect("it has ended").event {
        Event::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_goes_on_alone_and_followers_see_what_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world(folder.path(), FakeRule::default()).await;
    world.factory.control.step_gate.close();
    world.gateway.run_response(record("resp_1"), request("a", 20)).await.expect("admitted");
    assert!(find(&world, "resp_1").await.log.is_empty(), "it is on disk as queued");
    let early = follow(&world, "resp_1");
    let opened = async { world.factory.control.step_gate.open() };
    let (early, ()) = tokio::join!(early, opened);
    eventually("the job has ended", || world.gateway.num_in_flight() == 0).await;
    let stored = find(&world, "resp_1").await;
    assert!(stored.is_over() && last(&stored).is_none());
    assert_eq!(early, stored.log, "a follower has seen what was written, all of it");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_cancelled_or_forgotten_ends_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world(folder.path(), FakeRule::default()).await;
    world.factory.control.step_gate.close();
    for id in ["resp_1", "resp_2"] {
        world.gateway.run_response(record(id), request("a", 2000)).await.expect("admitted");
    }
    assert!(world.gateway.cancel_response("resp_1").await);
    assert_eq!(last(&find(&world, "resp_1").await), Some(ErrorKind::Cancelled));
    assert!(!world.gateway.cancel_response("resp_1").await, "it is over");
    assert!(world.gateway.forget_response("resp_2").await.expect("deletable"));
    assert!(world.gateway.find_response("resp_2").await.expect("readable").is_none());
    assert!(!world.gateway.forget_response("resp_2").await.expect("deletable"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_refused_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world(folder.path(), FakeRule::default()).await;
    let mut too_many = request("a", 1);
    too_many.num_choices = 1000;
    let failure = world.gateway.run_response(record("resp_1"), too_many).await.expect_err("refused");
    assert_eq!(failure.kind, ErrorKind::InvalidRequest);
    assert!(world.gateway.find_response("resp_1").await.expect("readable").is_none());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_responses_when_the_grace_is_over_and_writes_that_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = world(folder.path(), FakeRule::default()).await;
    first.factory.control.step_gate.close();
    first.gateway.run_response(record("resp_1"), request("a", 2000)).await.expect("admitted");
    first.gateway.shutdown(Duration::ZERO).await;
    first.factory.control.step_gate.open();
    assert_eq!(last(&find(&first, "resp_1").await), Some(ErrorKind::Unavailable));
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_life_left_unfinished_is_ended_with_a_failure_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = ArchiveSettings { dir: folder.path().into(), ttl: None };
    let archive = Archive::open(&settings).expect("the folder is free");
    archive.create(record("resp_1"), Vec::new()).await.expect("kept");
    drop(archive);
    let world = world(folder.path(), FakeRule::default()).await;
    let stored = find(&world, "resp_1").await;
    assert_eq!(last(&stored), Some(ErrorKind::Internal));
    assert!(world.gateway.follow_response("resp_1").await.is_none());
    world.close().await;
}
