//! Asking a draft model about what is planned next.

use super::Scheduler;
use super::guesses::Speculating;
use super::tracked::{Ticket, Tracked};
use crate::SequenceId;
use crate::speculation::{Asking, Candidate, DraftAsk, Drafts};

impl Scheduler {
    /// There is a draft model to be asked, or none any more. Nothing is guessed at all where speculation is off.
    pub fn set_drafting(&mut self, is_there: bool) {
        if let Some(speculation) = &mut self.speculation {
            speculation.asking = is_there.then(Asking::new);
        }
    }

    /// What to ask the draft model before the next plan: nothing, where that would not pay, or where a prompt is to be read beside.
    /// What it says is to be told to `take_drafts`, or the next plan goes without.
    pub fn plan_drafts(&mut self) -> Vec<DraftAsk> {
        let Some(Speculating { limits, acceptance, asking: Some(asking), pace, .. }) = &self.speculation
        else {
            return Vec::new();
        };
        let (mut candidates, mut tickets) = (Vec::<Candidate>::new(), Vec::<Ticket>::new());
        let mut num_decoding = 0;
        let active = self.running.iter_mut().filter(|(_, tracked)| !tracked.is_idle());
        for (&ticket, tracked) in active.take(self.limits.max_running) {
            if tracked.num_missing() > 1 {
                return Vec::new();
            }
            num_decoding += 1;
            if tracked.is_guessed()
                && let Some(candidate) = tracked.candidate(*limits, acceptance)
            {
                candidates.push(candidate);
                tickets.push(ticket);
            }
        }
        let (num_asked, num_tokens) = asking.how_much(&candidates, pace, num_decoding);
        if num_asked == 0 || num_decoding < self.limits.max_running && self.next_to_admit().is_some() {
            return Vec::new();
        }
        let asked = tickets.iter().zip(&candidates).take(num_asked);
        asked.map(|(ticket, candidate)| self.running[ticket].ask(num_tokens.min(candidate.num_max))).collect()
    }

    /// Most tokens of texts that the draft model is to read before the next plan: as many as delay nobody for longer than is
    /// wished.
    pub fn num_draft_tokens_max(&self) -> usize {
        let num_max = self.limits.max_step_tokens;
        let asking = self.speculation.as_ref().and_then(|speculation| speculation.asking.as_ref());
        match (asking, self.limits.max_inter_token) {
            (Some(asking), Some(elapsed_max)) => asking.pace().num_beside(0, elapsed_max, num_max),
            _ => num_max,
        }
    }

    /// The draft model has answered.
    pub fn take_drafts(&mut self, drafts: Drafts) {
        let Some(Speculating { asking: Some(asking), .. }) = &mut self.speculation else { return };
        asking.note(&drafts);
        for (id, token_ids) in drafts.guesses {
            // It may have been cancelled meanwhile, or have lost its blocks.
            if let Some(tracked) = self.running_mut(id) {
                tracked.note_draft(token_ids);
            }
        }
    }

    fn running_mut(&mut self, id: SequenceId) -> Option<&mut Tracked> {
        self.running.get_mut(self.tickets.get(&id)?)
    }
}
