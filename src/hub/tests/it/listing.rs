//! What `/v1/models` can say without the network.

use candlewick_engine::{ModelSource, SourceListing};

use crate::hub::Repo;
use crate::world::*;

fn names(listings: &[SourceListing]) -> Vec<String> {
    listings.iter().map(|listing| listing.model.to_string()).collect()
}

#[tokio::test]
async fn a_downloaded_model_appears_at_once() {
    let world = World::new().await;
    let source = world.source();
    assert_eq!(source.list(), []);
    world.fetch(&source, &["tokenizer.json", "config.json"]).await.expect("two files come");
    assert_eq!(source.list(), [], "without weights it still needs the network");

    world.fetch_model().await;
    let listing = source.list().pop().expect("it is listed");
    assert_eq!(listing.model, model("org/m"));
    assert_eq!((listing.commit.as_deref(), listing.max_model_len), (Some(COMMIT), Some(4096)));
    let written = std::fs::metadata(world.path(&format!("snapshots/{COMMIT}/{WEIGHTS}")))
        .and_then(|data| data.modified());
    let written =
        written.expect("the file is there").duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    assert_eq!(listing.modified, written.as_secs());
}

#[tokio::test]
async fn each_branch_and_each_gguf_file_is_an_entry() {
    let repo =
        model_repo().branch("feature/x").file("q8.gguf", "99f8", "GGUF").file("q4.gguf", "99f4", "GGUF");
    let world = World::of(repo).await;
    world
        .fetch(&world.source(), &["tokenizer.json", "config.json", WEIGHTS, "q8.gguf"])
        .await
        .expect("they come");
    let snapshot = world.source().resolve(&model("org/m@feature/x")).await.expect("the branch is there");
    fetch(&*snapshot, "config.json").await.expect("it is cached");
    let names = names(&world.source().list());
    assert_eq!(names, ["org/m", "org/m:q8.gguf", "org/m@feature/x", "org/m@feature/x:q8.gguf"]);
}

#[tokio::test]
async fn what_does_not_generate_text_is_left_out() {
    let world = World::new().await;
    let kinds = [
        ("org/bert", r#"{"architectures":["BertModel"]}"#),
        ("org/whisper", r#"{"architectures":["WhisperForConditionalGeneration"],"is_encoder_decoder":true}"#),
        (
            "org/sees",
            r#"{"architectures":["Gemma3ForConditionalGeneration"],"text_config":{"max_position_embeddings":9}}"#,
        ),
        ("org/odd", "not json"),
    ];
    for (id, config) in kinds {
        let repo = Repo::new(COMMIT).file("config.json", "c0", config).file("tokenizer.json", "70", "{}");
        world.hub.put(id, repo.file(WEIGHTS, "3e", "weights"));
        let snapshot = world.source().resolve(&model(id)).await.expect("the model is there");
        for name in ["config.json", "tokenizer.json", WEIGHTS] {
            fetch(&*snapshot, name).await.expect("it comes");
        }
    }
    let cache = world.cache.path();
    std::fs::rename(cache.join("models--org--odd"), cache.join("datasets--org--odd")).expect("it is renamed");
    std::fs::create_dir_all(cache.join("models--org--broken/refs/main")).expect("the folder is made");
    std::fs::create_dir_all(cache.join("models--")).expect("the folder is made");
    let listings = world.source().list();
    assert_eq!(names(&listings), ["org/sees"]);
    assert_eq!(listings[0].max_model_len, Some(9));
}
