//! A Hub with one model, an empty cache, and the words to speak of them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use candlewick_engine::{LoadError, ModelFile, ModelSource, Snapshot};
use candlewick_hub::{HubSettings, HubSource};
use candlewick_protocol::ModelRef;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::hub::{Repo, TestHub};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const CONFIG: &str = r#"{"architectures":["Qwen2ForCausalLM"],"max_position_embeddings":4096}"#;

/// Where the model's files lie in a cache.
pub(crate) const FOLDER: &str = "models--org--m";

/// Weights that take more than one packet.
pub(crate) fn weights() -> Vec<u8> {
    (0..300_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A model as it should be, at [`COMMIT`].
pub(crate) fn model_repo() -> Repo {
    repo_at(COMMIT, &weights())
}

pub(crate) fn repo_at(commit: &str, weights: &[u8]) -> Repo {
    Repo::new(commit)
        .file("README.md", "ea7d", "# a model")
        .file("additional_chat_templates/rag.jinja", "7a91", "{{ documents }}")
        .file("config.json", "c0f1", CONFIG)
        .file("tokenizer.json", "70ce", "{}")
        .file("onnx/model.onnx", "0441", "not wanted")
        .file("pytorch_model.bin", "b1b1", "not wanted")
        .lfs(WEIGHTS, &sha256(weights), weights)
}

/// A small GGUF file of llama.cpp's making.
pub(crate) fn gguf() -> Vec<u8> {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/gguf/qwen2-f16.gguf");
    std::fs::read(fixtures).expect("the fixture is there")
}

pub(crate) fn model(name: &str) -> ModelRef {
    name.parse().expect("the name is good")
}

pub(crate) struct World {
    pub(crate) hub: TestHub,
    pub(crate) cache: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::of(model_repo()).await
    }

    pub(crate) async fn of(repo: Repo) -> Self {
        let hub = TestHub::start([("org/m", repo)]).await;
        Self { hub, cache: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn settings(&self) -> HubSettings {
        let mut settings = HubSettings::new(self.cache.path());
        settings.endpoint = self.hub.endpoint();
        settings.retry_backoff = Duration::from_millis(1);
        settings
    }

    pub(crate) fn source(&self) -> HubSource {
        source(self.settings())
    }

    pub(crate) fn offline(&self) -> HubSource {
        let mut settings = self.settings();
        settings.offline = true;
        source(settings)
    }

    /// With a Hub that nobody serves any more.
    pub(crate) fn unreachable(&self) -> HubSource {
        let mut settings = self.settings();
        // The discard port: nothing listens there, and a connection is refused at once.
        settings.endpoint = "http://127.0.0.1:9".into();
        settings.num_retries = 1;
        source(settings)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cache.path().join(FOLDER).join(name)
    }

    /// The content of `blobs/<sha256 of the weights>.incomplete`, if there is such a file.
    pub(crate) fn partial_weights(&self) -> Option<Vec<u8>> {
        std::fs::read(self.path(&format!("blobs/{}.incomplete", sha256(&weights())))).ok()
    }

    /// Fetches files of the model one by one.
    pub(crate) async fn fetch(&self, source: &HubSource, names: &[&str]) -> Result<(), LoadError> {
        let snapshot = source.resolve(&model("org/m")).await?;
        for name in names {
            fetch(&*snapshot, name).await?;
        }
        Ok(())
    }

    /// Everything that serving needs.
    pub(crate) async fn fetch_model(&self) {
        self.fetch(&self.source(), &["tokenizer.json", "config.json", WEIGHTS])
            .await
            .expect("the model is downloaded");
    }
}

pub(crate) fn source(settings: HubSettings) -> HubSource {
    HubSource::new(settings).expect("the endpoint is an address")
}

/// Fetches a file and reads it.
pub(crate) async fn fetch(snapshot: &dyn Snapshot, name: &str) -> Result<Vec<u8>, LoadError> {
    let progress = Mutex::new(Vec::new());
    let on_bytes = |done, total| progress.lock().expect("nobody panics here").push((done, total));
    let file = snapshot.fetch(name, &on_bytes).await?;
    let progress = progress.into_inner().expect("nobody panics here");
    let content = file.read()?.to_vec();
    assert!(progress.is_sorted(), "progress goes forward: {progress:?}");
    let size = content.len() as u64;
    assert_eq!(progress.last(), Some(&(size, Some(size))), "progress ends at the whole");
    assert!(progress.iter().all(|(_, total)| *total == Some(size)), "the total is known throughout");
    Ok(content)
}

pub(crate) fn path_of(file: &ModelFile) -> PathBuf {
    match file {
        ModelFile::Path(path) => path.clone(),
        ModelFile::Embedded(_) | ModelFile::Made(_) => panic!("a file of the Hub is on disk"),
    }
}

/// The error of resolving a name that cannot be resolved.
pub(crate) async fn resolve_error(source: &HubSource, name: &str) -> LoadError {
    source.resolve(&model(name)).await.err().expect("there is an error")
}

#[track_caller]
pub(crate) fn assert_says(error: &LoadError, texts: &[&str]) {
    let text = error.to_string();
    for part in texts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
