//! What a background response has said so far, for those who follow it.
//!
//! Followers read from the log at their own pace: nothing is queued for any of them, however many they are and however
//! slow. Invariant: an entry is on disk before it is in the log, so that nobody has seen what a crash could take back.

use std::sync::{Arc, PoisonError, RwLock};

use candlewick_protocol::LoggedEvent;
use tokio::sync::watch;

/// The log, where it is read.
#[derive(Clone)]
pub struct JobLog {
    entries: Arc<RwLock<Vec<LoggedEvent>>>,
    num_entries: watch::Receiver<usize>,
}

/// The log, where it is written; dropped when nothing more will come.
pub struct JobLogWriter {
    entries: Arc<RwLock<Vec<LoggedEvent>>>,
    num_entries: watch::Sender<usize>,
}

/// An empty log.
impl Default for JobLogWriter {
    fn default() -> Self {
        Self { entries: Arc::default(), num_entries: watch::Sender::new(0) }
    }
}

impl JobLogWriter {
    /// Where it is read.
    pub fn reader(&self) -> JobLog {
        JobLog { entries: self.entries.clone(), num_entries: self.num_entries.subscribe() }
    }

    /// Entries so far.
    pub fn num_entries(&self) -> usize {
        *self.num_entries.borrow()
    }

    /// Adds entries that are on disk.
    pub fn publish(&self, entries: Vec<LoggedEvent>) {
        let mut log = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        log.extend(entries);
        let num_entries = log.len();
        drop(log);
        self.num_entries.send_replace(num_entries);
    }
}

/// Reads a log from its beginning, and waits for what is to come.
pub struct Follower {
    log: JobLog,
    next: usize,
}

impl JobLog {
    /// Reads it from its beginning.
    pub fn follow(&self) -> Follower {
        Follower { log: self.clone(), next: 0 }
    }
}

impl Follower {
    /// The next entry; `None` when nothing more will come.
    pub async fn next(&mut self) -> Option<LoggedEvent> {
        // What was published before the writer ended is still to be read, so the answer does not matter here.
        let _ = self.log.num_entries.wait_for(|&num_entries| num_entries > self.next).await;
        let entry = self.log.entries.read().unwrap_or_else(PoisonError::into_inner).get(self.next).cloned();
        self.next += 1;
        entry
    }
}

#[cfg(test)]
mod tests {
    use candlewick_protocol::{Event, Finished, Usage};

    use super::*;

    fn entry(at: u64) -> LoggedEvent {
        LoggedEvent { at, event: Event::Finished(Finished { usage: Usage::default() }) }
    }

    #[tokio::test]
    async fn a_late_follower_gets_everything_and_then_what_comes() {
        let writer = JobLogWriter::default();
        writer.publish(vec![entry(1), entry(2)]);
        let mut follower = writer.reader().follow();
        assert_eq!(follower.next().await, Some(entry(1)));
        assert_eq!(follower.next().await, Some(entry(2)));
        let (next, ()) = tokio::join!(follower.next(), async { writer.publish(vec![entry(3)]) });
        assert_eq!(next, Some(entry(3)));
        writer.publish(vec![entry(4)]);
        drop(writer);
        assert_eq!(follower.next().await, Some(entry(4)), "what was said before the end is not lost");
        assert_eq!(follower.next().await, None);
        assert_eq!(follower.next().await, None);
    }
}
