//! The cache folder of one repository, in the layout of Python's `huggingface_hub`.
//!
//! ```text
//! models--org--name/
//!   blobs/<etag>                    the content, named by it
//!   blobs/<etag>.incomplete         what has arrived of it; written only under the lock of that etag
//!   refs/<branch>                   the commit that the branch was last seen at
//!   snapshots/<commit>/<file>       relative link to the blob
//! .locks/models--org--name/<etag>.lock
//! ```
//!
//! A name under `snapshots` exists only once its blob is whole, so whoever finds a file may read it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use candlewick_engine::{FileEntry, LoadError, files};
use candlewick_protocol::ModelRef;

/// How often a lock held by somebody else is tried again; the poll interval of Python's `filelock` is about this.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// An I/O error with the file at fault.
pub(crate) fn io_error(path: &Path, error: &io::Error) -> LoadError {
    LoadError::Io { path: path.into(), why: error.to_string() }
}

/// Whether a revision is a commit, which never moves.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a path stays within the folder that it is joined to.
pub(crate) fn is_safe_path(path: &str) -> bool {
    !path.is_empty() && !path.contains('\\') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// One repository's part of the cache.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    cache_dir: PathBuf,
    folder: String,
}

impl RepoCache {
    pub(crate) fn new(cache_dir: &Path, repo: &str) -> Self {
        Self { cache_dir: cache_dir.into(), folder: format!("models--{}", repo.replace('/', "--")) }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.cache_dir.join(&self.folder)
    }

    pub(crate) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.dir().join("snapshots").join(commit)
    }

    pub(crate) fn pointer(&self, commit: &str, name: &str) -> PathBuf {
        self.snapshot_dir(commit).join(name)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    pub(crate) fn partial(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit that a revision stands for as far as the cache knows.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = std::fs::read_to_string(self.dir().join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers where a branch is.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), LoadError> {
        let path = self.dir().join("refs").join(revision);
        create_parent(&path)?;
        std::fs::write(&path, commit).map_err(|error| io_error(&path, &error))
    }

    /// The files of a snapshot that are here; empty if there is no such snapshot.
    pub(crate) fn entries(&self, commit: &str) -> Vec<FileEntry> {
        folder_entries(&self.snapshot_dir(commit))
    }

    /// What a snapshot still lacks to be served without the network, if anything.
    ///
    /// The cache does not say what a commit holds, only what was fetched of it; but a load fetches weights last, so a
    /// snapshot with a tokenizer and whole weights has everything else that there was.
    pub(crate) fn missing(&self, commit: &str, model: &ModelRef) -> Option<String> {
        let entries = self.entries(commit);
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        let gguf = model.file().or_else(|| files::only_gguf(&entries));
        if gguf.is_none()
            && let Some(name) = ["config.json", "tokenizer.json"].into_iter().find(|name| !has(name))
        {
            return Some(format!("{name} is missing"));
        }
        let index = files::index_file(&entries).and_then(|name| read_json(&self.pointer(commit, name)));
        match files::weight_files(&entries, index.as_ref(), gguf) {
            Err(LoadError::NotFound(why)) => Some(why),
            // Weights that will be refused are refused by the loader, in its words.
            Ok(_) | Err(_) => None,
        }
    }

    /// Makes a blob visible in a snapshot.
    pub(crate) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<PathBuf, LoadError> {
        let pointer = self.pointer(commit, name);
        create_parent(&pointer)?;
        // A link that points nowhere would be in the way.
        if let Err(error) = std::fs::remove_file(&pointer)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(io_error(&pointer, &error));
        }
        let depth = 2 + name.matches('/').count();
        let target = format!("{}blobs/{etag}", "../".repeat(depth));
        match make_link(&target, &self.blob(etag), &pointer) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io_error(&pointer, &error)),
            _ => Ok(pointer),
        }
    }

    /// Waits until nobody else writes this blob. The lock is Python's: `flock` on a file under `.locks`.
    pub(crate) async fn lock(&self, etag: &str) -> Result<BlobLock, LoadError> {
        let path = self.cache_dir.join(".locks").join(&self.folder).join(format!("{etag}.lock"));
        create_parent(&path)?;
        let mut waited = false;
        loop {
            let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
            let file = open.map_err(|error| io_error(&path, &error))?;
            match file.try_lock() {
                Ok(()) if is_same_file(&file, &path) => return Ok(BlobLock { _file: file }),
                // The holder before us removed the lock file: ours is nobody's any more.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                // A file system without locks (some network mounts): one process at a time is then the user's part.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                    return Ok(BlobLock { _file: file });
                }
                Err(TryLockError::Error(error)) => return Err(io_error(&path, &error)),
            }
            if !waited {
                tracing::info!(lock = %path.display(), "another process downloads this file: waiting for it");
                waited = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// Held while a blob is written; given back when dropped.
#[derive(Debug)]
pub(crate) struct BlobLock {
    _file: File,
}

/// The files under a folder, links followed, in the order of their names. What cannot be read is left out.
pub(crate) fn folder_entries(folder: &Path) -> Vec<FileEntry> {
    // Deep enough for `additional_chat_templates/x.jinja` and `quant/q8/x.gguf`; bounded because links can make circles.
    const DEPTH_MAX: usize = 3;
    let mut entries = Vec::new();
    walk(folder, "", DEPTH_MAX, &mut entries);
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn walk(folder: &Path, prefix: &str, depth: usize, entries: &mut Vec<FileEntry>) {
    let Ok(children) = std::fs::read_dir(folder) else { return };
    for child in children.flatten() {
        let Ok(name) = child.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let path = child.path();
        match std::fs::metadata(&path) {
            Ok(data) if data.is_dir() && depth > 1 => {
                walk(&path, &format!("{prefix}{name}/"), depth - 1, entries)
            }
            Ok(data) if data.is_file() => {
                entries.push(FileEntry {
                    name: format!("{prefix}{name}"),
                    size: Some(data.len()),
                    cached: true,
                });
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(path = %path.display(), %error, "left out: it cannot be read"),
        }
    }
}

/// A JSON file, if it is there and is one.
pub(crate) fn read_json(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

pub(crate) fn create_parent(path: &Path) -> Result<(), LoadError> {
    let parent = path.parent().expect("a path within the cache has a parent");
    std::fs::create_dir_all(parent).map_err(|error| io_error(parent, &error))
}

#[cfg(unix)]
fn make_link(target: &str, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Links need a privilege on Windows; Python copies there too.
#[cfg(not(unix))]
fn make_link(_target: &str, blob: &Path, pointer: &Path) -> io::Result<()> {
    std::fs::copy(blob, pointer).map(drop)
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let here = file.metadata().map(|data| (data.dev(), data.ino()));
    let there = std::fs::metadata(path).map(|data| (data.dev(), data.ino()));
    matches!((here, there), (Ok(here), Ok(there)) if here == there)
}

#[cfg(not(unix))]
fn is_same_file(_file: &File, _path: &Path) -> bool {
    true
}
