//! What the cache answers alone: commits, offline, a Hub that is gone, updates that were never finished.

use std::time::Duration;

use candlewick_engine::{LoadError, ModelSource};

use crate::world::*;

#[tokio::test]
async fn a_whole_commit_costs_no_request() {
    let world = World::new().await;
    world.fetch_model().await;
    let num_requests = world.hub.requests().len();
    let name = format!("org/m@{COMMIT}");
    let snapshot = world.source().resolve(&model(&name)).await.expect("it is cached");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it is cached"), weights());
    assert_eq!(world.hub.requests().len(), num_requests);
}

#[tokio::test]
async fn a_commit_of_which_a_part_is_cached_is_completed() {
    let world = World::new().await;
    world.fetch(&world.source(), &["tokenizer.json", "config.json"]).await.expect("two files come");
    let name = format!("org/m@{COMMIT}");
    let snapshot = world.source().resolve(&model(&name)).await.expect("the Hub has it");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("the Hub has it"), weights());
}

#[tokio::test]
async fn a_branch_moves_with_the_hub() {
    let world = World::new().await;
    world.fetch_model().await;
    let commit = "e".repeat(40);
    world.hub.put("org/m", repo_at(&commit, b"new weights"));
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(snapshot.commit(), Some(commit.as_str()));
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes"), b"new weights");
}

#[tokio::test]
async fn an_update_that_is_not_finished_leaves_the_old_version_usable() {
    let world = World::new().await;
    world.fetch_model().await;
    let commit = "e".repeat(40);
    world.hub.put("org/m", repo_at(&commit, b"new weights"));
    world.fetch(&world.source(), &["config.json"]).await.expect("one file of the new version comes");
    let snapshot = world.offline().resolve(&model("org/m")).await.expect("the old version is there");
    assert_eq!(snapshot.commit(), Some(COMMIT));

    world.fetch_model().await;
    let snapshot = world.offline().resolve(&model("org/m")).await.expect("the new version is there");
    assert_eq!(snapshot.commit(), Some(commit.as_str()));
}

#[tokio::test]
async fn offline_serves_what_is_cached_and_asks_nobody() {
    let world = World::new().await;
    world.fetch_model().await;
    let num_requests = world.hub.requests().len();
    let snapshot = world.offline().resolve(&model("org/m")).await.expect("it is cached");
    let names = snapshot.files().iter().map(|file| file.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["config.json", WEIGHTS, "tokenizer.json"]);
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it is cached"), weights());
    assert_eq!(world.hub.requests().len(), num_requests);
}

#[tokio::test]
async fn offline_says_what_to_do_about_what_is_not_cached() {
    let world = World::new().await;
    let error = resolve_error(&world.offline(), "org/m").await;
    assert!(matches!(error, LoadError::Offline(_)));
    let cache = world.cache.path().to_str().expect("its name is text");
    assert_says(
        &error,
        &["`org/m` is not in the cache", cache, "unset HF_HUB_OFFLINE", "candlewick download org/m"],
    );

    world.fetch(&world.source(), &["tokenizer.json", "config.json"]).await.expect("two files come");
    let error = resolve_error(&world.offline(), "org/m").await;
    assert!(matches!(error, LoadError::Offline(_)));
    assert_says(&error, &["only partly", "no weights"]);
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_an_error_only_for_what_is_not_cached() {
    let world = World::new().await;
    let error = resolve_error(&world.unreachable(), "org/m").await;
    assert!(matches!(error, LoadError::Network(_)));
    assert_says(&error, &["http://127.0.0.1:9", "`org/m`", "refused"]);

    world.fetch_model().await;
    let snapshot = world.unreachable().resolve(&model("org/m")).await.expect("the cached copy serves");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it is cached"), weights());
}

#[tokio::test]
async fn a_hub_that_does_not_answer_is_not_waited_for() {
    let world = World::new().await;
    world.fetch_model().await;
    let _held = world.hub.hold_api();
    let mut settings = world.settings();
    settings.metadata_timeout = Duration::from_millis(20);
    let snapshot = source(settings.clone()).resolve(&model("org/m")).await.expect("the cached copy serves");
    assert_eq!(snapshot.commit(), Some(COMMIT));
    settings.cache_dir = world.cache.path().join("empty");
    assert_says(&resolve_error(&source(settings), "org/m").await, &["did not answer in time"]);
}

#[tokio::test]
async fn a_model_that_only_the_cache_has_is_served_all_the_same() {
    let world = World::new().await;
    world.fetch_model().await;
    let folder = world.cache.path().join("models--local--made");
    std::fs::rename(world.cache.path().join(FOLDER), folder).expect("the folder is renamed");
    let snapshot = world.source().resolve(&model("local/made")).await.expect("the cache has it");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("the cache has it"), weights());
}
