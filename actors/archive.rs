//! The store, kept off the threads that must not wait for a disk.
//!
//! Everything goes through one door: whoever has the turn works on the blocking pool, and the others wait for theirs
//! without holding a thread. So there is one writer, and what is awaited has been written.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use candlewick_protocol::{ErrorKind, Failure, LoggedEvent, ResponseRecord, StoredResponse};
use candlewick_store::{Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Where responses are kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// The data folder.
    pub dir: PathBuf,
    /// How long a response is kept; `None` keeps it for ever.
    pub ttl: Option<Duration>,
}

/// Why there is no archive.
#[derive(Debug)]
pub struct ArchiveError {
    /// Whether another process has the folder, which is no fault of the folder.
    pub is_in_use: bool,
    text: String,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ArchiveError {}

/// Responses on disk. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    store: Arc<Mutex<Store>>,
    /// One permit.
    turn: Arc<Semaphore>,
    ttl: Option<Duration>,
    runtime: Handle,
}

impl Archive {
    /// Opens the data folder, which is made if it is not there. Blocks.
    ///
    /// # Panics
    /// Outside of a tokio runtime, whose blocking pool does the work.
    pub fn open(settings: &ArchiveSettings) -> Result<Self, ArchiveError> {
        let store = Store::open(&settings.dir).map_err(|error| ArchiveError {
            is_in_use: matches!(error, StoreError::InUse(_)),
            text: in_full(&error),
        })?;
        Ok(Self {
            store: Arc::new(Mutex::new(store)),
            turn: Arc::new(Semaphore::new(1)),
            ttl: settings.ttl,
            runtime: Handle::current(),
        })
    }

    /// Keeps a response, with what has happened so far.
    pub async fn create(&self, record: ResponseRecord, log: Vec<LoggedEvent>) -> Result<(), Failure> {
        let expires_at = self.ttl.map(|ttl| record.created_at.saturating_add(ttl.as_secs()));
        self.work(move |store| store.create(&record, &log, expires_at)).await
    }

    /// Adds to a response's log, of which `first` entries are there already.
    pub async fn append(&self, id: String, first: usize, entries: Vec<LoggedEvent>) -> Result<(), Failure> {
        self.work(move |store| store.append(&id, first, &entries)).await
    }

    /// A response, if it is there.
    pub async fn read(&self, id: String) -> Result<Option<StoredResponse>, Failure> {
        self.work(move |store| store.read(&id, now())).await
    }

    /// A response and all that it goes on from, oldest first; `Err` within names the first that is not there.
    pub async fn chain(&self, id: String) -> Result<Result<Vec<StoredResponse>, String>, Failure> {
        self.work(move |store| match store.chain(&id, now()) {
            Ok(chain) => Ok(Ok(chain)),
            Err(StoreError::Missing(id)) => Ok(Err(id)),
            Err(error) => Err(error),
        })
        .await
    }

    /// Deletes a response. Returns whether it was there.
    pub async fn delete(&self, id: String) -> Result<bool, Failure> {
        self.work(move |store| store.delete(&id, now())).await
    }

    /// Ends every response that has not had its last word. Returns how many there were.
    pub async fn end_unfinished(&self, failure: Failure) -> Result<usize, Failure> {
        self.work(move |store| store.end_unfinished(&failure, now())).await
    }

    /// Deletes what has expired. Returns how many there were.
    pub async fn sweep(&self) -> Result<usize, Failure> {
        self.work(|store| store.sweep(now())).await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.turn.clone().acquire_owned().await.expect("the semaphore is never closed");
        let store = self.store.clone();
        let done = self.runtime.spawn_blocking(move || {
            let _turn = turn;
            // A panic within a transaction rolled it back: the store is as good as before.
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                tracing::error!("the store of responses failed: {}", in_full(&error));
                Err(broken())
            }
            Err(error) => {
                tracing::error!("the store of responses failed: {error}");
                Err(broken())
            }
        }
    }
}

/// The particulars are the operator's, in the log.
fn broken() -> Failure {
    Failure::new(ErrorKind::Internal, "the server could not read or write its store of responses")
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
