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

/// `<etag>.incomplete`.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    /// Digest of the `len` bytes, if one is wanted.
    hasher: Option<Sha256>,
    lock: BlobLock,
}

impl Partial {
    /// Opens what is there, or begins. Blocks: with a digest wanted, what is there is read once.
    pub(crate) fn open(path: PathBuf, wants_digest: bool, lock: BlobLock) -> Result<Self, LoadError> {
        create_parent(&path)?;
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(|error| io_error(&path, &error))?;
        let read = match wants_digest {
            true => digest(&mut file).map(|(len, hasher)| (len, Some(hasher))),
            false => file.seek(SeekFrom::End(0)).map(|len| (len, None)),
        };
        let (len, hasher) = read.map_err(|error| io_error(&path, &error))?;
        Ok(Self { path, file, len, hasher, lock })
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
            self.file.write_all(&chunk).map_err(|error| io_error(&self.path, &error))?;
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
