//! A smaller model that guesses what a loaded one will say (`engine::Drafter`). Nobody depends on it: when it fails, in whatever
//! way, it is given up for as long as its model is loaded, and answers come one token a step.
//!
//! A panic or an error of its own is caught where it is asked. What hangs takes the batcher along, and so does what ends the
//! thread: the next batcher finds that it was at work then, and does without it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candlewick_engine::{DraftAsk, Drafter, Drafts, ModelInfo, StepError, Weights};

use crate::loader::LoadedModel;
use crate::stepper::survive;

/// The draft model of a loaded one, at rest.
pub struct DraftModel {
    id: String,
    weights: Arc<dyn Weights>,
    /// It is at work, or its thread has ended while it was.
    is_at_work: AtomicBool,
    is_given_up: AtomicBool,
}

impl DraftModel {
    /// It has not yet been asked.
    pub fn new(id: String, weights: Arc<dyn Weights>) -> Self {
        Self { id, weights, is_at_work: AtomicBool::new(false), is_given_up: AtomicBool::new(false) }
    }

    /// What is known of it.
    pub fn info(&self) -> &ModelInfo {
        self.weights.info()
    }

    /// Whether a batcher that begins now may ask it: not if the one before never heard its answer.
    pub fn is_usable(&self) -> bool {
        if self.is_at_work.load(Ordering::Relaxed) {
            self.give_up("it was at work when the batcher ended");
        }
        !self.is_given_up.load(Ordering::Relaxed)
    }

    /// Does what may fail. If that never ends, or ends the thread, it is at work for good.
    fn at_work<T>(&self, work: impl FnOnce() -> Result<T, StepError>) -> Result<T, String> {
        self.is_at_work.store(true, Ordering::Relaxed);
        let done = survive(work);
        self.is_at_work.store(false, Ordering::Relaxed);
        done
    }

    fn give_up(&self, why: &str) {
        if !self.is_given_up.swap(true, Ordering::Relaxed) {
            tracing::error!(draft = %self.id, why, "the draft model is given up: answers come without its guesses");
        }
    }
}

/// A draft model at work, on the stepper's thread.
pub struct Guesser {
    draft: Arc<DraftModel>,
    drafter: Drafter,
}

impl Guesser {
    /// Makes the draft model of a model, if it has one that is of use.
    pub fn start(model: &LoadedModel) -> Option<Self> {
        let draft = model.draft.clone().filter(|draft| !draft.is_given_up.load(Ordering::Relaxed))?;
        let cache = model.capacity.cache;
        match draft.at_work(|| draft.weights.start(cache)) {
            Ok(started) => {
                let (info, target) = (draft.info(), model.weights.info());
                // Beyond the shorter of both vocabularies there are no tokens that both know.
                let vocab_size = info.vocab_size.min(target.vocab_size);
                let drafter = Drafter::new(started, cache, vocab_size, info.max_position_embeddings);
                Some(Self { draft, drafter })
            }
            Err(why) => {
                draft.give_up(&why);
                None
            }
        }
    }

    /// What it guesses; itself only if it can be asked again.
    pub fn guess(self, asks: &[DraftAsk], num_tokens_max: usize) -> (Option<Self>, Option<Drafts>) {
        let Self { draft, mut drafter } = self;
        match draft.at_work(|| drafter.draft(asks, num_tokens_max)) {
            Ok(drafts) => (Some(Self { draft, drafter }), Some(drafts)),
            Err(why) => {
                draft.give_up(&why);
                // What broke may break again when it is taken apart.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(drafter)));
                (None, None)
            }
        }
    }

    /// Forgets all texts: memory is short.
    pub fn forget(&mut self) {
        self.drafter.forget();
    }
}
