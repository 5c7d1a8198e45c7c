//! Failures on their way to a client: any of them becomes an HTTP answer before the first byte, or a frame after it.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpResponse, ResponseError};
use candlewick_protocol::{ErrorKind, Failure, clipped, clipped_at};

use crate::wire::error::{ErrorBody, ErrorObject, Fault, row};

/// Most characters of a message. Values in it are [`clipped`] where it is made; this holds for texts that come from
/// elsewhere, such as an exception that a chat template raises.
const MESSAGE_CHARS_MAX: usize = 1000;

/// A failure with what the wire says about it.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The row of the table.
    pub fault: Fault,
    /// What was wrong, and what would be right.
    pub message: String,
    /// The field at fault, as a dotted path.
    pub param: Option<String>,
    /// Becomes `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Becomes `Allow`.
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// A failure with its text.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        let message = clipped_at(&message.into(), MESSAGE_CHARS_MAX).into_owned();
        Self { fault, message, param: None, retry_after: None, allow: None }
    }

    /// Names the field at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        // A path may hold a key of the client's.
        self.param = Some(clipped(&param.into()).into_owned());
        self
    }

    /// Names the place of a fault that was found at `from` (a path, in the message and as the field at fault) as it stands
    /// in the request.
    pub fn below(mut self, from: &str, to: &str) -> Self {
        self.message = self.message.replace(&format!("`{from}"), &format!("`{to}"));
        self.param = self.param.map(|param| match param.strip_prefix(from) {
            Some(rest) => format!("{to}{rest}"),
            None => param,
        });
        self
    }

    /// A field has a wrong value.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Fault::Kind(ErrorKind::InvalidRequest), message).with_param(param)
    }

    /// A required field is absent.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        Self::new(Fault::MissingParameter, format!("`{param}` is required and is missing")).with_param(param)
    }

    /// There is no such field.
    pub fn unknown(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!(
            "`{}` is no field of this request; this server refuses fields that it does not know",
            clipped(&param)
        );
        Self::new(Fault::UnknownParameter, message).with_param(param)
    }

    /// A field asks for what exists elsewhere and not here.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Fault::Kind(ErrorKind::Unsupported), message).with_param(param)
    }

    /// Our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Fault::Kind(ErrorKind::Internal), message)
    }

    /// As JSON, the same in an answer's body and in a stream.
    pub fn body(&self) -> ErrorBody {
        let row = row(self.fault);
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                class: row.class,
                param: self.param.clone(),
                code: row.code,
            },
            detail: (self.fault == Fault::MissingLoadModel)
                .then(|| "Missing `model` field in the request body.".to_owned()),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let param = match failure.kind {
            ErrorKind::ModelNotFound => failure.param.or_else(|| Some("model".to_owned())),
            _ => failure.param,
        };
        let error = Self::new(Fault::Kind(failure.kind), failure.message);
        let error = Self { retry_after: failure.retry_after, ..error };
        match param {
            Some(param) => error.with_param(param),
            None => error,
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(row(self.fault).status).expect("every status of the table is a valid one")
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self.fault {
            Fault::ApiKey => _ = response.insert_header((header::WWW_AUTHENTICATE, "Bearer")),
            // What would be right (RFC 9110, section 15.5.16).
            Fault::ContentEncoding => _ = response.insert_header((header::ACCEPT_ENCODING, "identity")),
            // Worth trying again even if nobody said when.
            Fault::Kind(ErrorKind::Overloaded) if self.retry_after.is_none() => {
                _ = response.insert_header((header::RETRY_AFTER, "1"));
            }
            _ => {}
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, and never zero: a client that obeys must not come back in the same instant.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1).to_string()));
        }
        if let Some(allow) = self.allow {
            response.insert_header((header::ALLOW, allow));
        }
        if self.status_code().is_server_error() {
            tracing::warn!(status = row(self.fault).status, "request failed: {}", self.message);
        }
        response.json(self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ErrorKind, status: u16, class: &str, code: &str) {
        let error = ApiError::from(Failure::new(kind, "it broke"));
        assert_eq!(error.status_code().as_u16(), status);
        let body = serde_json::to_value(error.body()).expect("errors serialise");
        assert_eq!(body["error"]["type"], class);
        assert_eq!(body["error"]["code"], code);
        assert_eq!(body["error"]["message"], "it broke");
        assert!(
            body["error"].as_object().expect("an object").contains_key("param"),
            "param is there, even if null"
        );
    }

    #[test]
    fn each_kind_has_its_status_type_and_code() {
        check(ErrorKind::InvalidRequest, 400, "invalid_request_error", "invalid_value");
        check(ErrorKind::ContextOverflow, 400, "invalid_request_error", "context_length_exceeded");
        check(ErrorKind::ModelNotFound, 404, "invalid_request_error", "model_not_found");
        check(ErrorKind::Forbidden, 403, "permission_error", "forbidden");
        check(ErrorKind::Unsupported, 400, "invalid_request_error", "unsupported_operation");
        check(ErrorKind::Conflict, 409, "conflict_error", "conflict");
        check(ErrorKind::Overloaded, 429, "rate_limit_error", "rate_limit_exceeded");
        check(ErrorKind::Unavailable, 503, "server_error", "unavailable");
        check(ErrorKind::Draining, 503, "server_error", "draining");
        check(ErrorKind::OutOfMemory, 503, "server_error", "insufficient_memory");
        check(ErrorKind::Timeout, 504, "server_error", "timeout");
        check(ErrorKind::Cancelled, 499, "server_error", "cancelled");
        check(ErrorKind::Internal, 500, "server_error", "internal_error");
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let failure =
            Failure::new(ErrorKind::Overloaded, "full").with_retry_after(Duration::from_millis(1200));
        let response = ApiError::from(failure).error_response();
        assert_eq!(response.headers().get(header::RETRY_AFTER).expect("it is set"), "2");
        let failure =
            Failure::new(ErrorKind::Unavailable, "crashed").with_retry_after(Duration::from_secs(9));
        let response = ApiError::from(failure).error_response();
        assert_eq!(response.headers().get(header::RETRY_AFTER).expect("with any status"), "9");
    }
}
