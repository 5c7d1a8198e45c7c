//! The model inside the program.

use candlewick_engine::{FileEntry, LoadError, ModelFile, ModelSource, OnBytes, Snapshot, SourceListing};
use candlewick_protocol::ModelRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

/// Content of a file that is part of the program, by name.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// One model whose files are part of the program. It needs neither network nor disk.
#[derive(Debug, Clone)]
pub struct EmbeddedSource {
    model: ModelRef,
    files: &'static [EmbeddedFile],
    modified: u64,
}

impl EmbeddedSource {
    /// A model of these files. Its repository's name is `model`'s; its only revision is `main`.
    pub fn new(model: ModelRef, files: &'static [EmbeddedFile]) -> Self {
        Self { model, files, modified: 0 }
    }

    /// Says when the model was made, in seconds since 1970.
    pub fn modified(mut self, seconds: u64) -> Self {
        self.modified = seconds;
        self
    }

    fn find(&self, model: &ModelRef) -> Result<EmbeddedSnapshot, LoadError> {
        if model.revision() != self.model.revision() {
            return Err(LoadError::NotFound(format!(
                "`{}` is part of this program and has no revision `{}`, only `{}`",
                self.model.repo(),
                model.revision(),
                self.model.revision()
            )));
        }
        if let Some(file) = model.file()
            && self.content(file).is_none()
        {
            return Err(LoadError::NotFound(format!(
                "`{}` is part of this program and has no {file}",
                self.model.repo()
            )));
        }
        let entry = |(name, bytes): &EmbeddedFile| FileEntry {
            name: (*name).into(),
            size: Some(bytes.len() as u64),
            cached: true,
        };
        Ok(EmbeddedSnapshot { source: self.clone(), files: self.files.iter().map(entry).collect() })
    }

    fn content(&self, name: &str) -> Option<&'static [u8]> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| *bytes)
    }
}

impl ModelSource for EmbeddedSource {
    fn serves(&self, model: &ModelRef) -> bool {
        model.repo() == self.model.repo()
    }

    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>> {
        let found = self.find(model).map(|snapshot| Box::new(snapshot) as Box<dyn Snapshot>);
        async move { found }.boxed()
    }

    fn list(&self) -> Vec<SourceListing> {
        let config =
            self.content("config.json").and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        let max_model_len = config.and_then(|config| config.get("max_position_embeddings")?.as_u64());
        vec![SourceListing {
            model: self.model.clone(),
            modified: self.modified,
            commit: None,
            max_model_len,
        }]
    }
}

struct EmbeddedSnapshot {
    source: EmbeddedSource,
    files: Vec<FileEntry>,
}

impl Snapshot for EmbeddedSnapshot {
    /// None: the program's version names it.
    fn commit(&self) -> Option<&str> {
        None
    }

    fn files(&self) -> &[FileEntry] {
        &self.files
    }

    fn fetch<'a>(
        &'a self,
        name: &'a str,
        on_bytes: OnBytes<'a>,
    ) -> BoxFuture<'a, Result<ModelFile, LoadError>> {
        async move {
            let repo = self.source.model.repo();
            let content = self.source.content(name);
            let content =
                content.ok_or_else(|| LoadError::NotFound(format!("`{repo}` has no file {name}")))?;
            on_bytes(content.len() as u64, Some(content.len() as u64));
            Ok(ModelFile::Embedded(content))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[EmbeddedFile] =
        &[("config.json", br#"{"max_position_embeddings": 512}"#), ("model.safetensors", b"w")];

    fn model(name: &str) -> ModelRef {
        name.parse().expect("the name is good")
    }

    #[tokio::test]
    async fn the_model_inside_is_served_from_memory_and_listed() {
        let source = EmbeddedSource::new(model("org/toy"), FILES).modified(7);
        assert!(source.serves(&model("org/toy@dev")) && !source.serves(&model("org/other")));
        let snapshot = source.resolve(&model("org/toy@main")).await.expect("it is there");
        let file = snapshot.fetch("model.safetensors", &|_, _| {}).await.expect("it is there");
        assert_eq!(file, ModelFile::Embedded(b"w"));
        assert!(matches!(snapshot.fetch("x", &|_, _| {}).await, Err(LoadError::NotFound(_))));
        let expected =
            SourceListing { model: model("org/toy"), modified: 7, commit: None, max_model_len: Some(512) };
        assert_eq!(source.list(), [expected]);
    }

    #[tokio::test]
    async fn other_revisions_and_files_are_not_there() {
        let source = EmbeddedSource::new(model("org/toy"), FILES);
        for name in ["org/toy@dev", "org/toy:q8.gguf"] {
            let error = source.resolve(&model(name)).await.err().expect("there is none such");
            assert!(matches!(error, LoadError::NotFound(_)), "{error}");
        }
    }
}
