//! What a step has left goes to guesses at what sequences will say next.
//!
//! Nobody waits for a guess: they get the tokens and blocks that are left when everything known has its own. A block that
//! was taken for guesses alone is given back in `apply` if they were wrong, so a guess leaves nothing behind.

use super::tracked::Tracked;
use super::{Outline, Scheduler};
use crate::SampledToken;
use crate::speculation::{Acceptance, SpeculationLimits};

/// What is known of guesses.
pub(super) struct Speculating {
    pub limits: SpeculationLimits,
    pub acceptance: Acceptance,
    pub num_drafts: u64,
    pub num_draft_tokens: u64,
    pub num_accepted_tokens: u64,
}

impl Speculating {
    pub fn new(limits: SpeculationLimits) -> Self {
        let acceptance = Acceptance::of_all(limits);
        Self { limits, acceptance, num_drafts: 0, num_draft_tokens: 0, num_accepted_tokens: 0 }
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
    /// Adds guesses to what is planned, as far as they pay.
    pub(super) fn add_guesses(&mut self, outline: &mut Outline) {
        let Some(Speculating { limits, acceptance, .. }) = &self.speculation else { return };
        let mut num_tokens: usize = outline.grants.iter().map(|grant| grant.num_tokens).sum();
        let num_decoding =
            outline.grants.iter().filter(|grant| self.running[&grant.ticket].is_guessed()).count();
        for grant in &mut outline.grants {
            let tracked = self.running.get_mut(&grant.ticket).expect("only who runs is granted tokens");
            if !tracked.is_guessed() {
                continue;
            }
            tracked.guess(*limits, acceptance);
            let end = tracked.num_computed + grant.num_tokens;
            let num_slots = (tracked.blocks.len() + self.blocks.num_free()) * self.limits.block_size - end;
            let draft = tracked.draft(&self.pace, num_tokens, num_decoding);
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
