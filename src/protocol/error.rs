//! What can go wrong, as few kinds to branch on and rich text to read.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a request failed, as far as anyone would act differently. `api/wire/error.rs` holds the one table from kind to
/// HTTP status and OpenAI `type` and `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is wrong in itself: a value out of range, a field missing. Sending it again will not help.
    InvalidRequest,
    /// Prompt and requested output do not fit the model's context.
    ContextOverflow,
    /// No such model, revision or file, here or at its source.
    ModelNotFound,
    /// The source refuses this user: a gated repository, a missing or wrong token.
    Forbidden,
    /// Known, and not something this model or this build can do.
    Unsupported,
    /// The request contradicts the present state: unloading a busy model, for example.
    Conflict,
    /// A limit of ours is reached. Worth trying again after `retry_after`.
    Overloaded,
    /// The model cannot answer now: it failed to load or crashed too often.
    Unavailable,
    /// The server is stopping: it finishes what it has begun. Another one may answer.
    Draining,
    /// Not enough memory for the model or the request.
    OutOfMemory,
    /// A deadline passed.
    Timeout,
    /// The client went away or the request was ended by an operator.
    Cancelled,
    /// Our fault.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::InvalidRequest,
        Self::ContextOverflow,
        Self::ModelNotFound,
        Self::Forbidden,
        Self::Unsupported,
        Self::Conflict,
        Self::Overloaded,
        Self::Unavailable,
        Self::Draining,
        Self::OutOfMemory,
        Self::Timeout,
        Self::Cancelled,
        Self::Internal,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextOverflow => "context_overflow",
            Self::ModelNotFound => "model_not_found",
            Self::Forbidden => "forbidden",
            Self::Unsupported => "unsupported",
            Self::Conflict => "conflict",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Draining => "draining",
            Self::OutOfMemory => "out_of_memory",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// A failure as it is told to a client: the kind to branch on and the text to read.
///
/// The message is a lower-case sentence without a full stop that says what was wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of failure this is.
    pub kind: ErrorKind,
    /// What was wrong, and what would be right.
    pub message: String,
    /// The request field at fault, as a dotted path (`messages.0.role`).
    pub param: Option<String>,
    /// When it may be worth trying again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of a kind, with its text.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: None }
    }

    /// An invalid field of the request.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(ErrorKind::InvalidRequest, message) }
    }

    /// Names the request field at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to try again.
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
