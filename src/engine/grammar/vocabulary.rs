//! A model's vocabulary as llguidance sees it: a trie of the bytes that each token adds to a text.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Matcher, ParserFactory};
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::text::pieces::Scheme;
use crate::text::tokenizer::ModelTokenizer;

/// What stands for the end of an answer, behind the model's own tokens.
const END: &[u8] = b"<end of the answer>";

/// Compiles grammars for one vocabulary.
pub(super) struct Vocabulary {
    factory: ParserFactory,
}

impl Vocabulary {
    /// Makes the trie. Takes as long as the vocabulary is large: some tens of milliseconds.
    pub(super) fn of(tokenizer: Arc<ModelTokenizer>) -> Result<Self, String> {
        if !matches!(tokenizer.pieces().scheme, Scheme::ByteLevel | Scheme::Plain { .. }) {
            return Err("this model's tokenizer does not say which text a token stands for, so its answers cannot be \
                        held to a form"
                .into());
        }
        let num_tokens = tokenizer.vocab_size();
        let mut words: Vec<Vec<u8>> = (0..num_tokens as u32).map(|id| word(&tokenizer, id)).collect();
        words.push(marked(END));
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, num_tokens as u32), &words);
        let mut bridge = Bridge { tokenizer, trie, is_canonical: true };
        bridge.is_canonical = bridge.cuts_anywhere();
        let env: TokEnv = Arc::new(bridge);
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(|e| e.to_string())?;
        factory.quiet();
        // The state of a parser is for its authors; a client is told the reason alone.
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory })
    }

    /// Compiles a grammar, within the limits of llguidance. Blocks.
    pub(super) fn compile(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // The lexer's first states are worked out here once, and not for each sequence.
        if matcher.get_error().is_none() {
            let _ = matcher.compute_mask_or_eos();
        }
        match matcher.get_error() {
            Some(why) => Err(plain(&why)),
            None => Ok(matcher),
        }
    }
}

/// What llguidance says, without its own markup.
pub(super) fn plain(why: &str) -> String {
    let why = why.split("<non-verbose/>").next().unwrap_or(why).split("<state>").next().unwrap_or(why);
    why.trim().to_owned()
}

fn marked(content: &[u8]) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], content].concat()
}

/// The bytes of a token. Special tokens are no text: they come only where a grammar names them.
fn word(tokenizer: &ModelTokenizer, id: u32) -> Vec<u8> {
    match tokenizer.token(id) {
        None => Vec::new(),
        Some(token) if tokenizer.is_special(&token) => marked(token.as_bytes()),
        Some(_) => tokenizer.token_bytes(id),
    }
}

/// The tokenizer as llguidance asks for it.
struct Bridge {
    tokenizer: Arc<ModelTokenizer>,
    trie: TokTrie,
    is_canonical: bool,
}

impl Bridge {
    /// Whether text from the middle of an answer is cut into tokens as it stands, without a space put before it. Only then
    /// is text that a grammar leaves no choice about written in the tokens that the model would use.
    fn cuts_anywhere(&self) -> bool {
        self.encode("a").is_some() && self.encode("{\"a\": 1}").is_some()
    }

    /// The tokens of a text, if they add up to just that.
    fn encode(&self, text: &str) -> Option<Vec<TokenId>> {
        let ids = self.tokenizer.encode(text, false).ok()?;
        let mut rest = text.as_bytes();
        for id in &ids {
            rest = rest.strip_prefix(self.trie.token(*id))?;
        }
        rest.is_empty().then_some(ids)
    }
}

impl TokenizerEnv for Bridge {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.encode(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_canonical
    }
}
