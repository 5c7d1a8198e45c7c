//! `/v1/completions`: the answer whole and in chunks, which have the same shape.

use serde::{Serialize, Serializer};

use super::chat::StopReason;
use super::prompt::PromptLogprobs;
use super::usage::Usage;

/// `text_completion`, whole or a chunk.
#[derive(Debug, Clone, Serialize)]
pub struct Completion {
    /// `cmpl-` and the request id.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// Changes when the program or the model does.
    pub system_fingerprint: String,
    /// Choices of all prompts, by index; one or none in a chunk.
    pub choices: Vec<CompletionChoice>,
    /// Token counts over all prompts. In a chunk absent, or null until the chunk that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// One continuation, or a piece of it.
#[derive(Debug, Clone, Serialize)]
pub struct CompletionChoice {
    /// The text.
    pub text: String,
    /// Prompt index × `n` + choice.
    pub index: u32,
    /// If asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null in all chunks but the last of the choice.
    pub finish_reason: Option<&'static str>,
    /// The stop string or stop token that ended it.
    pub stop_reason: Option<StopReason>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `prompt_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// With `return_prompt_text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<String>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// `logprobs` of a completion: parallel lists.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Their log-probabilities; null for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens with the one taken, by text.
    pub top_logprobs: Vec<Option<TopLogprobs>>,
    /// Where each token begins in the choice's text, in characters.
    pub text_offset: Vec<usize>,
}

/// Log-probabilities by text, in order: `{" the": -0.5, " a": -1.25}`.
///
/// Kept as f32 to the end, so that a token has the same digits here and in `token_logprobs`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopLogprobs(Vec<(String, f32)>);

impl TopLogprobs {
    /// Adds a token, unless its text is there: two tokens may have one text (half characters), and the first is likelier.
    pub fn insert(&mut self, text: String, logprob: f32) {
        if !self.0.iter().any(|(own, _)| *own == text) {
            self.0.push((text, logprob));
        }
    }
}

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}
