//! `/v1/chat/completions`: the answer whole, and in chunks.

use serde::Serialize;

use super::prompt::PromptLogprobs;
use super::usage::Usage;

/// `chat.completion`.
#[derive(Debug, Clone, Serialize)]
pub struct ChatCompletion {
    /// `chatcmpl-` and the request id.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// Present if the client sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// Changes when the program or the model does.
    pub system_fingerprint: String,
    /// One for each of `n`.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `prompt_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// With `return_prompt_text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<String>,
}

/// One answer.
#[derive(Debug, Clone, Serialize)]
pub struct ChatChoice {
    /// From zero.
    pub index: u32,
    /// What was said.
    pub message: ChatMessage,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: &'static str,
    /// The stop string or stop token that ended it.
    pub stop_reason: Option<StopReason>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What the assistant said.
#[derive(Debug, Clone, Serialize)]
pub struct ChatMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; null if there are only tool calls.
    pub content: Option<String>,
    /// Always null: refusals are text here.
    pub refusal: Option<String>,
    /// Always empty.
    pub annotations: [(); 0],
    /// The reasoning, under its newer name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The reasoning, under its older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call, where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// A call of a tool.
#[derive(Debug, Clone, Serialize)]
pub struct ToolCall {
    /// Unique id, to be answered under.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub class: &'static str,
    /// What is called.
    pub function: FunctionCall,
}

/// What is called, and with what.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Arguments as JSON text.
    pub arguments: String,
}

/// What ended a choice: `"###"` or `151645`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(u32),
}

/// `logprobs` of a chat choice.
#[derive(Debug, Clone, Serialize)]
pub struct ChatLogprobs {
    /// One for each token.
    pub content: Vec<ChatTokenLogprob>,
    /// Always null.
    pub refusal: Option<()>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatTokenLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place, best first.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// One of the likeliest tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatTopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// `chat.completion.chunk`.
#[derive(Debug, Clone, Serialize)]
pub struct ChatChunk {
    /// The same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// The same in every chunk.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// Present if the client sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// Changes when the program or the model does.
    pub system_fingerprint: String,
    /// One choice, or none in the chunk that carries the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// Absent, or null until the chunk that carries it (`stream_options`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// With `return_token_ids`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `return_prompt_text`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<String>,
}

/// News of one choice.
#[derive(Debug, Clone, Serialize)]
pub struct ChatChunkChoice {
    /// From zero.
    pub index: u32,
    /// What is new.
    pub delta: ChatDelta,
    /// Of the tokens in this chunk, if asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Null until the last chunk of the choice.
    pub finish_reason: Option<&'static str>,
    /// In the last chunk of the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<Option<StopReason>>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What is new.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChatDelta {
    /// In the first chunk of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More reasoning, under its newer name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// More reasoning, under its older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// A call begins or goes on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
    /// The same, where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionDelta>,
}

/// A call begins (with `id`, `type` and `name`) or its arguments go on.
#[derive(Debug, Clone, Serialize)]
pub struct ToolCallDelta {
    /// Which call of this choice.
    pub index: u32,
    /// At the beginning of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// At the beginning of a call.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub class: Option<&'static str>,
    /// Name or arguments.
    pub function: FunctionDelta,
}

/// Name or arguments.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionDelta {
    /// At the beginning of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The next fragment of JSON text.
    pub arguments: String,
}
