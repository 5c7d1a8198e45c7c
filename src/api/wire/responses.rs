//! `/v1/responses`: the response object, its items, and the events of its stream.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::chat::ChatTokenLogprob;

/// A response. While it streams, as much of it as there is.
#[derive(Debug, Clone, Serialize)]
pub struct Response {
    /// `resp_…`
    pub id: String,
    /// `response`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970, once it is completed.
    pub completed_at: Option<u64>,
    /// Where it stands.
    pub status: Status,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// What the model said, in order.
    pub output: Vec<OutputItem>,
    /// All text of all messages.
    pub output_text: String,
    /// Token counts, once it is over.
    pub usage: Option<ResponseUsage>,
    /// What was asked.
    #[serde(flatten)]
    pub echo: Echo,
}

/// Where a response or an item of it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits, in the background.
    Queued,
    /// The model is at it.
    InProgress,
    /// The model ended it.
    Completed,
    /// A limit ended it.
    Incomplete,
    /// It cannot be answered.
    Failed,
    /// Its client ended it.
    Cancelled,
}

/// `error`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResponseError {
    /// One of OpenAI's few words.
    pub code: &'static str,
    /// What was wrong, and what would be right.
    pub message: String,
}

/// `incomplete_details`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IncompleteDetails {
    /// `max_output_tokens`
    pub reason: &'static str,
}

/// `usage`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Of the prompt.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated, reasoning included.
    pub output_tokens: u64,
    /// Of the output.
    pub output_tokens_details: OutputTokensDetails,
    /// Their sum.
    pub total_tokens: u64,
}

/// `usage.input_tokens_details`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InputTokensDetails {
    /// Tokens whose computation a cached prefix saved.
    pub cached_tokens: u64,
    /// Nothing is billed for writing to the cache.
    pub cache_write_tokens: u64,
}

/// `usage.output_tokens_details`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OutputTokensDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
}

/// What a response repeats of its request. Also kept with it, to be repeated again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Echo {
    /// It goes on without its client.
    pub background: bool,
    /// There are no conversations here.
    pub conversation: Option<()>,
    /// System text of this turn.
    pub instructions: Option<String>,
    /// Most tokens to generate.
    pub max_output_tokens: Option<u32>,
    /// Most calls of built-in tools.
    pub max_tool_calls: Option<u32>,
    /// The client's own.
    pub metadata: Map<String, Value>,
    /// The model, as the client named it.
    pub model: String,
    /// Several calls at once.
    pub parallel_tool_calls: bool,
    /// The response it goes on from.
    pub previous_response_id: Option<String>,
    /// There are no prompt templates here.
    pub prompt: Option<()>,
    /// The client's own.
    pub prompt_cache_key: Option<Value>,
    /// How hard to think.
    pub reasoning: EchoReasoning,
    /// The client's own.
    pub safety_identifier: Option<Value>,
    /// There is one.
    pub service_tier: String,
    /// It is kept.
    pub store: bool,
    /// As it was sent.
    pub temperature: Option<Value>,
    /// The form of the text.
    pub text: EchoText,
    /// As it was sent.
    pub tool_choice: Value,
    /// As they were sent.
    pub tools: Vec<Value>,
    /// Likeliest tokens beside each.
    pub top_logprobs: u32,
    /// As it was sent.
    pub top_p: Option<Value>,
    /// `auto` or `disabled`
    pub truncation: String,
    /// The client's own.
    pub user: Option<Value>,
}

/// `reasoning`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EchoReasoning {
    /// How hard.
    pub effort: Option<String>,
    /// Which summary.
    pub summary: Option<String>,
}

/// `text`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EchoText {
    /// The form.
    pub format: Value,
    /// How much of it.
    pub verbosity: String,
}

/// Something the model said.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// Text for the client.
    Message {
        /// `msg_…`
        id: String,
        /// `assistant`
        role: &'static str,
        /// Where it stands.
        status: Status,
        /// One part; none before it begins.
        content: Vec<ContentPart>,
    },
    /// Thoughts.
    Reasoning {
        /// `rs_…`
        id: String,
        /// There is none who could summarise.
        summary: [(); 0],
        /// One part; none before it begins.
        content: Vec<ContentPart>,
        /// Nothing is hidden from the client, so nothing is encrypted.
        encrypted_content: Option<()>,
        /// Where it stands.
        status: Status,
    },
    /// A call of a function.
    FunctionCall {
        /// `fc_…`
        id: String,
        /// What its output is told by.
        call_id: String,
        /// Which.
        name: String,
        /// JSON text.
        arguments: String,
        /// Where it stands.
        status: Status,
    },
}

/// A part of an item.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Of a message.
    OutputText {
        /// There are none.
        annotations: [(); 0],
        /// Tokens, if asked for.
        logprobs: Vec<ChatTokenLogprob>,
        /// So far.
        text: String,
    },
    /// Of reasoning.
    ReasoningText {
        /// So far.
        text: String,
    },
}

/// An event of a stream and its place in it.
#[derive(Debug, Clone, Serialize)]
pub struct NumberedEvent {
    /// What happened.
    #[serde(flatten)]
    pub event: ResponseEvent,
    /// From zero, without gaps.
    pub sequence_number: u64,
}

/// Where in a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ItemPlace {
    /// The item's.
    pub item_id: String,
    /// Its place in `output`.
    pub output_index: usize,
}

/// Where in an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartPlace {
    /// Which item.
    #[serde(flatten)]
    pub item: ItemPlace,
    /// The part's place in it.
    pub content_index: usize,
}

/// What a stream tells.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type")]
pub enum ResponseEvent {
    /// First.
    #[serde(rename = "response.created")]
    Created {
        /// As it is.
        response: Box<Response>,
    },
    /// It waits, in the background.
    #[serde(rename = "response.queued")]
    Queued {
        /// As it is.
        response: Box<Response>,
    },
    /// The model is at it.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// As it is.
        response: Box<Response>,
    },
    /// Last: the model ended it.
    #[serde(rename = "response.completed")]
    Completed {
        /// All of it.
        response: Box<Response>,
    },
    /// Last: a limit ended it.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// All of it.
        response: Box<Response>,
    },
    /// Last: it failed, or was cancelled.
    #[serde(rename = "response.failed")]
    Failed {
        /// As far as it came.
        response: Box<Response>,
    },
    /// Last: the stream itself failed.
    #[serde(rename = "error")]
    Error {
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
        /// No field is at fault.
        param: Option<()>,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Its place.
        output_index: usize,
        /// Empty.
        item: OutputItem,
    },
    /// An item is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Its place.
        output_index: usize,
        /// All of it.
        item: OutputItem,
    },
    /// A part begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// Which.
        #[serde(flatten)]
        place: PartPlace,
        /// Empty.
        part: ContentPart,
    },
    /// A part is complete.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// Which.
        #[serde(flatten)]
        place: PartPlace,
        /// All of it.
        part: ContentPart,
    },
    /// More text.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// Of which part.
        #[serde(flatten)]
        place: PartPlace,
        /// What is new.
        delta: String,
        /// Its tokens, if asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// The text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// Of which part.
        #[serde(flatten)]
        place: PartPlace,
        /// All of it.
        text: String,
        /// All its tokens, if asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// More thoughts.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// Of which part.
        #[serde(flatten)]
        place: PartPlace,
        /// What is new.
        delta: String,
    },
    /// The thoughts are complete.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// Of which part.
        #[serde(flatten)]
        place: PartPlace,
        /// All of them.
        text: String,
    },
    /// More arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// Of which call.
        #[serde(flatten)]
        place: ItemPlace,
        /// What is new.
        delta: String,
    },
    /// The arguments are complete.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// Of which call.
        #[serde(flatten)]
        place: ItemPlace,
        /// Of which function.
        name: String,
        /// JSON text.
        arguments: String,
    },
}

/// A page of a list.
#[derive(Debug, Clone, Serialize)]
pub struct ItemList {
    /// `list`
    pub object: &'static str,
    /// The page.
    pub data: Vec<Value>,
    /// Id of its first.
    pub first_id: Option<String>,
    /// Id of its last.
    pub last_id: Option<String>,
    /// Whether there is another behind it.
    pub has_more: bool,
}

/// The answer to a deletion.
#[derive(Debug, Clone, Serialize)]
pub struct ResponseDeleted {
    /// Of what was deleted.
    pub id: String,
    /// `response`
    pub object: &'static str,
    /// True.
    pub deleted: bool,
}

/// The answer of `/v1/responses/input_tokens`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct InputTokens {
    /// `response.input_tokens`
    pub object: &'static str,
    /// Tokens of the prompt.
    pub input_tokens: u64,
}
