//! What a client asks of a model that encodes texts, and what it is told: vectors, labels, or how well two texts match.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ChatPrompt, ModelRef, PromptTruncation, RequestId, Share};

/// Texts to encode, and what is wanted of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncodeRequest {
    /// The client's name for this request.
    pub request_id: RequestId,
    /// The model; `None` means the pinned one.
    pub model: Option<ModelRef>,
    /// What is wanted.
    pub work: EncodeWork,
    /// What to do with a text that is too long; `None` refuses one that the model does not hold.
    pub truncation: Option<PromptTruncation>,
    /// How long it may take, from when it comes in to its answer: then it is given up. The server may set a shorter time.
    pub timeout: Option<Duration>,
    /// Whose it is.
    pub share: Share,
}

/// What is wanted of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EncodeWork {
    /// A vector of each.
    Embed {
        /// The texts, at least one.
        inputs: EncodeInputs,
        /// One vector for each text, or for each of its tokens.
        of_tokens: bool,
        /// Only so many elements of each, from the front.
        dimensions: Option<u32>,
        /// Bring them to unit length or leave them as pooled, whatever the model does.
        normalize: Option<bool>,
        /// What is put before each text: one of the model's own prompts, by name.
        prompt_name: Option<String>,
    },
    /// What the model does unless it is told otherwise: a vector of each text, or how likely each label is.
    Own {
        /// The texts, at least one.
        inputs: EncodeInputs,
        /// Bring vectors to unit length or leave them as pooled, whatever the model does.
        normalize: Option<bool>,
        /// How scores become likelihoods, whatever the model does.
        activation: Option<LabelActivation>,
    },
    /// How likely each label is: of each text, or of each of its tokens, as the model does it.
    Classify {
        /// The texts, at least one.
        inputs: EncodeInputs,
        /// How scores become likelihoods, whatever the model does.
        activation: Option<LabelActivation>,
    },
    /// How well pairs of texts match: by a model that reads both, or by the angle between their vectors.
    Compare {
        /// The first texts: as many as the second, or one for all of them.
        firsts: EncodeInputs,
        /// The second texts, at least one.
        seconds: EncodeInputs,
        /// How a score is told, whatever the model does.
        activation: Option<LabelActivation>,
        /// Second texts are cut to so many tokens first.
        max_second_tokens: Option<u32>,
    },
}

/// Texts, and the field of the request that they stand in: what is told where one is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncodeInputs {
    /// The texts.
    pub inputs: Vec<EncodeInput>,
    /// The field.
    pub param: String,
    /// Whether the field is a list, so that one is told by its index.
    pub is_list: bool,
}

impl EncodeInputs {
    /// The path of one of them.
    pub fn path(&self, index: usize) -> String {
        if self.is_list { format!("{}.{index}", self.param) } else { self.param.clone() }
    }
}

/// One text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EncodeInput {
    /// Plain text.
    Text {
        /// The text.
        text: String,
        /// Whether the tokenizer's own special tokens are added.
        add_special_tokens: bool,
    },
    /// Two texts that belong together.
    Pair(String, String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
    /// A conversation, put into words by the model's chat template.
    Chat(ChatPrompt),
}

impl EncodeInput {
    /// Its size as it was sent.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Text { text, .. } => text.len(),
            Self::Pair(first, second) => first.len() + second.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
            Self::Chat(chat) => chat.num_bytes(),
        }
    }
}

impl EncodeWork {
    /// The size of all texts as they were sent.
    pub fn num_bytes(&self) -> usize {
        let size = |texts: &EncodeInputs| texts.inputs.iter().map(EncodeInput::num_bytes).sum::<usize>();
        match self {
            Self::Embed { inputs, .. } | Self::Own { inputs, .. } | Self::Classify { inputs, .. } => {
                size(inputs)
            }
            // A first text that is there for all second ones is read with each of them.
            Self::Compare { firsts, seconds, .. } => {
                let num_times = seconds.inputs.len() / firsts.inputs.len().max(1);
                size(firsts).saturating_mul(num_times.max(1)) + size(seconds)
            }
        }
    }
}

/// How scores of labels become what is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelActivation {
    /// Each by itself.
    Sigmoid,
    /// All together come to one.
    Softmax,
    /// As they are.
    Identity,
}

/// The answer to an [`EncodeRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncodeAnswer {
    /// Canonical id of the model that answered.
    pub model: String,
    /// What was asked.
    pub output: EncodeOutput,
    /// Tokens that were read.
    pub num_tokens: u64,
}

/// What came of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EncodeOutput {
    /// Of `Embed`: one for each text.
    Vectors(Vec<Rows>),
    /// Of `Classify`.
    Labels {
        /// The labels, by index.
        names: Vec<String>,
        /// For each text, the likelihoods of all labels: in one row, or in one for each token.
        scores: Vec<Rows>,
        /// There is a row for each token.
        of_tokens: bool,
    },
    /// Of `Compare`: one for each pair.
    Scores(Vec<f32>),
}

/// Numbers in rows of the same width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Row after row.
    pub values: Vec<f32>,
    /// Numbers in a row.
    pub width: usize,
}

impl Rows {
    /// The rows.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}
