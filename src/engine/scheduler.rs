//! Which tokens are computed next. There is no prefill phase and no decode phase: a sequence has tokens known and tokens
//! computed, and each step lets the second catch up with the first, within a budget of tokens and blocks.

use crate::{SampledToken, Sequence, SequenceEnd, SequenceId, StepOutcome, StepPlan, TokenScore};

/// What a scheduler must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most sequences with tokens in flight.
    pub max_running: usize,
    /// Most tokens computed in one step.
    pub max_step_tokens: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub num_blocks: usize,
}

/// What a step meant for one sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// The prompt's scores are complete: one for each prompt token but the first.
    PromptScored {
        /// Whose prompt.
        sequence: SequenceId,
        /// One for each prompt token but the first.
        scores: Vec<TokenScore>,
    },
    /// A token was generated; with `end` it was the last, and the sequence is gone.
    Sampled {
        /// Whose token.
        sequence: SequenceId,
        /// The token.
        token: SampledToken,
        /// Why the sequence is complete, if it is.
        end: Option<SequenceEnd>,
    },
    /// A sequence that was to generate nothing (`max_tokens` 0) is complete.
    Complete {
        /// Which.
        sequence: SequenceId,
    },
}

/// How busy a scheduler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCounts {
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Sequences that wait for a place, paused ones without blocks included.
    pub num_waiting: usize,
    /// Sequences whose reader is slow.
    pub num_paused: usize,
    /// Blocks in use.
    pub num_blocks_used: usize,
    /// Blocks in all.
    pub num_blocks: usize,
    /// Sequences that had to give their blocks back, since the start.
    pub num_preemptions: u64,
}

/// Pure state: sequences and blocks in, plans out. No clock, no thread, no tensor.
pub struct Scheduler {}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(_limits: SchedulerLimits) -> Self {
        todo!()
    }

    /// Whether a sequence of so many tokens, prompt and output, could ever run here.
    pub fn can_ever_fit(&self, _num_tokens: usize) -> bool {
        todo!()
    }

    /// Takes a sequence in. It waits until a plan includes it.
    pub fn admit(&mut self, _sequence: Sequence) {
        todo!()
    }

    /// Forgets a sequence and frees its blocks; `false` if it is not here. Safe while a step with it is in flight: what
    /// that step says of it is then ignored.
    pub fn cancel(&mut self, _id: SequenceId) -> bool {
        todo!()
    }

    /// Stops planning a sequence whose reader is slow. It keeps its place, and its blocks until others need them.
    pub fn pause(&mut self, _id: SequenceId) {
        todo!()
    }

    /// Plans a paused sequence again.
    pub fn resume(&mut self, _id: SequenceId) {
        todo!()
    }

    /// The next step, or `None` if there is nothing to compute. Must be followed by `apply` before the next `plan`.
    pub fn plan(&mut self) -> Option<StepPlan> {
        todo!()
    }

    /// Takes in what came of the plan: tokens become known, sequences end, blocks are freed.
    pub fn apply(&mut self, _plan: &StepPlan, _outcome: StepOutcome) -> Vec<News> {
        todo!()
    }

    /// How busy it is.
    pub fn counts(&self) -> SchedulerCounts {
        todo!()
    }

    /// Every sequence that is here, in no particular order.
    pub fn sequences(&self) -> Vec<SequenceId> {
        todo!()
    }
}
