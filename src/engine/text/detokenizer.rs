//! Token ids to text, one token at a time.
//!
//! Invariant: the pieces of text handed out, joined, equal the decoding of all ids at once. A character is never split:
//! its bytes wait until it is complete, or until it is certain that it never will be.

use std::sync::Arc;

use super::TextProcessor;
use super::pieces::{Piece, Scheme, byte_level};
use crate::SamplingParams;

/// Turns the tokens of one choice into text.
pub(crate) struct Detokenizer {
    processor: Arc<TextProcessor>,
    skip_special_tokens: bool,
    /// Special tokens that are shown all the same: the tags that a parser waits for.
    shown: Vec<u32>,
    /// Take away the space that the decoder puts between two special tokens.
    joins_special_tokens: bool,
    /// Whether the latest token was one of those added to the vocabulary.
    was_added: bool,
    /// Whether a token has been decoded yet.
    is_first: bool,
    /// Bytes of an incomplete character, or of a run of byte tokens.
    bytes: Vec<u8>,
    /// How many leading characters may still be cut.
    num_strip: usize,
    /// Of a tokenizer whose decoder needs them all: every id so far, and how many bytes of their text were handed out.
    whole: (Vec<u32>, usize),
}

impl Detokenizer {
    pub(crate) fn new(processor: Arc<TextProcessor>, params: &SamplingParams, shown: Vec<u32>) -> Self {
        let num_strip = match processor.tokenizer.pieces().scheme {
            Scheme::Plain { strip_start, .. } => strip_start,
            _ => 0,
        };
        Self {
            processor,
            skip_special_tokens: params.skip_special_tokens,
            shown,
            joins_special_tokens: !params.skip_special_tokens && !params.spaces_between_special_tokens,
            was_added: false,
            is_first: true,
            bytes: Vec::new(),
            num_strip,
            whole: (Vec::new(), 0),
        }
    }

    /// Takes a token; what is certain of the text now.
    pub(crate) fn push(&mut self, id: u32) -> String {
        let processor = Arc::clone(&self.processor);
        let tokenizer = &processor.tokenizer;
        // An id without a token decodes to nothing: models have more rows than their tokenizers have tokens.
        let Some(token) = tokenizer.token(id) else { return String::new() };
        if self.skip_special_tokens && tokenizer.is_special(&token) && !self.shown.contains(&id) {
            return String::new();
        }
        let mut text = String::new();
        let is_joined = self.joins_special_tokens && tokenizer.is_added(&token);
        if std::mem::replace(&mut self.was_added, is_joined) && is_joined {
            return token;
        }
        let pieces = tokenizer.pieces();
        match &pieces.scheme {
            Scheme::ByteLevel => {
                self.bytes.extend(byte_level(&token));
                drain_characters(&mut self.bytes, &mut text);
            }
            Scheme::Whole => {
                self.whole.0.push(id);
                return self.decode_whole(false);
            }
            _ => match pieces.piece(&token, self.is_first) {
                Piece::Byte(byte) => self.bytes.push(byte),
                Piece::Text(piece) => {
                    drain_run(&mut self.bytes, &mut text);
                    text.push_str(&piece);
                }
            },
        }
        self.is_first = false;
        self.strip(text)
    }

    /// There are no more tokens: what was waiting will not be completed.
    pub(crate) fn finish(&mut self) -> String {
        let mut text = String::new();
        match self.processor.tokenizer.pieces().scheme {
            Scheme::ByteLevel => {
                text.push_str(&String::from_utf8_lossy(&self.bytes));
                self.bytes.clear();
            }
            Scheme::Whole => return self.decode_whole(true),
            _ => drain_run(&mut self.bytes, &mut text),
        }
        self.strip(text)
    }

    /// Cuts leading characters of the whole text, where the decoder does.
    fn strip(&mut self, mut text: String) -> String {
        let Scheme::Plain { strip, .. } = self.processor.tokenizer.pieces().scheme else { return text };
        while self.num_strip > 0 && !text.is_empty() {
            if !text.starts_with(strip) {
                self.num_strip = 0;
                break;
            }
            text.drain(..strip.len_utf8());
            self.num_strip -= 1;
        }
        text
    }

    /// The slow way, for decoders that no generative model is known to use: everything is decoded again. What no longer
    /// agrees with the text handed out waits for the end.
    fn decode_whole(&mut self, is_end: bool) -> String {
        let (ids, num_told) = &mut self.whole;
        let text = self.processor.tokenizer.decode(ids, false);
        let end = if is_end { text.len() } else { text.trim_end_matches('\u{FFFD}').len() };
        let new = text.get(*num_told..end).unwrap_or_default().to_owned();
        *num_told += new.len();
        new
    }
}

/// Moves complete characters from `bytes` to `text`; bytes that cannot become one are replaced, as
/// [`String::from_utf8_lossy`] of all bytes would do it.
fn drain_characters(bytes: &mut Vec<u8>, text: &mut String) {
    let mut start = 0;
    while start < bytes.len() {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(valid) => {
                text.push_str(valid);
                start = bytes.len();
            }
            Err(error) => {
                let valid_end = start + error.valid_up_to();
                text.push_str(std::str::from_utf8(&bytes[start..valid_end]).expect("checked just now"));
                start = valid_end;
                match error.error_len() {
                    Some(num_bad) => {
                        text.push('\u{FFFD}');
                        start += num_bad;
                    }
                    None => break,
                }
            }
        }
    }
    bytes.drain(..start);
}

/// Ends a run of byte tokens: it is text if all of it is, else each byte is replaced. The decoder judges a run as a
/// whole, so nothing of it is certain before its end.
fn drain_run(bytes: &mut Vec<u8>, text: &mut String) {
    match std::str::from_utf8(bytes) {
        Ok(valid) => text.push_str(valid),
        Err(_) => text.extend(bytes.iter().map(|_| '\u{FFFD}')),
    }
    bytes.clear();
}
