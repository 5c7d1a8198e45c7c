//! The batcher's part in guessing by a draft model: it is asked between two steps, while the model is at home.

use candlewick_engine::Drafts;

use super::BatcherState;
use crate::stepper::StepperGone;

/// How far the draft model is with the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drafting {
    /// It may be asked.
    Due,
    /// It is being asked; the model stays at home meanwhile.
    InFlight,
    /// It has been.
    Done,
}

impl BatcherState {
    /// Has the draft model guess for the next plan, once, if that would pay. Suspects are not guessed at: what breaks is to be
    /// theirs.
    pub(super) fn ask_draft_model(&mut self) -> Result<bool, StepperGone> {
        if std::mem::replace(&mut self.drafting, Drafting::Due) == Drafting::Done || !self.turns.is_empty() {
            return Ok(false);
        }
        let asks = self.scheduler.plan_drafts();
        if asks.is_empty() {
            return Ok(false);
        }
        let num_tokens_max = self.scheduler.num_draft_tokens_max();
        let num_guesses: usize = asks.iter().map(|ask| ask.num_max).sum();
        // It is the smaller one, so that steps of the large one tell how long it may take at most.
        let deadline = self.step_deadline(num_tokens_max + num_guesses);
        // Nobody is to blame for what becomes of it.
        self.vitals.begin_step(Vec::new(), deadline);
        self.drafting = Drafting::InFlight;
        self.stepper.draft(asks, num_tokens_max)?;
        Ok(true)
    }

    pub(super) fn take_drafts(&mut self, drafts: Option<Drafts>) {
        self.vitals.end_step();
        self.drafting = Drafting::Done;
        match drafts {
            Some(drafts) => {
                let seconds = drafts.steps.iter().map(|(_, elapsed)| elapsed.as_secs_f64()).sum();
                self.metrics.engine.draft_seconds.observe(seconds);
                self.scheduler.take_drafts(drafts);
            }
            None => self.scheduler.set_drafting(false),
        }
        // What it took is none of what is between two steps.
        self.record.skip_gap();
    }
}
