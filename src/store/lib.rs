//! Responses on disk: one SQLite database in a folder of its own.
//!
//! This is the only room that knows SQLite, and everything in it blocks; `actors` keeps it off the threads that must not.
//! Invariants: each method is one transaction, so a process that is killed between or within two of them leaves whole
//! entries behind; a folder has one [`Store`] at a time, held by a lock that ends with its process; what has expired is
//! not found, whether or not it was swept away yet.

mod folder;
mod responses;
mod schema;

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use self::folder::FolderLock;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder.
    #[error(
        "the data folder {} is in use by another process; give each server a folder of its own",
        .0.display()
    )]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("the data folder {} cannot be used: {why}", dir.display())]
    Folder {
        /// Which.
        dir: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// A later version wrote it.
    #[error(
        "the database has version {found}, and this program knows version {known}; use the newer program"
    )]
    Newer {
        /// What is there.
        found: i64,
        /// What this program writes.
        known: i64,
    },
    /// A response that is a link of the chain is gone.
    #[error("the response `{0}` is not stored: it was never stored, was deleted, or has expired")]
    Missing(String),
    /// An entry cannot be read.
    #[error("an entry of the database cannot be read")]
    Unreadable(#[from] serde_json::Error),
    /// SQLite says no: the disk is full, the file is damaged.
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
}

/// The database of one data folder.
pub struct Store {
    connection: Connection,
    _lock: FolderLock,
}

impl Store {
    /// Opens the database of a folder, which is made if it is not there: for this user alone, since it will hold what
    /// people said.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = FolderLock::take(dir)?;
        let connection = Connection::open(dir.join(schema::FILE))?;
        schema::prepare(&connection)?;
        Ok(Self { connection, _lock: lock })
    }
}
