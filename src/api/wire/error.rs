//! Errors as OpenAI writes them, and the one table from what went wrong to status, `type` and `code`.
//!
//! The table serves both sides of the first byte: an HTTP answer takes the whole row, an error inside a stream takes
//! `type` and `code`.

use candlewick_protocol::ErrorKind;
use serde::Serialize;

/// `{"error": {…}}`.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
    /// The text where clients of `transformers serve` look for it; only on `/load_model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An error as OpenAI's clients read it.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorObject {
    /// What was wrong, and what would be right.
    pub message: String,
    /// The class of error.
    #[serde(rename = "type")]
    pub class: &'static str,
    /// The field at fault, as a dotted path.
    pub param: Option<String>,
    /// The error itself, for programs.
    pub code: &'static str,
}

/// What went wrong, as far as the wire tells it apart: everything the model side reports, and what is found at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Reported by the model side, or by reading the request.
    Kind(ErrorKind),
    /// A required field is absent.
    MissingParameter,
    /// A field is not known, and the server was told to be strict.
    UnknownParameter,
    /// `/load_model` without a model: `transformers serve` answers 422, and its clients look for that.
    MissingLoadModel,
    /// The body is not declared to be JSON.
    ContentType,
    /// The body is compressed.
    ContentEncoding,
    /// The body stood still for too long.
    BodyTimeout,
    /// No key, or a wrong one.
    ApiKey,
    /// No such route.
    UnknownUrl,
    /// No such response, or none any more.
    NotFound,
    /// The route exists with other methods.
    MethodNotAllowed,
    /// The body is larger than the limit.
    PayloadTooLarge,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `type`.
    pub class: &'static str,
    /// OpenAI's `code`.
    pub code: &'static str,
}

/// The table.
pub const fn row(fault: Fault) -> Row {
    const INVALID: &str = "invalid_request_error";
    const SERVER: &str = "server_error";
    let (status, class, code) = match fault {
        Fault::Kind(ErrorKind::InvalidRequest) => (400, INVALID, "invalid_value"),
        Fault::MissingParameter => (400, INVALID, "missing_required_parameter"),
        Fault::UnknownParameter => (400, INVALID, "unknown_parameter"),
        Fault::ContentType => (400, INVALID, "invalid_content_type"),
        Fault::Kind(ErrorKind::ContextOverflow) => (400, INVALID, "context_length_exceeded"),
        Fault::Kind(ErrorKind::Unsupported) => (400, INVALID, "unsupported_operation"),
        Fault::ApiKey => (401, INVALID, "invalid_api_key"),
        Fault::Kind(ErrorKind::Forbidden) => (403, "permission_error", "forbidden"),
        Fault::Kind(ErrorKind::ModelNotFound) => (404, INVALID, "model_not_found"),
        Fault::UnknownUrl => (404, INVALID, "unknown_url"),
        Fault::NotFound => (404, INVALID, "not_found"),
        Fault::MethodNotAllowed => (405, INVALID, "method_not_allowed"),
        Fault::Kind(ErrorKind::Conflict) => (409, "conflict_error", "conflict"),
        Fault::BodyTimeout => (408, INVALID, "request_timeout"),
        Fault::PayloadTooLarge => (413, INVALID, "payload_too_large"),
        Fault::ContentEncoding => (415, INVALID, "invalid_content_encoding"),
        Fault::MissingLoadModel => (422, INVALID, "missing_required_parameter"),
        Fault::Kind(ErrorKind::Overloaded) => (429, "rate_limit_error", "rate_limit_exceeded"),
        // Seen by a client only if an operator ended its request; one that went away reads nothing.
        Fault::Kind(ErrorKind::Cancelled) => (499, SERVER, "cancelled"),
        Fault::Kind(ErrorKind::Internal) => (500, SERVER, "internal_error"),
        Fault::Kind(ErrorKind::Unavailable) => (503, SERVER, "unavailable"),
        // There is no code for a model that loads: a request for it waits, and its stream tells the progress.
        Fault::Kind(ErrorKind::Draining) => (503, SERVER, "draining"),
        Fault::Kind(ErrorKind::OutOfMemory) => (503, SERVER, "insufficient_memory"),
        Fault::Kind(ErrorKind::Timeout) => (504, SERVER, "timeout"),
    };
    Row { status, class, code }
}
