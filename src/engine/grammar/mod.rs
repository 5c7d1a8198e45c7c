//! Answers that keep to a form: which tokens may come next.
//!
//! A request's form, the model's way of marking reasoning and calls, and what the request says of tools become one grammar
//! over the whole output ([`answer`]), which llguidance compiles for the model's own vocabulary ([`Grammars`]). A sequence
//! holds its place in it ([`GrammarProgress`]); the place follows from the tokens alone, so a sequence that is admitted
//! again stands where it stood. Masks are computed on threads of their own while the forward pass runs ([`begin_masks`]),
//! and the sampler waits for what is not ready.
//!
//! The end of an answer is no token of the grammar: whether a place is an end is told beside the mask, and the tokens
//! that end *this* request's answers are allowed exactly there.

mod answer;
mod cache;
mod calls;
mod constrain;
mod ebnf;
mod form;
mod lark;
mod mask;
mod progress;
mod schema;
mod step;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::sync::{Arc, Mutex, OnceLock};

use candlewick_protocol::{ErrorKind, Failure};
use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;

pub use self::mask::TokenMask;
pub use self::progress::GrammarProgress;
pub use self::step::{begin_masks, take_tokens};

use self::cache::Cache;
use self::vocabulary::Vocabulary;
use crate::text::tokenizer::ModelTokenizer;

/// Compiles grammars for one model. What they have in common, a trie of the vocabulary, is made when the first is asked
/// for.
pub(crate) struct Grammars {
    tokenizer: Arc<ModelTokenizer>,
    vocabulary: OnceLock<Result<Vocabulary, String>>,
    cache: Cache,
}

/// A grammar compiled for a model's vocabulary, to be shared by all sequences that keep to it.
pub struct CompiledGrammar {
    /// At the beginning of an answer; copied for each sequence.
    start: Mutex<Matcher>,
    num_tokens: usize,
}

impl Grammars {
    pub(crate) fn new(tokenizer: Arc<ModelTokenizer>) -> Self {
        Self { tokenizer, vocabulary: OnceLock::new(), cache: Cache::default() }
    }

    /// The grammar of this name, compiled now or earlier: `name` tells apart what `make` would make. Blocks.
    ///
    /// # Errors
    /// What is wrong with the grammar, in words for whoever wrote it; `param` is the field that asks for it.
    fn get(
        &self,
        name: String,
        param: &str,
        make: impl FnOnce(&ModelTokenizer) -> Result<TopLevelGrammar, Failure>,
    ) -> Result<Arc<CompiledGrammar>, Failure> {
        if let Some(grammar) = self.cache.get(&name) {
            return Ok(grammar);
        }
        let vocabulary = self.vocabulary.get_or_init(|| Vocabulary::of(self.tokenizer.clone()));
        let vocabulary = vocabulary
            .as_ref()
            .map_err(|why| Failure::new(ErrorKind::Unsupported, why.as_str()).with_param(param))?;
        let compiled = vocabulary.compile(make(&self.tokenizer)?);
        let grammar = compiled
            .map_err(|why| Failure::invalid(param, format!("`{param}` cannot be made a grammar: {why}")))?;
        let grammar =
            Arc::new(CompiledGrammar { start: Mutex::new(grammar), num_tokens: self.tokenizer.vocab_size() });
        self.cache.put(name, grammar.clone());
        Ok(grammar)
    }
}

impl std::fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledGrammar").field("num_tokens", &self.num_tokens).finish_non_exhaustive()
    }
}
