//! The seam between models and where their files come from: the Hub and its cache, a folder, the program itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_protocol::ModelRef;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::LoadError;

/// Told the bytes so far and, once known, all bytes of a file being fetched.
pub type OnBytes<'a> = &'a (dyn Fn(u64, Option<u64>) + Send + Sync);

/// Somewhere that models come from.
pub trait ModelSource: Send + Sync {
    /// Whether this source is the one for the name; the first that says yes is asked.
    fn serves(&self, model: &ModelRef) -> bool;

    /// Finds the snapshot that a name stands for. A commit that is here costs no network; a branch may have moved, so it
    /// is looked up if the source can be reached, and taken as it was last seen if not.
    fn resolve<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Box<dyn Snapshot>, LoadError>>;

    /// The models that need no network. Cheap enough to be asked on every `/v1/models`; blocks on the disk.
    fn list(&self) -> Vec<SourceListing>;
}

/// A model that a source has at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceListing {
    /// Its name.
    pub model: ModelRef,
    /// When it was last modified, in seconds since 1970.
    pub modified: u64,
    /// Commit, if the source has such.
    pub commit: Option<String>,
    /// `max_position_embeddings` of its config, if that is known.
    pub max_model_len: Option<u64>,
}

/// One immutable version of a repository.
pub trait Snapshot: Send + Sync {
    /// Its commit or other immutable name.
    fn commit(&self) -> Option<&str>;

    /// Every file in it.
    fn files(&self) -> &[FileEntry];

    /// Some bytes of a file that is elsewhere, without bringing it here; fewer than asked for only where the file ends. `None` where
    /// there is no such way, as where every file is here.
    fn peek<'a>(
        &'a self,
        _name: &'a str,
        _range: Range<u64>,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, LoadError>> {
        async { Ok(None) }.boxed()
    }

    /// Brings one file here. Nothing is transferred that is here already; a transfer that broke off is resumed.
    /// Dropping the future stops it, and keeps what has arrived.
    fn fetch<'a>(
        &'a self,
        name: &'a str,
        on_bytes: OnBytes<'a>,
    ) -> BoxFuture<'a, Result<ModelFile, LoadError>>;
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Path within the repository.
    pub name: String,
    /// Bytes, if known without asking.
    pub size: Option<u64>,
    /// Whether it is here already.
    pub cached: bool,
}

/// A file that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFile {
    /// On disk.
    Path(PathBuf),
    /// Part of the program.
    Embedded(&'static [u8]),
    /// Made while loading, of what another file says.
    Made(Arc<[u8]>),
}

/// The content of a small file.
pub enum FileBytes {
    /// Read from disk.
    Owned(Vec<u8>),
    /// Part of the program.
    Embedded(&'static [u8]),
    /// Made while loading.
    Made(Arc<[u8]>),
}

impl std::ops::Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Embedded(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

impl ModelFile {
    /// Reads the whole file. For small ones; weights are mapped.
    pub fn read(&self) -> Result<FileBytes, LoadError> {
        match self {
            Self::Embedded(bytes) => Ok(FileBytes::Embedded(bytes)),
            Self::Made(bytes) => Ok(FileBytes::Made(bytes.clone())),
            Self::Path(path) => std::fs::read(path)
                .map(FileBytes::Owned)
                .map_err(|error| LoadError::Io { path: path.clone(), why: error.to_string() }),
        }
    }
}

/// The files of one model that are here, by name. Holds what the loader fetched: configs, tokenizer, weights.
#[derive(Debug, Clone, Default)]
pub struct ModelFiles {
    /// Path within the repository → file.
    pub files: BTreeMap<String, ModelFile>,
    /// The GGUF file that is meant, if the model was named by one.
    pub gguf: Option<String>,
}

impl ModelFiles {
    /// The file, if it is here.
    pub fn get(&self, name: &str) -> Option<&ModelFile> {
        self.files.get(name)
    }

    /// Reads and parses a JSON file; `Ok(None)` if there is none.
    pub fn json(&self, name: &str) -> Result<Option<serde_json::Value>, LoadError> {
        let Some(file) = self.get(name) else { return Ok(None) };
        let value = serde_json::from_slice(&file.read()?).map_err(|error| LoadError::Corrupt {
            file: name.into(),
            why: format!("not valid JSON: {error}"),
        })?;
        Ok(Some(value))
    }

    /// Reads a text file; `Ok(None)` if there is none.
    pub fn text(&self, name: &str) -> Result<Option<String>, LoadError> {
        let Some(file) = self.get(name) else { return Ok(None) };
        let text = String::from_utf8(file.read()?.to_vec())
            .map_err(|_| LoadError::Corrupt { file: name.into(), why: "not valid UTF-8".into() })?;
        Ok(Some(text))
    }
}
