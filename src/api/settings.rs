//! What the HTTP side can be told.

use std::fmt;
use std::time::Duration;

use crate::auth::ApiKey;

/// The web pages that may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// None.
    Off,
    /// All.
    AnyOrigin,
    /// Those of these origins.
    Origins(Vec<String>),
}

/// The names under which chat answers tell reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningFields {
    /// Both names, with the same text.
    #[default]
    Both,
    /// `reasoning`.
    Reasoning,
    /// `reasoning_content`.
    ReasoningContent,
}

impl ReasoningFields {
    /// A text under `reasoning` and under `reasoning_content`.
    pub(crate) fn of(self, text: Option<String>) -> (Option<String>, Option<String>) {
        match self {
            Self::Both => (text.clone(), text),
            Self::Reasoning => (text, None),
            Self::ReasoningContent => (None, text),
        }
    }
}

/// What the HTTP side can be told.
#[derive(Clone, PartialEq)]
pub struct ApiSettings {
    /// Keys that open the server; none leaves it open to all.
    pub api_keys: Vec<ApiKey>,
    /// Which web pages may ask.
    pub cors: Cors,
    /// Under which names chat answers tell reasoning.
    pub reasoning_fields: ReasoningFields,
    /// `/metrics` needs no key.
    pub metrics_public: bool,
    /// Largest body of a request.
    pub body_limit_bytes: usize,
    /// How long the head of a request may take. Read once, when the server starts.
    pub header_timeout: Duration,
    /// How long a request's body may stand still before the client is told so, and its connection closed.
    pub body_timeout: Duration,
    /// Bytes of a body that must have come for each second beyond that; 0 asks for none.
    pub min_body_rate: u64,
    /// A stream with nothing to say sends a comment this often.
    pub keep_alive: Duration,
    /// How long a stream is held back in case its first event is a failure, which then gets its own HTTP status.
    pub stream_open_after: Duration,
    /// Most of the likeliest tokens that a request may ask for with log-probabilities.
    pub max_logprobs: u32,
    /// Name the model with its revision even to clients that named none.
    pub echo_revision: bool,
    /// Requests may bring a chat template of their own.
    pub trust_request_chat_template: bool,
    /// Refuse fields of a request that are not known.
    pub strict_fields: bool,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            cors: Cors::Off,
            reasoning_fields: ReasoningFields::Both,
            metrics_public: false,
            body_limit_bytes: 32 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            min_body_rate: 4096,
            keep_alive: Duration::from_secs(1),
            stream_open_after: Duration::from_millis(200),
            max_logprobs: 20,
            echo_revision: false,
            trust_request_chat_template: false,
            strict_fields: false,
        }
    }
}

/// Without the keys themselves: settings are logged.
impl fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiSettings")
            .field("num_api_keys", &self.api_keys.len())
            .field("cors", &self.cors)
            .field("reasoning_fields", &self.reasoning_fields)
            .field("metrics_public", &self.metrics_public)
            .field("body_limit_bytes", &self.body_limit_bytes)
            .field("header_timeout", &self.header_timeout)
            .field("body_timeout", &self.body_timeout)
            .field("min_body_rate", &self.min_body_rate)
            .field("keep_alive", &self.keep_alive)
            .field("stream_open_after", &self.stream_open_after)
            .field("max_logprobs", &self.max_logprobs)
            .field("echo_revision", &self.echo_revision)
            .field("trust_request_chat_template", &self.trust_request_chat_template)
            .field("strict_fields", &self.strict_fields)
            .finish()
    }
}
