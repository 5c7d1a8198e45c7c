//! Where a sequence stands in its grammar.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llguidance::Matcher;

use super::vocabulary::plain;
use super::{CompiledGrammar, TokenMask};

/// The place of one sequence in its grammar. It follows from the grammar and the sequence's tokens and from nothing else.
///
/// It is shared by the scheduler, the threads that compute masks, and the sampler; whoever needs a mask that is not there
/// yet computes it or waits for the one who does.
pub struct GrammarProgress {
    state: Mutex<State>,
    num_tokens: usize,
}

struct State {
    /// Made when it is first needed, and not in the scheduler.
    matcher: Option<Matcher>,
    grammar: Arc<CompiledGrammar>,
    /// Tokens from before this admission that are still to be read.
    unread: Vec<u32>,
    /// Tokens taken, those of `unread` included.
    num_taken: usize,
    /// What may come next, once it is known, and after it what may come after each of `ahead`.
    masks: Vec<Arc<TokenMask>>,
    /// Tokens that were looked ahead by; the matcher has not read them.
    ahead: Vec<u32>,
    is_complete: bool,
}

/// Why a grammar cannot go on. It is the fault of one request, and of none beside it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarFault(pub String);

impl GrammarProgress {
    /// At the place that these tokens lead to.
    pub fn new(grammar: Arc<CompiledGrammar>, output: &[u32]) -> Self {
        let num_tokens = grammar.num_tokens;
        let state = State {
            matcher: None,
            grammar,
            unread: output.to_vec(),
            num_taken: output.len(),
            masks: Vec::new(),
            ahead: Vec::new(),
            is_complete: false,
        };
        Self { state: Mutex::new(state), num_tokens }
    }

    /// What may come after so many tokens that were generated, and then these that are only guessed. A guess that the
    /// grammar does not allow is a fault of the guess: nothing is lost by asking.
    pub fn mask(&self, num_generated: u32, drafted: &[u32]) -> Result<Arc<TokenMask>, GrammarFault> {
        let mut state = self.lock();
        if state.num_taken != num_generated as usize {
            let num_taken = state.num_taken;
            return Err(GrammarFault(format!(
                "the grammar has read {num_taken} tokens of {num_generated} that were generated"
            )));
        }
        state.look_ahead(drafted, self.num_tokens)?;
        let mask = state.masks.get(drafted.len()).cloned();
        mask.ok_or_else(|| GrammarFault("the guess is not of the grammar".into()))
    }

    /// Goes on by a token that the mask allowed.
    pub fn take(&self, token_id: u32) -> Result<(), GrammarFault> {
        let mut state = self.lock();
        if state.ahead.first() == Some(&token_id) {
            state.ahead.remove(0);
            state.masks.remove(0);
        } else {
            state.ahead.clear();
            state.masks.clear();
        }
        state.num_taken += 1;
        state.is_complete =
            state.with(|matcher| matcher.consume_token(token_id).map(|()| matcher.is_stopped()))?;
        Ok(())
    }

    /// Whether nothing can follow: the answer is complete, whether or not the model says so.
    pub fn is_complete(&self) -> bool {
        self.lock().is_complete
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Computes the masks up to the place behind these guesses, or to the first that is not allowed. The matcher then stands
    /// where it stood.
    fn look_ahead(&mut self, drafted: &[u32], num_tokens: usize) -> Result<(), GrammarFault> {
        let num_same = self.ahead.iter().zip(drafted).take_while(|(ahead, drafted)| ahead == drafted).count();
        if num_same < self.ahead.len().min(drafted.len()) {
            self.forget_ahead(num_same);
        }
        if self.masks.len() > drafted.len() {
            return Ok(());
        }
        let mut masks = std::mem::take(&mut self.masks);
        let looked = self.with(|matcher| {
            let mut num_ahead = 0;
            for place in 0..=drafted.len() {
                if let Some(before) = place.checked_sub(1) {
                    if !masks[before].allows(drafted[before]) {
                        break;
                    }
                    matcher.consume_token(drafted[before])?;
                    num_ahead = place;
                }
                if place == masks.len() {
                    masks.push(Arc::new(TokenMask::new(matcher.compute_mask_or_eos()?, num_tokens)));
                }
            }
            matcher.rollback(num_ahead)
        });
        self.ahead = drafted[..masks.len().saturating_sub(1)].to_vec();
        self.masks = masks;
        looked
    }

    /// Forgets what was looked ahead by, but for so many tokens.
    fn forget_ahead(&mut self, num_kept: usize) {
        self.ahead.truncate(num_kept);
        self.masks.truncate(num_kept + 1);
    }

    /// Does something with the matcher, which has then read all tokens.
    fn with<T, E: std::fmt::Display>(
        &mut self,
        work: impl FnOnce(&mut Matcher) -> Result<T, E>,
    ) -> Result<T, GrammarFault> {
        let matcher = self.matcher.get_or_insert_with(|| {
            // A deep copy: what one sequence makes the lexer work out costs and changes nothing for another.
            self.grammar.start.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
        });
        let unread = std::mem::take(&mut self.unread);
        matcher.consume_tokens(&unread).map_err(|error| GrammarFault(plain(&error.to_string())))?;
        work(matcher).map_err(|error| GrammarFault(plain(&error.to_string())))
    }
}

impl std::fmt::Debug for GrammarProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarProgress").field("num_taken", &self.lock().num_taken).finish_non_exhaustive()
    }
}
