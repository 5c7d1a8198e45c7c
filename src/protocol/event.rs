//! Everything a client of a generation can be told.

use serde::{Deserialize, Serialize};

use crate::{Failure, LoadStage, Progress};

/// News of one generation request, in order.
///
/// Grammar: `(Queued | Loading)* Started (Piece | Ended)* (Finished | Failed)`, then nothing; a `Failed` may also come
/// before `Started`. Each choice has exactly one `Ended`, after its last `Piece`, before `Finished`.
/// A stream that closes without a last word is itself a failure, and `api` says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Waiting for a place in the batch.
    Queued,
    /// The model is being loaded.
    Loading {
        /// Where in the load we are.
        stage: LoadStage,
        /// How far within the stage.
        progress: Option<Progress>,
    },
    /// The prompt is read and admitted; tokens will follow.
    Started(Started),
    /// More output of one choice.
    Piece(Piece),
    /// One choice is complete.
    Ended {
        /// Which choice, from zero.
        choice: u32,
        /// Why it ended.
        reason: FinishReason,
        /// What stopped it, where something named did.
        stop: Option<StopCause>,
    },
    /// All choices are complete.
    Finished(Finished),
    /// The request has failed; nothing else follows.
    Failed(Failure),
}

/// What is known when generation starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Canonical id of the model that answers.
    pub model: String,
    /// Ids of the whole prompt, as the model sees it.
    pub prompt_token_ids: Vec<u32>,
    /// Where asked for: each prompt token with its log-probability (the first has none).
    pub prompt_logprobs: Option<Vec<TokenLogprob>>,
    /// Where asked for: the prompt's text.
    pub prompt_text: Option<String>,
}

/// A piece of one choice's output. Empty pieces are not sent, except to carry log-probabilities of tokens whose text is
/// still held back, or ids of tokens that have none where ids were asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Which choice, from zero.
    pub choice: u32,
    /// What is new.
    pub delta: Delta,
    /// The tokens this piece was made from, with log-probabilities, if those were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// The tokens generated since the last piece of this choice.
    pub token_ids: Vec<u32>,
}

/// What a piece adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delta {
    /// Text of the answer.
    Text(String),
    /// Text of the model's reasoning.
    Reasoning(String),
    /// The model calls a tool: its name is known.
    ToolCall {
        /// Which call of this choice, from zero.
        index: u32,
        /// Unique id of the call.
        id: String,
        /// The function's name.
        name: String,
    },
    /// More of the arguments of a call, as JSON text; the fragments of one call concatenate to a JSON object.
    ToolArguments {
        /// Which call of this choice, from zero.
        index: u32,
        /// The next fragment.
        fragment: String,
    },
}

impl Delta {
    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) | Self::Reasoning(text) | Self::ToolArguments { fragment: text, .. } => {
                text.is_empty()
            }
            Self::ToolCall { .. } => false,
        }
    }
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token_id: u32,
    /// Its text; a token that holds part of a character has a replacement character here.
    pub text: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// How many tokens are at least as likely at this place, itself counted; `None` where there is no log-probability.
    pub rank: Option<u32>,
    /// The most likely tokens at this place, best first; behind them those that were asked for by id.
    pub top: Vec<TopLogprob>,
}

/// One of the most likely tokens at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// The token.
    pub token_id: u32,
    /// Its text.
    pub text: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string or stop token did.
    Stop,
    /// A token limit was reached.
    Length,
    /// The model called tools and then ended.
    ToolCalls,
}

/// What stopped a choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    /// A stop string of the request.
    Text(String),
    /// A stop token of the request (end-of-sequence tokens of the model are not named).
    Token(u32),
    /// It went round in circles (`repetition_detection`).
    Repetition,
}

/// The end of a request that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Token counts over all choices.
    pub usage: Usage,
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, counted once however many choices there are.
    pub prompt_tokens: u64,
    /// Tokens generated for all choices, end-of-sequence tokens included.
    pub completion_tokens: u64,
    /// Prompt tokens that were not computed because a cached prefix held them.
    pub cached_tokens: u64,
    /// Generated tokens that were reasoning.
    pub reasoning_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cached_tokens += other.cached_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}
