//! What a client asks for, after the wire and before the model: nothing here is resolved against a model yet.

use std::collections::BTreeMap;
use std::time::Duration;

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
    /// How many continuations are told, at least one.
    pub num_choices: u32,
    /// What the answer is held to, if it is. Reasoning before it and calls of tools are not.
    #[serde(default)]
    pub constraint: Option<Constraint>,
    /// How those are found.
    #[serde(default)]
    pub search: Search,
    /// What to report beside the text.
    pub output: OutputOptions,
    /// Lower runs first, among those of the same holder.
    pub priority: i32,
    /// What to do with a prompt that is too long; `None` refuses one that the context does not hold.
    #[serde(default)]
    pub truncation: Option<PromptTruncation>,
    /// Prefixes of this request are shared only with requests of the same salt.
    #[serde(default)]
    pub cache_salt: Option<String>,
    /// How long it may take, from when it comes in to its last event: then it is given up. The server may set a shorter time.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// Whose it is.
    #[serde(default)]
    pub share: Share,
}

/// On whose account work is done, where several share a server, and how much of it is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// By name; those without one are all the same holder.
    pub holder: String,
    /// One of twice the weight of another gets twice as much where both want more than there is.
    pub weight: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { holder: String::new(), weight: 1 }
    }
}

impl GenerationRequest {
    /// Sequences that the request takes places for: one for each continuation that is computed, told or not.
    pub fn num_sequences(&self) -> u32 {
        match self.search {
            Search::Sample | Search::Beam { .. } => self.num_choices,
            Search::BestOf { num_candidates } => num_candidates.max(self.num_choices),
        }
    }
}

/// How continuations are found.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Search {
    /// Each is sampled by itself and told as it comes.
    #[default]
    Sample,
    /// More are sampled than are told: those of the best mean log-probability, best first, when all have ended.
    BestOf {
        /// How many are sampled.
        num_candidates: u32,
    },
    /// Beam search as wide as there are continuations to tell, which come best first when it is over. Nothing is drawn.
    Beam {
        /// A beam's score is its summed log-probability by its length to this power.
        length_penalty: f32,
    },
}

/// How a prompt is made shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTruncation {
    /// How many of its tokens are kept; `None` keeps what the context holds beside the output.
    pub num_tokens: Option<u32>,
    /// Which end is cut.
    pub side: TruncationSide,
}

/// Which end of a prompt is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationSide {
    /// The beginning.
    #[default]
    Left,
    /// The end.
    Right,
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
    /// Whether the tokenizer adds its special tokens to what the template wrote, which commonly has them.
    #[serde(default)]
    pub add_special_tokens: bool,
    /// A template in place of the model's.
    #[serde(default)]
    pub chat_template: Option<String>,
}

impl ChatPrompt {
    /// The size of what its messages say, as it was sent.
    pub fn num_bytes(&self) -> usize {
        let contents = self.messages.iter().filter_map(|message| message.content.as_ref());
        contents.map(Content::num_bytes).sum()
    }
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

impl Content {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(|ContentPart::Text { text }| text.len()).sum(),
        }
    }
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
    /// Keep the tokens whose surprise is closest to what is to be expected, until their probabilities sum to this.
    #[serde(default)]
    pub typical_p: Option<f32>,
    /// Divides the logits of tokens seen in prompt or output.
    pub repetition_penalty: Option<f32>,
    /// Subtracted for each time a token was generated.
    pub frequency_penalty: Option<f32>,
    /// Subtracted once if a token was generated.
    pub presence_penalty: Option<f32>,
    /// No run of so many tokens comes twice, the prompt counted; 0 is off.
    #[serde(default)]
    pub no_repeat_ngram_size: Option<u32>,
    /// Added to logits, by token id.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Only these tokens may come, if there are any.
    #[serde(default)]
    pub allowed_token_ids: Vec<u32>,
    /// Texts that may not come.
    #[serde(default)]
    pub bad_words: Vec<String>,
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
    /// Most tokens of reasoning; then it is ended.
    #[serde(default)]
    pub thinking_token_budget: Option<u32>,
    /// End an output that goes round in circles.
    #[serde(default)]
    pub repetition_detection: Option<RepetitionDetection>,
    /// `false` is greedy whatever the temperature.
    pub do_sample: Option<bool>,
    /// Leave special tokens out of the text (default true).
    pub skip_special_tokens: Option<bool>,
    /// Leave the space that some decoders put between two special tokens (default true).
    #[serde(default)]
    pub spaces_between_special_tokens: Option<bool>,
}

/// When an output goes round in circles: its end is one pattern of tokens, so many times in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepetitionDetection {
    /// Tokens of the longest pattern that is looked for; 0 looks for none.
    pub max_pattern_size: u32,
    /// Tokens of the shortest.
    pub min_pattern_size: u32,
    /// How many times in a row, at least 2.
    pub min_count: u32,
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
        typical_p: options.typical_p.or(defaults.typical_p),
        repetition_penalty: options.repetition_penalty.or(defaults.repetition_penalty),
        frequency_penalty: options.frequency_penalty.or(defaults.frequency_penalty),
        presence_penalty: options.presence_penalty.or(defaults.presence_penalty),
        no_repeat_ngram_size: options.no_repeat_ngram_size.or(defaults.no_repeat_ngram_size),
        logit_bias: if options.logit_bias.is_empty() {
            defaults.logit_bias.clone()
        } else {
            options.logit_bias
        },
        allowed_token_ids: list(options.allowed_token_ids, &defaults.allowed_token_ids),
        bad_words: list(options.bad_words, &defaults.bad_words),
        seed: options.seed.or(defaults.seed),
        max_tokens: options.max_tokens.or(defaults.max_tokens),
        max_tokens_default: options.max_tokens_default.or(defaults.max_tokens_default),
        min_tokens: options.min_tokens.or(defaults.min_tokens),
        stop: list(options.stop, &defaults.stop),
        stop_token_ids: list(options.stop_token_ids, &defaults.stop_token_ids),
        include_stop_str_in_output: options.include_stop_str_in_output || defaults.include_stop_str_in_output,
        ignore_eos: options.ignore_eos || defaults.ignore_eos,
        thinking_token_budget: options.thinking_token_budget.or(defaults.thinking_token_budget),
        repetition_detection: options.repetition_detection.or(defaults.repetition_detection),
        do_sample: options.do_sample.or(defaults.do_sample),
        skip_special_tokens: options.skip_special_tokens.or(defaults.skip_special_tokens),
        spaces_between_special_tokens: options
            .spaces_between_special_tokens
            .or(defaults.spaces_between_special_tokens),
    }
}

/// What to report beside the text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutputOptions {
    /// Report each token's log-probability and this many of the most likely ones.
    pub logprobs: Option<u32>,
    /// Beside the most likely ones, report these tokens at each place.
    #[serde(default)]
    pub logprob_token_ids: Vec<u32>,
    /// Report the prompt too (completions with `echo`), with log-probabilities if `logprobs` is set.
    pub echo: bool,
    /// Report the prompt's log-probabilities and this many of the most likely tokens at each place.
    #[serde(default)]
    pub prompt_logprobs: Option<u32>,
    /// Report the prompt's text.
    #[serde(default)]
    pub prompt_text: bool,
    /// Report every token, also one that adds no text.
    #[serde(default)]
    pub token_ids: bool,
    /// Tell a choice's output in pieces of this many tokens; 0 and 1 tell each as it comes.
    #[serde(default)]
    pub stream_interval: u32,
}
