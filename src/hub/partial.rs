//! A blob that is not whole yet: the bytes that have arrived, and their digest.
//!
//! Holds the lock of its blob. Bytes are written on a blocking thread that owns this value; when the transfer's future is
//! dropped, that thread writes out what it was given and only then lets the lock go, so the next one to take it finds a
//! file that nobody writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use candlewick_engine::LoadError;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::cache::{BlobLock, create_parent, io_error};
use crate::room::{free_bytes, is_no_room, no_room};

/// `<etag>.incomplete`.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    /// Bytes of the whole, if known.
    size: Option<u64>,
    /// Digest of the `len` bytes, if one is wanted.
    hasher: Option<Sha256>,
    lock: BlobLock,
}

impl Partial {
    /// Opens what is there, or begins. Blocks: with a digest wanted, what is there is read once.
    pub(crate) fn open(
        path: PathBuf,
        size: Option<u64>,
        wants_digest: bool,
        lock: BlobLock,
    ) -> Result<Self, LoadError> {
        create_parent(&path)?;
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(|error| io_error(&path, &error))?;
        let read = match wants_digest {
            true => digest(&mut file).map(|(len, hasher)| (len, Some(hasher))),
            false => file.seek(SeekFrom::End(0)).map(|len| (len, None)),
        };
        let (len, hasher) = read.map_err(|error| io_error(&path, &error))?;
        Ok(Self { path, file, len, size, hasher, lock })
    }

    /// Whether the disk has room for the rest, as far as both are known. Blocks.
    pub(crate) fn check_room(&self) -> Result<(), LoadError> {
        self.check_room_of(self.path.parent().and_then(free_bytes))
    }

    fn check_room_of(&self, free: Option<u64>) -> Result<(), LoadError> {
        match (self.num_missing(), free) {
            (Some(missing), Some(free)) if free < missing => {
                Err(no_room(&self.path, Some(missing), Some(free), None))
            }
            _ => Ok(()),
        }
    }

    fn num_missing(&self) -> Option<u64> {
        self.size.map(|size| size.saturating_sub(self.len))
    }

    fn write_error(&self, error: &io::Error) -> LoadError {
        if !is_no_room(error) {
            return io_error(&self.path, error);
        }
        no_room(&self.path, self.num_missing(), self.path.parent().and_then(free_bytes), Some(error))
    }

    /// Bytes that have arrived.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Forgets everything that has arrived.
    pub(crate) fn restart(&mut self) -> Result<(), LoadError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| io_error(&self.path, &error))?;
        self.len = 0;
        if let Some(hasher) = &mut self.hasher {
            hasher.reset();
        }
        Ok(())
    }

    /// Appends what comes until nothing more does. Blocks.
    pub(crate) fn append_all(mut self, mut chunks: mpsc::Receiver<Bytes>) -> Result<Self, LoadError> {
        while let Some(chunk) = chunks.blocking_recv() {
            self.file.write_all(&chunk).map_err(|error| self.write_error(&error))?;
            self.len += chunk.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&chunk);
            }
        }
        Ok(self)
    }

    /// The digest of what has arrived, in lower-case hex, if it was wanted.
    pub(crate) fn sha256(&self) -> Option<String> {
        let digest = self.hasher.clone()?.finalize();
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Becomes the blob. The lock is given back for the caller to hold until the blob is linked.
    pub(crate) fn finish(self, blob: &Path) -> Result<BlobLock, LoadError> {
        std::fs::rename(&self.path, blob).map_err(|error| io_error(blob, &error))?;
        Ok(self.lock)
    }
}

fn digest(file: &mut File) -> io::Result<(u64, Sha256)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((len, hasher)),
            count => {
                hasher.update(&buffer[..count]);
                len += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::RepoCache;

    #[tokio::test]
    async fn what_does_not_fit_the_disk_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = RepoCache::new(folder.path(), "org/m");
        let lock = cache.lock("e7a9").await.expect("nobody has it");
        let path = cache.partial("e7a9");
        let partial = Partial::open(path.clone(), Some(5000), false, lock).expect("it begins");
        assert!(partial.check_room_of(Some(5000)).is_ok() && partial.check_room_of(None).is_ok());
        let error = partial.check_room_of(Some(4999)).expect_err("one byte too few").to_string();
        assert!(error.contains(path.to_str().expect("plain")), "{error}");
        assert!(error.contains("5000 bytes are still to come, and 4999 are free"), "{error}");
        assert!(partial.check_room().is_ok(), "the disk of the test has so much");
    }
}
