//! `candlewick download`: everything that serving needs, nothing else, and word of how it goes.

use std::sync::Mutex;

use candlewick_engine::{LoadError, ModelSource};
use candlewick_hub::{DownloadEvent, download};

use crate::hub::Repo;
use crate::world::*;

const INDEX: &str = "model.safetensors.index.json";

#[tokio::test]
async fn a_model_is_downloaded_whole_and_nothing_else() {
    let world = World::new().await;
    let downloaded =
        download(&world.source(), &model("org/m"), &|_| Ok(()), &|_| {}).await.expect("it comes");
    assert_eq!(downloaded.commit.as_deref(), Some(COMMIT));
    let names = downloaded.files.files.keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(names, ["additional_chat_templates/rag.jinja", "config.json", WEIGHTS, "tokenizer.json"]);
    let path = path_of(&downloaded.files.files[WEIGHTS]);
    assert_eq!(std::fs::read(path).expect("it is on disk"), weights());
    world.offline().resolve(&model("org/m")).await.expect("it can be served offline");
}

#[tokio::test]
async fn shards_are_downloaded_as_their_index_says() {
    let index =
        r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let repo = Repo::new(COMMIT)
        .file("config.json", "c0f1", CONFIG)
        .file("tokenizer.json", "70ce", "{}")
        .file(INDEX, "1d", index)
        .lfs("model-00001-of-00002.safetensors", &sha256(b"one"), "one")
        .lfs("model-00002-of-00002.safetensors", &sha256(b"two"), "two")
        .lfs("consolidated.safetensors", &sha256(b"all"), "all");
    let world = World::of(repo).await;
    let events = Mutex::new(Vec::new());
    let observer = |event: DownloadEvent<'_>| {
        let line = match event {
            DownloadEvent::Started { name, size } => format!("{name} starts: {size:?}"),
            DownloadEvent::Bytes { name, done, size } => format!("{name} {done} of {size:?}"),
            DownloadEvent::Finished { name } => format!("{name} is here"),
        };
        events.lock().expect("nobody panics here").push(line);
    };
    let downloaded =
        download(&world.source(), &model("org/m"), &|_| Ok(()), &observer).await.expect("it comes");
    assert_eq!(downloaded.files.files.len(), 5);
    let events = events.into_inner().expect("nobody panics here");
    let of_shard = events.iter().filter(|line| line.starts_with("model-00002")).collect::<Vec<_>>();
    let shard = "model-00002-of-00002.safetensors";
    let expected =
        [format!("{shard} starts: Some(3)"), format!("{shard} 3 of Some(3)"), format!("{shard} is here")];
    assert_eq!(of_shard.first(), Some(&&expected[0]), "{events:?}");
    assert_eq!(of_shard.last(), Some(&&expected[2]), "{events:?}");
    assert!(of_shard.contains(&&expected[1]), "{events:?}");
}

#[tokio::test]
async fn a_gguf_file_comes_alone() {
    let file = gguf();
    let world = World::of(model_repo().lfs("q8.gguf", &sha256(&file), file)).await;
    let name = model("org/m:q8.gguf");
    let downloaded = download(&world.source(), &name, &|_| Ok(()), &|_| {}).await.expect("it comes");
    assert_eq!(downloaded.files.gguf.as_deref(), Some("q8.gguf"));
    assert_eq!(downloaded.files.files.keys().collect::<Vec<_>>(), ["q8.gguf"]);
    world.offline().resolve(&name).await.expect("it can be served offline");

    let error = download(&world.source(), &model("org/m:q4.gguf"), &|_| Ok(()), &|_| {})
        .await
        .expect_err("there is none such");
    assert_says(&error, &["q4.gguf", "q8.gguf"]);
}

#[tokio::test]
async fn pickles_are_refused_before_anything_is_fetched() {
    let repo =
        Repo::new(COMMIT).file("config.json", "c0f1", CONFIG).file("pytorch_model.bin", "b1", "pickle");
    let world = World::of(repo).await;
    let error =
        download(&world.source(), &model("org/m"), &|_| Ok(()), &|_| {}).await.expect_err("it is a pickle");
    assert!(matches!(error, LoadError::Unsupported(_)), "{error:?}");
    assert_eq!(world.hub.transfers(), []);
}

#[tokio::test]
async fn a_model_that_is_refused_by_its_config_costs_no_weights() {
    let world = World::new().await;
    let refuse =
        |config: &serde_json::Value| Err(LoadError::Unsupported(config["architectures"].to_string()));
    let error =
        download(&world.source(), &model("org/m"), &refuse, &|_| {}).await.expect_err("it is refused");
    assert!(matches!(&error, LoadError::Unsupported(why) if why.contains("Qwen2ForCausalLM")), "{error}");
    assert!(!world.hub.transfers().iter().any(|transfer| transfer.path.contains(WEIGHTS)));
}
