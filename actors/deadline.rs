//! Until when a request is worth working on.

use std::time::Duration;

use candlewick_protocol::{ErrorKind, Failure};
use tokio::time::Instant;

/// When a request is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The time that it was given.
    timeout: Duration,
    /// The end of that time.
    at: Instant,
}

/// How far a request had come when its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Its model was not in memory.
    Load,
    /// Its prompt was read, or it waited for a place in the batch.
    Queue,
    /// Its texts were being encoded.
    Encoding {
        /// Those that were.
        num_encoded: usize,
        /// All of them.
        num_texts: usize,
    },
    /// It was being computed, and so many tokens were generated.
    Generation {
        /// Tokens of all its choices.
        num_tokens: u64,
    },
}

impl Deadline {
    /// Of a request that has just come: by its own wish, and by the server's. The shorter one holds.
    pub fn from_now(own: Option<Duration>, servers: Option<Duration>) -> Option<Self> {
        let timeout = own.into_iter().chain(servers).min()?;
        // One that is too far away to be told is none.
        Instant::now().checked_add(timeout).map(|at| Self { timeout, at })
    }

    /// The moment.
    pub fn at(self) -> Instant {
        self.at
    }

    /// Whether it has passed by then.
    pub fn has_passed(self, now: Instant) -> bool {
        now >= self.at
    }

    /// What the client is told.
    pub fn failure(self, reached: Reached) -> Failure {
        let timeout = self.timeout.as_secs_f64();
        let message = match reached {
            Reached::Load => {
                format!("the request's timeout of {timeout} s passed while its model was being loaded")
            }
            Reached::Queue => format!(
                "the request's timeout of {timeout} s passed while it waited for a place in the batch: nothing of it was \
                 generated"
            ),
            Reached::Encoding { num_encoded, num_texts } => format!(
                "the request's timeout of {timeout} s passed when {num_encoded} of its {num_texts} texts were encoded"
            ),
            Reached::Generation { num_tokens } => {
                format!(
                    "the request's timeout of {timeout} s passed after {num_tokens} tokens were generated"
                )
            }
        };
        Failure::new(ErrorKind::Timeout, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_time_holds() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
        let timeout = |own, servers| Deadline::from_now(own, servers).map(|deadline| deadline.timeout);
        assert_eq!(timeout(None, None), None);
        assert_eq!(timeout(Some(long), None), Some(long));
        assert_eq!(timeout(Some(long), Some(short)), Some(short));
        assert_eq!(timeout(Some(short), Some(long)), Some(short));
    }
}
