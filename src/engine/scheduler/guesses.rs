//! What a step has left goes to guesses at what sequences will say next.
//!
//! Nobody waits for a guess: they get the tokens and blocks that are left when everything known has its own. A block that
//! was taken for guesses alone is given back in `apply` if they were wrong, so a guess leaves nothing behind.

use std::time::Duration;

use super::tracked::Tracked;
use super::{Outline, Scheduler};
use crate::pace::Pace;
use crate::speculation::{Acceptance, Asking, SpeculationLimits};
use crate::{SampledToken, StepPlan};

/// What is known of guesses.
pub(super) struct Speculating {
    pub limits: SpeculationLimits,
    pub acceptance: Acceptance,
    /// Of steps that sample after each of their tokens. A guess is sampled after, and so takes longer than a token of a
    /// prompt: the head computes the scores of a whole vocabulary for it.
    pub pace: Pace,
    /// Of the draft model, if there is one.
    pub asking: Option<Asking>,
    pub num_drafts: u64,
    pub num_draft_tokens: u64,
    pub num_accepted_tokens: u64,
}

impl Speculating {
    pub fn new(limits: SpeculationLimits) -> Self {
        let acceptance = Acceptance::of_all(limits);
        Self {
            limits,
            acceptance,
            pace: Pace::new(),
            asking: None,
            num_drafts: 0,
            num_draft_tokens: 0,
            num_accepted_tokens: 0,
        }
    }

    /// Learns from how long a step took, if it tells what guesses cost.
    pub fn note_time(&mut self, plan: &StepPlan, elapsed: Duration) {
        let num_sampled: usize = plan.chunks.iter().map(|chunk| chunk.samples.len()).sum();
        if num_sampled == plan.num_tokens() {
            self.pace.note(num_sampled, elapsed);
        }
        if let Some(asking) = &mut self.asking {
            asking.note_step(elapsed);
        }
    }

    /// Learns from what came of a sequence's step.
    pub fn learn(&mut self, tracked: &mut Tracked, num_drafted: usize, sampled: &[SampledToken]) {
        if num_drafted > 0 {
            self.num_drafts += 1;
            self.num_draft_tokens += num_drafted as u64;
            self.num_accepted_tokens += sampled.len().saturating_sub(1) as u64;
        }
        if let Some(speculation) = &mut tracked.speculation {
            speculation.check(sampled.iter().map(|token| token.token_id), &mut self.acceptance);
        }
    }
}

impl Scheduler {
    /// Adds guesses to what is planned, as far as they pay. Beside prompts they do not: arithmetic is the bottleneck of a
    /// step that reads any.
    pub(super) fn add_guesses(&mut self, outline: &mut Outline) {
        let Some(Speculating { limits, acceptance, pace, .. }) = &self.speculation else { return };
        let mut num_tokens: usize = outline.grants.iter().map(|grant| grant.num_tokens).sum();
        let num_decoding = outline.grants.len();
        if num_tokens > num_decoding {
            return;
        }
        for grant in &mut outline.grants {
            let tracked = self.running.get_mut(&grant.ticket).expect("only who runs is granted tokens");
            if !tracked.is_guessed() {
                continue;
            }
            tracked.guess(*limits, acceptance);
            let end = tracked.num_computed + grant.num_tokens;
            let num_slots = (tracked.blocks.len() + self.blocks.num_free()) * self.limits.block_size - end;
            let draft = tracked.draft(pace, num_tokens, num_decoding);
            let num = draft.len().min(outline.num_tokens_left).min(num_slots);
            grant.draft = draft[..num].to_vec();

            let num_blocks = (end + num).div_ceil(self.limits.block_size);
            while tracked.blocks.len() < num_blocks {
                tracked.blocks.push(self.blocks.allocate().expect("so many blocks are free"));
            }
            outline.num_tokens_left -= num;
            num_tokens += num;
        }
    }
}
