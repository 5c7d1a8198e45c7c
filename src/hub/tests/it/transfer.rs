//! One file's way into the cache: where it lies, how a broken transfer goes on, what is never accepted.

use std::time::Duration;

use candlewick_engine::{LoadError, ModelSource};
use tokio::sync::oneshot;

use crate::world::*;

#[tokio::test]
async fn a_file_lies_where_python_looks_for_it() {
    let world = World::new().await;
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(snapshot.commit(), Some(COMMIT));
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes"), weights());
    assert_eq!(
        fetch(&*snapshot, "additional_chat_templates/rag.jinja").await.expect("it comes"),
        b"{{ documents }}"
    );

    let link = |name: &str| {
        std::fs::read_link(world.path(&format!("snapshots/{COMMIT}/{name}"))).expect("it is a link")
    };
    assert_eq!(link(WEIGHTS).to_str(), Some(&*format!("../../blobs/{}", sha256(&weights()))));
    assert_eq!(link("additional_chat_templates/rag.jinja").to_str(), Some("../../../blobs/7a91"));
    assert_eq!(std::fs::read_to_string(world.path("refs/main")).expect("the branch is remembered"), COMMIT);
    let lock = world.cache.path().join(".locks").join(FOLDER).join("7a91.lock");
    assert!(lock.is_file(), "the lock is where Python's is");
    assert_eq!(world.partial_weights(), None, "nothing is left behind");
}

#[tokio::test]
async fn what_is_here_is_not_transferred_again() {
    let world = World::new().await;
    world.fetch_model().await;
    let num_transfers = world.hub.transfers().len();
    world.fetch_model().await;
    assert_eq!(world.hub.transfers().len(), num_transfers);

    // Another commit with the same weights: a link, not a transfer.
    let commit = "f".repeat(40);
    world.hub.put("org/m", repo_at(&commit, &weights()));
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(snapshot.commit(), Some(commit.as_str()));
    assert!(snapshot.files().iter().all(|file| !file.cached));
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it is linked"), weights());
    assert_eq!(world.hub.transfers().len(), num_transfers);
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_from_there() {
    let world = World::new().await;
    world.hub.break_after(WEIGHTS, 100_000);
    world.hub.break_after(WEIGHTS, 50_000);
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes in three parts"), weights());

    let ranges = world.hub.transfers().into_iter().map(|request| request.range).collect::<Vec<_>>();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=150000-".into())]);
    assert_eq!(world.hub.bytes_sent(WEIGHTS), weights().len() as u64, "no byte is sent twice");
}

#[tokio::test]
async fn a_transfer_that_was_dropped_goes_on_from_there() {
    let world = World::new().await;
    let gate = world.hub.hold_after(WEIGHTS, 200_000);
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    let (arrived, all_arrived) = oneshot::channel();
    let arrived = std::sync::Mutex::new(Some(arrived));
    let on_bytes = |done, _: Option<u64>| {
        if done == 200_000 {
            let arrived = arrived.lock().expect("nobody panics here").take().expect("it comes to this once");
            arrived.send(()).expect("the test waits for it");
        }
    };
    tokio::select! {
        _ = snapshot.fetch(WEIGHTS, &on_bytes) => panic!("the Hub holds it back"),
        result = all_arrived => result.expect("progress is told"),
    }
    gate.open();

    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it goes on"), weights());
    let ranges = world.hub.transfers().into_iter().map(|request| request.range).collect::<Vec<_>>();
    assert_eq!(ranges, [None, Some("bytes=200000-".into())]);
}

#[tokio::test]
async fn what_a_given_up_transfer_brought_is_kept_for_the_next_process() {
    let world = World::new().await;
    let mut settings = world.settings();
    settings.num_retries = 0;
    world.hub.break_after(WEIGHTS, 70_000);
    let error = world.fetch(&source(settings), &[WEIGHTS]).await.expect_err("it broke off");
    assert!(matches!(error, LoadError::Network(_)));
    assert_says(&error, &["`org/m`", WEIGHTS, "at 70000 of 1200000 bytes"]);
    assert_eq!(world.partial_weights().as_deref(), Some(&weights()[..70_000]));

    world.fetch(&world.source(), &[WEIGHTS]).await.expect("it goes on");
    assert_eq!(
        world.hub.transfers().last().and_then(|request| request.range.as_deref()),
        Some("bytes=70000-")
    );
    assert_eq!(world.hub.bytes_sent(WEIGHTS), weights().len() as u64);
}

#[tokio::test]
async fn a_transfer_that_stands_still_is_taken_up_again() {
    let world = World::new().await;
    let _gate = world.hub.hold_after(WEIGHTS, 300_000);
    let mut settings = world.settings();
    settings.read_timeout = Duration::from_millis(100);
    let snapshot = source(settings).resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it goes on"), weights());
    assert_eq!(
        world.hub.transfers().last().and_then(|request| request.range.as_deref()),
        Some("bytes=300000-")
    );
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let world = World::of(model_repo().file("special_tokens_map.json", "e69d", "")).await;
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(fetch(&*snapshot, "special_tokens_map.json").await.expect("it comes"), b"");
}

#[tokio::test]
async fn a_renamed_model_is_found_under_its_old_name() {
    let world = World::new().await;
    world.hub.rename("org/old", "org/m");
    let snapshot = world.source().resolve(&model("org/old")).await.expect("the Hub sends it on");
    assert_eq!(fetch(&*snapshot, "config.json").await.expect("it comes"), CONFIG.as_bytes());
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes"), weights());
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_beginning() {
    let world = World::new().await;
    world.hub.break_after(WEIGHTS, 100_000);
    world.hub.ignore_range(WEIGHTS);
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes at last"), weights());
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_but_not_for_ever() {
    let world = World::new().await;
    for _ in 0..5 {
        world.hub.fail(WEIGHTS, 503);
    }
    world.fetch(&world.source(), &[WEIGHTS]).await.expect("the sixth try succeeds");

    for _ in 0..6 {
        world.hub.fail("config.json", 503);
    }
    let error =
        world.fetch(&world.source(), &["config.json"]).await.expect_err("six times in a row are too many");
    assert!(matches!(error, LoadError::Network(_)));
    assert_says(&error, &["503", "org/m"]);
    assert_eq!(world.hub.bytes_sent("config.json"), 0);
}

#[tokio::test]
async fn wrong_content_is_an_error_and_never_seen() {
    let wrong = sha256(b"something else");
    let world = World::of(model_repo().lfs(WEIGHTS, &wrong, weights())).await;
    let error = world.fetch(&world.source(), &[WEIGHTS]).await.expect_err("the digest is another");
    assert!(matches!(&error, LoadError::Corrupt { file, .. } if file == WEIGHTS), "{error}");
    assert_says(&error, &["sha256", &wrong]);
    assert!(!world.path(&format!("snapshots/{COMMIT}/{WEIGHTS}")).exists());

    // The next try begins anew, and the right content is accepted.
    world.hub.put("org/m", model_repo());
    world.fetch(&world.source(), &[WEIGHTS]).await.expect("now it is right");
}

#[tokio::test]
async fn a_partial_file_with_wrong_bytes_is_thrown_away() {
    let world = World::new().await;
    std::fs::create_dir_all(world.path("blobs")).expect("the folder is made");
    let partial = world.path(&format!("blobs/{}.incomplete", sha256(&weights())));
    std::fs::write(&partial, vec![7; 1000]).expect("the file is written");
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.map(|content| content == weights()).ok(), Some(true));

    // One that is too long is none of this file.
    std::fs::remove_dir_all(world.path("")).expect("the cache is emptied");
    std::fs::create_dir_all(world.path("blobs")).expect("the folder is made");
    std::fs::write(&partial, vec![7; 2_000_000]).expect("the file is written");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes"), weights());
}

#[tokio::test]
async fn a_cached_file_of_the_wrong_size_is_fetched_again() {
    let world = World::new().await;
    world.fetch_model().await;
    std::fs::write(world.path(&format!("blobs/{}", sha256(&weights()))), b"cut")
        .expect("the blob is damaged");
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    assert_eq!(fetch(&*snapshot, WEIGHTS).await.expect("it comes again"), weights());
}

#[tokio::test]
async fn two_at_once_transfer_a_file_once() {
    let world = World::new().await;
    let (one, two) = (world.source(), world.source());
    let (first, second) = tokio::join!(world.fetch(&one, &[WEIGHTS]), world.fetch(&two, &[WEIGHTS]));
    first.and(second).expect("both have it");
    assert_eq!(world.hub.bytes_sent(WEIGHTS), weights().len() as u64);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_cdn() {
    let world = World::new().await;
    world.hub.add_token("hf_secret");
    let mut settings = world.settings();
    settings.token = Some("hf_secret".into());
    world.fetch(&source(settings), &["config.json", WEIGHTS]).await.expect("the model is downloaded");
    for request in world.hub.requests() {
        let expected = if request.cdn { None } else { Some("Bearer hf_secret") };
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
    assert!(world.hub.requests().iter().any(|request| request.cdn));
}

#[tokio::test]
async fn without_a_token_none_is_sent() {
    let world = World::new().await;
    world.fetch_model().await;
    assert!(world.hub.requests().iter().all(|request| request.authorization.is_none()));
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let world = World::new().await;
    std::fs::write(world.cache.path().join(FOLDER), b"a file in the way").expect("the file is written");
    let error = world.fetch(&world.source(), &["config.json"]).await.expect_err("there is no place for it");
    assert!(matches!(&error, LoadError::Io { path, .. } if path.starts_with(world.cache.path())), "{error}");
}

/// `/dev/full` has no room for anything, and says so as a full disk does.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_told_with_what_is_needed_and_what_is_free() {
    let world = World::new().await;
    let partial = world.path("blobs/c0f1.incomplete");
    std::fs::create_dir_all(partial.parent().expect("a folder")).expect("made");
    std::os::unix::fs::symlink("/dev/full", &partial).expect("linked");
    let snapshot = world.source().resolve(&model("org/m")).await.expect("the model is there");
    let error = fetch(&*snapshot, "config.json").await.expect_err("there is no room");
    let text = error.to_string();
    assert!(matches!(error, LoadError::Io { .. }), "{text}");
    let needed = format!("{} bytes are still to come, and ", CONFIG.len());
    for part in [partial.to_str().expect("plain"), "No space left on device", &needed, " are free; make room"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(world.hub.transfers().len(), 1, "it is not tried again and again");

    // Once there is room, it comes.
    std::fs::remove_file(&partial).expect("removed");
    assert_eq!(fetch(&*snapshot, "config.json").await.expect("it comes"), CONFIG.as_bytes());
}
