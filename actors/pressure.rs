//! What is given up as memory runs out, in which order, and who asks whether it has. Deciding here is pure; measuring and acting
//! is `memory_watch.rs`'s.
//!
//! ```text
//! used   0.80   cached prefixes are dropped, and blocks of the KV cache that nobody holds go back to the system
//!        0.85   prompts that would take much of what is left are refused
//!        0.90   models that nobody uses are unloaded, the one idle longest first, one at a time
//!        0.95   every new request is refused (503)
//! ```
//!
//! One step at a time: what costs less is given a moment to help before what costs more. What runs goes on throughout, but for
//! answers that are held until they are whole: from the last step on, one that takes much of what is left is given up.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use candlewick_protocol::{ErrorKind, Failure};

use crate::memory::{Megabytes, MemoryUse};

/// How far a step's threshold has to be left behind before the step is taken back: memory that hovers does not make it flap.
const HYSTERESIS: f64 = 0.03;

/// Under pressure, a prompt may take this part of what is left.
const PROMPT_SHARE_MAX: u64 = 4;

/// When nothing new is let in, an answer that is held may be this part of what is left. Its JSON takes as much again.
const ANSWER_SHARE_MAX: u64 = 4;

/// When a client that was refused may come again: some steps later.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How much is given up; each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing.
    #[default]
    Easy,
    /// What was cached of prompts.
    DropPrefixes,
    /// Long prompts.
    NoLongPrompts,
    /// Models that nobody uses.
    UnloadIdle,
    /// New requests.
    Refuse,
}

impl Level {
    /// The steps in their order.
    pub const STEPS: [Self; 4] = [Self::DropPrefixes, Self::NoLongPrompts, Self::UnloadIdle, Self::Refuse];

    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::DropPrefixes => "drop_prefixes",
            Self::NoLongPrompts => "no_long_prompts",
            Self::UnloadIdle => "unload_idle",
            Self::Refuse => "refuse",
        }
    }

    /// In the log.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Easy => "nothing is given up any more",
            Self::DropPrefixes => "what was cached of prompts is dropped",
            Self::NoLongPrompts => "long prompts are refused",
            Self::UnloadIdle => "models that nobody uses are unloaded",
            Self::Refuse => "new requests are refused",
        }
    }

    /// The part of memory in use from which on it is taken.
    pub const fn threshold(self) -> f64 {
        match self {
            Self::Easy => 0.0,
            Self::DropPrefixes => 0.80,
            Self::NoLongPrompts => 0.85,
            Self::UnloadIdle => 0.90,
            Self::Refuse => 0.95,
        }
    }

    /// The level after a measurement: one step up or down at most.
    pub fn after(self, share: f64) -> Self {
        let index = self as usize;
        match Self::STEPS.get(index) {
            Some(next) if share >= next.threshold() => *next,
            _ if self > Self::Easy && share < self.threshold() - HYSTERESIS => {
                Self::STEPS.get(index.wrapping_sub(2)).copied().unwrap_or_default()
            }
            _ => self,
        }
    }

    fn of_index(index: u8) -> Self {
        Self::STEPS.get(usize::from(index).wrapping_sub(1)).copied().unwrap_or_default()
    }
}

/// The level of the moment, where those look who would let something in.
#[derive(Debug)]
pub struct Pressure {
    level: AtomicU8,
    free_bytes: AtomicU64,
}

impl Pressure {
    pub fn new() -> Self {
        Self { level: AtomicU8::new(Level::Easy as u8), free_bytes: AtomicU64::new(u64::MAX) }
    }

    pub fn level(&self) -> Level {
        Level::of_index(self.level.load(Ordering::Relaxed))
    }

    /// Takes note of a measurement. The level before and after it.
    pub fn observe(&self, tightest: &MemoryUse) -> (Level, Level) {
        let before = self.level();
        let after = before.after(tightest.share());
        self.free_bytes.store(tightest.free_bytes(), Ordering::Relaxed);
        self.level.store(after as u8, Ordering::Relaxed);
        (before, after)
    }

    /// Whether a new request may come in.
    pub fn admit(&self) -> Result<(), Failure> {
        if self.level() < Level::Refuse {
            return Ok(());
        }
        let message = "memory is nearly used up: what was begun is finished first; come again later";
        Err(Failure::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER))
    }

    /// Whether an answer that is held until it is whole may grow: it has come to so many bytes.
    pub fn admit_answer(&self, num_bytes: u64) -> Result<(), Failure> {
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        if self.level() < Level::Refuse || num_bytes <= free_bytes / ANSWER_SHARE_MAX {
            return Ok(());
        }
        let message = format!(
            "memory is nearly used up, and the answer has come to {}, which are held until it is whole: fewer choices or \
             log-probabilities take less, and a stream (`stream`) takes none",
            Megabytes(num_bytes)
        );
        Err(Failure::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER))
    }

    /// Whether a prompt whose keys and values take so much may be computed.
    pub fn admit_prompt(&self, num_tokens: u64, kv_bytes: u64) -> Result<(), Failure> {
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        if self.level() < Level::NoLongPrompts || kv_bytes <= free_bytes / PROMPT_SHARE_MAX {
            return Ok(());
        }
        let message = format!(
            "memory is short: a prompt of {num_tokens} tokens takes {} of KV cache, and {} are left; a shorter prompt would be \
             answered, or come again later",
            Megabytes(kv_bytes),
            Megabytes(free_bytes)
        );
        Err(Failure::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_one_by_one_in_their_order_and_taken_back_with_some_delay() {
        let mut level = Level::Easy;
        let path: Vec<_> = [0.5, 0.99, 0.99, 0.99, 0.99, 0.99, 0.93, 0.91, 0.91, 0.5, 0.5, 0.5, 0.5]
            .into_iter()
            .map(|share| {
                level = level.after(share);
                level
            })
            .collect();
        use Level::*;
        let up = [Easy, DropPrefixes, NoLongPrompts, UnloadIdle, Refuse, Refuse];
        // 0.93 is within the delay of 0.95, and 0.91 not any more, but above the threshold of the step below.
        let down = [Refuse, UnloadIdle, UnloadIdle, NoLongPrompts, DropPrefixes, Easy, Easy];
        assert_eq!(path, [&up[..], &down].concat());
    }

    #[test]
    fn what_costs_less_is_all_that_happens_where_it_helps() {
        assert_eq!(Level::Easy.after(0.82), Level::DropPrefixes);
        assert_eq!(Level::DropPrefixes.after(0.82), Level::DropPrefixes);
        assert_eq!(Level::DropPrefixes.after(0.78), Level::DropPrefixes, "it hovers");
        assert_eq!(Level::DropPrefixes.after(0.76), Level::Easy);
    }

    #[test]
    fn only_prompts_that_take_much_of_what_is_left_are_long() {
        let pressure = Pressure::new();
        let measure = |used_bytes| MemoryUse { whose: "the test", limit_bytes: 100_000_000, used_bytes };
        assert!(pressure.admit_prompt(9, u64::MAX).is_ok(), "nothing was measured yet");
        assert!(pressure.admit_answer(u64::MAX).is_ok(), "nor is an answer given up before");
        for _ in 0..2 {
            pressure.observe(&measure(88_000_000));
        }
        assert_eq!(pressure.level(), Level::NoLongPrompts);
        assert!(pressure.admit_prompt(9, 3_000_000).is_ok() && pressure.admit().is_ok());
        let failure = pressure.admit_prompt(9, 3_000_001).expect_err("a quarter of what is left is less");
        assert!(failure.message.contains("4 MB of KV cache, and 12 MB are left"), "{failure}");
        assert!(failure.retry_after.is_some());
        for _ in 0..2 {
            pressure.observe(&measure(96_000_000));
        }
        assert_eq!(pressure.admit().expect_err("no more").kind, ErrorKind::Unavailable);
        assert!(pressure.admit_answer(1_000_000).is_ok(), "4 MB are left");
        let failure = pressure.admit_answer(1_000_001).expect_err("more than a quarter of them");
        assert!(failure.kind == ErrorKind::Unavailable && failure.message.contains("`stream`"), "{failure}");
    }
}
