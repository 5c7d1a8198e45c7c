//! What a client asks for, after the wire and before the model: nothing here is resolved against a model yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Constraint, ModelRef, RequestId};

/// One generation: a prompt, how to sample, what to report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationRequest {
    /// The client's name for this request.
    pub request_id: RequestId,
    /// The model; `None` means the pinned one.
    pub model: Option<ModelRef>,
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose tokens.
    pub sampling: SamplingOptions,
    /// How many continuations, at least one.
    pub num_choices: u32,
    /// What the answer is held to, if it is. Reasoning before it and calls of tools are not.
    #[serde(default)]
    pub constraint: Option<Constraint>,
    /// What to report beside the text.
    pub output: OutputOptions,
    /// Lower runs first.
    pub priority: i32,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Prompt {
    /// A conversation, put into words by the model's chat template.
    Chat(ChatPrompt),
    /// Plain text; the tokenizer adds its own special tokens if `add_special_tokens`.
    Text {
        /// The text.
        text: String,
        /// Whether the tokenizer's beginning-of-sequence and like tokens are added.
        add_special_tokens: bool,
    },
    /// Text to fill in between two texts, for models with fill-in-the-middle tokens.
    Infill {
        /// What stands before the gap.
        prefix: String,
        /// What stands after the gap.
        suffix: String,
    },
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// A conversation and what its template is told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ChatPrompt {
    /// The conversation, at least one message.
    pub messages: Vec<Message>,
    /// Tools, as the client's JSON (`{"type": "function", "function": {…}}`): templates print them as they came.
    pub tools: Vec<Value>,
    /// Whether and which tools may be called.
    pub tool_choice: ToolChoice,
    /// Whether several tools may be called at once.
    pub parallel_tool_calls: bool,
    /// Variables for the template; they win over the server's.
    pub template_kwargs: Map<String, Value>,
    /// Documents for templates that cite.
    pub documents: Option<Vec<Value>>,
    /// Whether the template opens the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the last message is continued rather than answered.
    pub continue_final_message: bool,
    /// Whether the oldest messages may be left out where all of them do not fit the context.
    #[serde(default)]
    pub drop_oldest_to_fit: bool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says; `None` for an assistant message that only calls tools.
    pub content: Option<Content>,
    /// Who speaks, where several users do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Reasoning of an earlier assistant turn, for templates that show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls of an earlier assistant turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a `tool` message: the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts, in order.
    Parts(Vec<ContentPart>),
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
}

/// A call in an earlier assistant turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The id the client knows it by.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// The arguments, decoded: templates print them as JSON of their own making.
    pub arguments: Value,
}

/// Whether and which tools may be called.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// Output is never read as a call.
    None,
    /// At least one call.
    Required,
    /// A call of this function.
    Function(String),
    /// As `mode` says, and only of these functions; the model is shown all of them all the same.
    Allowed {
        /// Whether there must be a call.
        mode: AllowedMode,
        /// The functions' names.
        names: Vec<String>,
    },
}

/// Whether one of the allowed tools must be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowedMode {
    /// The model decides.
    Auto,
    /// At least one call.
    Required,
}

impl ToolChoice {
    /// Whether a call must come.
    pub fn is_forced(&self) -> bool {
        match self {
            Self::Auto | Self::None | Self::Allowed { mode: AllowedMode::Auto, .. } => false,
            Self::Required | Self::Function(_) | Self::Allowed { mode: AllowedMode::Required, .. } => true,
        }
    }

    /// Whether a call of this function may come.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::Auto | Self::Required => true,
            Self::None => false,
            Self::Function(only) => only == name,
            Self::Allowed { names, .. } => names.iter().any(|allowed| allowed == name),
        }
    }
}

/// How to choose tokens, as far as the client said. Unset fields are filled from the model's `generation_config.json` and
/// then from defaults. Ranges are checked when they are resolved (`engine::SamplingParams`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// Keep the smallest set of tokens whose probabilities sum to this.
    pub top_p: Option<f32>,
    /// Keep this many tokens; 0 or -1 keeps all.
    pub top_k: Option<i64>,
    /// Keep tokens at least this likely relative to the best.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens seen in prompt or output.
    pub repetition_penalty: Option<f32>,
    /// Subtracted for each time a token was generated.
    pub frequency_penalty: Option<f32>,
    /// Subtracted once if a token was generated.
    pub presence_penalty: Option<f32>,
    /// Added to logits, by token id.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Makes sampling repeatable.
    pub seed: Option<i64>,
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// What `max_tokens` is if nobody set it: a route's own default, over the model's. It gives way to what the context
    /// leaves, where a limit that the client set is refused.
    #[serde(default)]
    pub max_tokens_default: Option<u32>,
    /// Fewest tokens to generate before an end or stop token may come.
    pub min_tokens: Option<u32>,
    /// Texts that end the output and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the output.
    pub stop_token_ids: Vec<u32>,
    /// Keep the stop string in the output.
    pub include_stop_str_in_output: bool,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// `false` is greedy whatever the temperature.
    pub do_sample: Option<bool>,
    /// Leave special tokens out of the text (default true).
    pub skip_special_tokens: Option<bool>,
}

/// Fills what `options` leaves unset from `defaults`. Lists are taken from `defaults` only if empty.
pub fn merge_sampling(options: SamplingOptions, defaults: &SamplingOptions) -> SamplingOptions {
    fn list<T: Clone>(own: Vec<T>, default: &[T]) -> Vec<T> {
        if own.is_empty() { default.to_vec() } else { own }
    }
    SamplingOptions {
        temperature: options.temperature.or(defaults.temperature),
        top_p: options.top_p.or(defaults.top_p),
        top_k: options.top_k.or(defaults.top_k),
        min_p: options.min_p.or(defaults.min_p),
        repetition_penalty: options.repetition_penalty.or(defaults.repetition_penalty),
        frequency_penalty: options.frequency_penalty.or(defaults.frequency_penalty),
        presence_penalty: options.presence_penalty.or(defaults.presence_penalty),
        logit_bias: if options.logit_bias.is_empty() {
            defaults.logit_bias.clone()
        } else {
            options.logit_bias
        },
        seed: options.seed.or(defaults.seed),
        max_tokens: options.max_tokens.or(defaults.max_tokens),
        max_tokens_default: options.max_tokens_default.or(defaults.max_tokens_default),
        min_tokens: options.min_tokens.or(defaults.min_tokens),
        stop: list(options.stop, &defaults.stop),
        stop_token_ids: list(options.stop_token_ids, &defaults.stop_token_ids),
        include_stop_str_in_output: options.include_stop_str_in_output || defaults.include_stop_str_in_output,
        ignore_eos: options.ignore_eos || defaults.ignore_eos,
        do_sample: options.do_sample.or(defaults.do_sample),
        skip_special_tokens: options.skip_special_tokens.or(defaults.skip_special_tokens),
    }
}

/// What to report beside the text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutputOptions {
    /// Report each token's log-probability and this many of the most likely ones.
    pub logprobs: Option<u32>,
    /// Report the prompt too (completions with `echo`), with log-probabilities if `logprobs` is set.
    pub echo: bool,
}
