//! `candlewick download` against a small Hub on loopback.

// The Hub of the `hub` room's own tests: there is one, so that both rooms mean the same by it.
#[path = "hub/tests/support/hub.rs"]
pub(crate) mod hub;

use std::path::Path;

use hub::{Repo, TestHub};

use crate::cli::DownloadArgs;
use crate::download;
use crate::settings::{Settings, SettingsFile, Sources};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

async fn model_hub() -> TestHub {
    let config = r#"{"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","hidden_size":64,"intermediate_size":128,
        "num_attention_heads":4,"num_hidden_layers":2,"num_key_value_heads":2,"vocab_size":479,"rms_norm_eps":1e-6,
        "max_position_embeddings":2048,"rope_theta":10000.0}"#;
    let repo = |config: &'static str| {
        Repo::new(COMMIT).file("config.json", "c0f1", config).file("tokenizer.json", "70ce", "{}").file(
            "model.safetensors",
            "3e16",
            vec![7; 100_000],
        )
    };
    TestHub::start([("org/m", repo(config)), ("org/strange", repo(r#"{"model_type":"strange"}"#))]).await
}

fn settings(hub: &TestHub, cache: &Path, more: &str) -> Settings {
    let text =
        format!("[hub]\nendpoint = \"{}\"\ncache_dir = \"{}\"\n{more}", hub.endpoint(), cache.display());
    let file = Some(SettingsFile { path: "test.toml".into(), text });
    Settings::load(&Sources { file, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"))
}

fn args(model: &str, force_download: bool) -> DownloadArgs {
    DownloadArgs { model: model.into(), force_download, ..DownloadArgs::default() }
}

fn weights(cache: &Path) -> Option<Vec<u8>> {
    std::fs::read(cache.join("models--org--m/snapshots").join(COMMIT).join("model.safetensors")).ok()
}

fn num_transfers(hub: &TestHub) -> usize {
    hub.transfers().len()
}

#[tokio::test]
async fn what_is_here_is_fetched_again_only_by_force() {
    let (hub, cache) = (model_hub().await, tempfile::tempdir().expect("a folder"));
    let settings = settings(&hub, cache.path(), "");
    download::run(&args("org/m", false), &settings).await.expect("downloaded");
    assert_eq!(weights(cache.path()), Some(vec![7; 100_000]));
    let first = num_transfers(&hub);
    download::run(&args("org/m", false), &settings).await.expect("here already");
    assert_eq!(num_transfers(&hub), first);
    download::run(&args("org/m", true), &settings).await.expect("downloaded again");
    assert_eq!(num_transfers(&hub), 2 * first);
    assert_eq!(weights(cache.path()), Some(vec![7; 100_000]));
    assert!(!left_over(cache.path()), "nothing of the old files is left");
}

fn left_over(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("readable").path();
        path.extension().is_some_and(|extension| extension == "replaced")
            || (path.is_dir() && left_over(&path))
    })
}

#[tokio::test]
async fn a_forced_download_that_fails_costs_nothing() {
    let (hub, cache) = (model_hub().await, tempfile::tempdir().expect("a folder"));
    let settings = settings(&hub, cache.path(), "");
    download::run(&args("org/m", false), &settings).await.expect("downloaded");
    hub.fail("model.safetensors", 404);
    download::run(&args("org/m", true), &settings).await.expect_err("the Hub has lost the file");
    assert_eq!(weights(cache.path()), Some(vec![7; 100_000]));
    assert!(!left_over(cache.path()));
}

#[tokio::test]
async fn the_reason_of_a_failure_is_told() {
    let (hub, cache) = (model_hub().await, tempfile::tempdir().expect("a folder"));
    let error = |args: DownloadArgs, more: &'static str| {
        let settings = settings(&hub, cache.path(), more);
        async move { format!("{:#}", download::run(&args, &settings).await.expect_err("it cannot be")) }
    };
    assert!(error(args("org/none", false), "").await.contains("org/none"));
    assert!(error(args("./folder", false), "").await.contains("folder on this machine"));
    assert!(error(args("org/m", true), "offline = true\n").await.contains("needs the network"));
}

#[tokio::test]
async fn a_family_that_cannot_be_served_is_refused_before_its_weights_come() {
    let (hub, cache) = (model_hub().await, tempfile::tempdir().expect("a folder"));
    let error = download::run(&args("org/strange", false), &settings(&hub, cache.path(), ""))
        .await
        .expect_err("there is no such family");
    assert!(format!("{error:#}").contains("\"strange\" are not there yet"), "{error:#}");
    assert_eq!(hub.bytes_sent("model.safetensors"), 0);
}
