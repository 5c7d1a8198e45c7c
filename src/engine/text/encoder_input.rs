//! From texts to what an encoder sees: ids and types of tokens, cut to a length as transformers cuts them.

use candlewick_protocol::{FailPlace, Failure, TruncationSide};
use tokenizers::{
    PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use super::TextProcessor;
use super::prompt::{internal, tokenizer_broken};
use super::tokenizer::ModelTokenizer;
use crate::encode::EncoderInput;

/// How long a text may be, and which end of it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimit {
    /// Tokens, special ones included.
    pub max_tokens: usize,
    /// Which end is cut; what the tokenizer puts around the text stays.
    pub side: TruncationSide,
}

/// The second text of a pair.
#[derive(Debug, Clone, Copy)]
pub struct SecondText<'a> {
    /// The text.
    pub text: &'a str,
    /// Tokens beyond these are cut off first, whatever the limit of the pair; the tokenizer's own not counted.
    pub max_tokens: Option<usize>,
}

impl TextProcessor {
    /// The tokens of a text, or of two texts that belong together. Blocks for as long as they are long.
    pub fn encoder_input(
        &self,
        text: &str,
        second: Option<SecondText<'_>>,
        add_special_tokens: bool,
        limit: Option<TextLimit>,
    ) -> Result<EncoderInput, Failure> {
        self.failpoints.strike(FailPlace::Tokenizer).map_err(|why| tokenizer_broken(&why))?;
        let tokens = self.tokenizer.encode_texts(text, second, add_special_tokens, limit);
        let (token_ids, type_ids) = tokens.map_err(|error| internal(&error))?;
        Ok(EncoderInput { token_ids, type_ids, num_prompt_tokens: 0 })
    }

    /// Tokens that a text which begins with this one has of it: without the one that the tokenizer puts at the end.
    pub fn num_prefix_tokens(&self, text: &str) -> Result<usize, Failure> {
        let ids = self.encode(text, true)?;
        let is_special = |id: u32| self.tokenizer.special_tokens().iter().any(|(special, _)| *special == id);
        Ok(ids.len() - usize::from(ids.last().is_some_and(|&id| is_special(id))))
    }
}

impl ModelTokenizer {
    /// Ids and types.
    fn encode_texts(
        &self,
        text: &str,
        second: Option<SecondText<'_>>,
        add_special_tokens: bool,
        limit: Option<TextLimit>,
    ) -> Result<(Vec<u32>, Vec<u32>), tokenizers::Error> {
        let tokenizer = self.inner();
        let is_cut = limit.is_some() || second.is_some_and(|second| second.max_tokens.is_some());
        if !is_cut {
            let encoding = match second {
                Some(second) => tokenizer.encode_fast((text, second.text), add_special_tokens)?,
                None => tokenizer.encode_fast(text, add_special_tokens)?,
            };
            return Ok((encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec()));
        }
        let side = limit.map_or(TruncationSide::Right, |limit| limit.side);
        let direction = match side {
            TruncationSide::Left => TruncationDirection::Left,
            TruncationSide::Right => TruncationDirection::Right,
        };
        // What the tokenizer adds is not to be cut off, so that it is added last.
        let first = tokenizer.encode_fast(text, false)?;
        let second = second.map(|SecondText { text, max_tokens }| {
            let mut second = tokenizer.encode_fast(text, false)?;
            second.truncate(max_tokens.unwrap_or(usize::MAX).min(second.len()), 0, direction);
            Ok::<_, tokenizers::Error>(second)
        });
        let second = second.transpose()?;
        let num_added = match tokenizer.get_post_processor() {
            Some(processor) if add_special_tokens => processor.added_tokens(second.is_some()),
            _ => 0,
        };
        let max_tokens = limit.map_or(usize::MAX, |limit| limit.max_tokens);
        let params = TruncationParams {
            direction,
            max_length: max_tokens.saturating_sub(num_added),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (mut first, mut second) = truncate_encodings(first, second, &params)?;
        // What was cut off.
        first.take_overflowing();
        second.as_mut().map(tokenizers::Encoding::take_overflowing);
        let encoding = tokenizer.post_process(first, second, add_special_tokens)?;
        Ok((encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec()))
    }
}
