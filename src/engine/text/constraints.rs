//! What of a request's sampling takes a tokenizer to know: words that may not come, and the marks around reasoning.

use candlewick_protocol::{ErrorKind, Failure};

use super::{PreparedPrompt, TextProcessor};
use crate::ThinkingBudget;

/// Most words that may not come.
const BAD_WORDS_MAX: usize = 128;

impl TextProcessor {
    /// The runs of tokens that bad words are: each as it begins a text, and as it stands within one, after a space.
    pub fn bad_words(&self, words: &[String]) -> Result<Vec<Vec<u32>>, Failure> {
        const PARAM: &str = "bad_words";
        if words.len() > BAD_WORDS_MAX {
            let message = format!("{PARAM} has {} words; at most {BAD_WORDS_MAX} are possible", words.len());
            return Err(Failure::invalid(PARAM, message));
        }
        let mut runs = Vec::new();
        for (index, word) in words.iter().enumerate() {
            let word = word.trim_start();
            if word.is_empty() {
                return Err(Failure::invalid(format!("{PARAM}.{index}"), "a bad word must not be empty"));
            }
            let bare = self.encode(word, false)?;
            let spaced = self.encode(&format!(" {word}"), false)?;
            // A space that is a token of its own, or none at all, makes no other word.
            let is_other = !spaced.ends_with(&bare);
            runs.extend((!bare.is_empty()).then_some(bare));
            runs.extend(is_other.then_some(spaced));
        }
        Ok(runs)
    }

    /// How to force the end of reasoning after so many tokens of it.
    pub fn thinking_budget(
        &self,
        num_tokens: u32,
        prompt: &PreparedPrompt,
    ) -> Result<ThinkingBudget, Failure> {
        const PARAM: &str = "thinking_token_budget";
        let Some(syntax) = self.reasoning_syntax else {
            let message = format!(
                "this model is not known to mark its reasoning, so {PARAM} cannot be kept; leave it out"
            );
            return Err(Failure::new(ErrorKind::Unsupported, message).with_param(PARAM));
        };
        let marks = syntax.around();
        let (open, close) = (self.encode(marks.open, false)?, self.encode(marks.close, false)?);
        let last = |mark: &[u32]| prompt.token_ids.windows(mark.len().max(1)).rposition(|run| run == mark);
        // A plain prompt is not read by the parsers, but it may well end within reasoning.
        let is_opened = last(&open) > last(&close);
        Ok(ThinkingBudget {
            num_tokens,
            forced: self.encode(marks.to_answer, false)?.into(),
            open: open.into(),
            close: close.into(),
            starts_inside: prompt.output.starts_in_reasoning || (!prompt.output.parse_reasoning && is_opened),
        })
    }

    /// The text of these tokens, as a request that skips special tokens sees it or not.
    pub fn text_of(&self, token_ids: &[u32], skip_special_tokens: bool) -> String {
        self.tokenizer.decode(token_ids, skip_special_tokens)
    }
}
