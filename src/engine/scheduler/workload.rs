//! What is left to do: for those who foretell how long it takes.

use super::Scheduler;
use super::tracked::Tracked;

/// What is yet to be computed, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workload {
    /// Of sequences that have a place.
    pub running: Vec<SequenceWork>,
    /// Of those that wait for one, in the order of favour.
    pub waiting: Vec<SequenceWork>,
}

/// What is yet to be computed of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceWork {
    /// Tokens that are known and not computed.
    pub num_missing: usize,
    /// Tokens that were generated.
    pub num_output: usize,
    /// Most that may be.
    pub num_output_max: usize,
}

impl Scheduler {
    /// What is left to do.
    pub fn workload(&self) -> Workload {
        let of = |tracked: &Tracked| SequenceWork {
            num_missing: tracked.num_missing(),
            num_output: tracked.sequence.output.len(),
            num_output_max: tracked.sequence.params.max_tokens as usize,
        };
        Workload {
            running: self.running.values().map(of).collect(),
            waiting: self.waiting.values().map(of).collect(),
        }
    }
}
