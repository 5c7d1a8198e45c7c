//! What is told of a prompt, in vLLM's form: for each of its tokens an object of tokens by id.

use serde::{Serialize, Serializer};

/// `prompt_logprobs`: null for the first token, behind which nothing stands.
pub type PromptLogprobs = Vec<Option<PlaceLogprobs>>;

/// The tokens at one place: the prompt's own first, then the likeliest. `{"11": {…}, "7": {…}}`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlaceLogprobs(pub Vec<(u32, PromptTokenLogprob)>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptTokenLogprob {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its place by likelihood, from 1.
    pub rank: u32,
    /// Its text.
    pub decoded_token: String,
}

impl Serialize for PlaceLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, token)| (id.to_string(), token)))
    }
}
