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
    /// What may come next, once it is known.
    mask: Option<Arc<TokenMask>>,
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
            mask: None,
            is_complete: false,
        };
        Self { state: Mutex::new(state), num_tokens }
    }

    /// What may come after so many tokens.
    pub fn mask(&self, num_generated: u32) -> Result<Arc<TokenMask>, GrammarFault> {
        let mut state = self.lock();
        if state.num_taken != num_generated as usize {
            let num_taken = state.num_taken;
            return Err(GrammarFault(format!(
                "the grammar has read {num_taken} tokens of {num_generated} that were generated"
            )));
        }
        if let Some(mask) = &state.mask {
            return Ok(mask.clone());
        }
        let allowed = state.with(Matcher::compute_mask_or_eos)?;
        let mask = Arc::new(TokenMask::new(allowed, self.num_tokens));
        state.mask = Some(mask.clone());
        Ok(mask)
    }

    /// Goes on by a token that the mask allowed.
    pub fn take(&self, token_id: u32) -> Result<(), GrammarFault> {
        let mut state = self.lock();
        state.mask = None;
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
