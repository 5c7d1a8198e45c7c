//! Bringing everything here that serving a model needs, ahead of time.

use candlewick_engine::files::{config_files, index_file, only_gguf, processor_files, weight_files};
use candlewick_engine::gguf::check_ahead;
use candlewick_engine::{LoadError, ModelFiles, ModelSource, Snapshot};
use candlewick_protocol::ModelRef;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use crate::transfer::blocking;

/// Files that are fetched at a time: enough to fill a line, few enough to watch.
const FILES_AT_ONCE: usize = 4;

/// How a download goes. Bytes come with every chunk: an observer that draws should draw less often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadEvent<'a> {
    /// A file begins; its size, if known. Comes for files that are here already, too.
    Started {
        /// Path within the repository.
        name: &'a str,
        /// Its bytes.
        size: Option<u64>,
    },
    /// So much of a file is here. Begins at what an earlier try had left.
    Bytes {
        /// Path within the repository.
        name: &'a str,
        /// Bytes so far.
        done: u64,
        /// All its bytes.
        size: Option<u64>,
    },
    /// A file is here, checked.
    Finished {
        /// Path within the repository.
        name: &'a str,
    },
}

/// What was downloaded.
#[derive(Debug, Clone)]
pub struct Downloaded {
    /// The commit that the revision is, if the source has such.
    pub commit: Option<String>,
    /// All files that serving needs.
    pub files: ModelFiles,
}

/// Fetches every file that serving the model needs, and nothing else. What is here already is not fetched again.
///
/// `check` may refuse the model by its `config.json`, before its weights are fetched; of a GGUF model, by what its header says.
///
/// # Errors
/// As [`ModelSource::resolve`], [`Snapshot::fetch`] and `check`; `NotFound` or `Unsupported` if there are no weights to
/// serve.
pub async fn download(
    source: &dyn ModelSource,
    model: &ModelRef,
    check: &(dyn Fn(&Value) -> Result<(), LoadError> + Send + Sync),
    observer: &(dyn Fn(DownloadEvent<'_>) + Send + Sync),
) -> Result<Downloaded, LoadError> {
    let snapshot = source.resolve(model).await?;
    let entries = snapshot.files();
    let gguf = model.file().or_else(|| only_gguf(entries));
    let mut files = ModelFiles { gguf: gguf.map(Into::into), ..ModelFiles::default() };

    // A GGUF file brings its own tokenizer and config.
    let index_name = index_file(entries).filter(|_| gguf.is_none());
    let small = match gguf {
        Some(_) => Vec::new(),
        None => [
            processor_files(entries),
            config_files(entries),
            index_name.map(Into::into).into_iter().collect(),
        ]
        .concat(),
    };
    // Without usable weights nothing is fetched at all; a sharded checkpoint needs its index to tell.
    if index_name.is_none() {
        weight_files(entries, None, gguf)?;
    }
    if let Some(gguf) = gguf
        && let Some(config) = check_ahead(&*snapshot, gguf, blocking).await?
    {
        check(&config)?;
    }
    fetch_all(&*snapshot, small, &mut files, observer).await?;
    if let Some(config) = files.json("config.json")? {
        check(&config)?;
    }
    let index = index_name.map(|name| files.json(name)).transpose()?.flatten();
    let weights = weight_files(entries, index.as_ref(), gguf)?;
    fetch_all(&*snapshot, weights, &mut files, observer).await?;
    Ok(Downloaded { commit: snapshot.commit().map(Into::into), files })
}

async fn fetch_all(
    snapshot: &dyn Snapshot,
    names: Vec<String>,
    files: &mut ModelFiles,
    observer: &(dyn Fn(DownloadEvent<'_>) + Send + Sync),
) -> Result<(), LoadError> {
    let fetch = |name: String| async move {
        let size = snapshot.files().iter().find(|file| file.name == name).and_then(|file| file.size);
        observer(DownloadEvent::Started { name: &name, size });
        let on_bytes = |done, size| observer(DownloadEvent::Bytes { name: &name, done, size });
        let file = snapshot.fetch(&name, &on_bytes).await?;
        observer(DownloadEvent::Finished { name: &name });
        Ok::<_, LoadError>((name, file))
    };
    let fetched =
        stream::iter(names).map(fetch).buffer_unordered(FILES_AT_ONCE).try_collect::<Vec<_>>().await?;
    files.files.extend(fetched);
    Ok(())
}
