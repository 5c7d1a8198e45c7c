//! What the Hub means when it says no, in words that say what to do.
//!
//! The Hub answers 401 for a repository that it will not admit exists, and tells cases apart by the header
//! `X-Error-Code`; the rules here are those of `hf_raise_for_status` in Python's `huggingface_hub`.

use std::error::Error;
use std::time::Duration;

use candlewick_engine::LoadError;
use hf_hub::HFError;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// What was asked, for the text of an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    /// The file, if it was one.
    pub(crate) file: Option<&'a str>,
    pub(crate) has_token: bool,
}

/// An HTTP answer that is not a success.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// `X-Error-Code`.
    pub(crate) code: Option<String>,
    /// `X-Error-Message`, or the `error` of the body.
    pub(crate) message: Option<String>,
    /// `Retry-After` in seconds.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn of(status: u16, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let retry_after = text(RETRY_AFTER.as_str()).and_then(|value| value.trim().parse().ok());
        Self {
            status,
            code: text("x-error-code"),
            message: text("x-error-message"),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 429 | 500..=599)
    }

    /// As an error that says what to do.
    pub(crate) fn error(&self, asked: &Asked<'_>) -> LoadError {
        let Asked { endpoint, repo, revision, file, has_token } = *asked;
        let message = self.message.as_deref().unwrap_or_default();
        let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
        let token_is_bad = self.code.is_none() && (has_token || message.starts_with("Invalid credentials"));
        match (self.status, self.code.as_deref()) {
            (_, Some("GatedRepo")) if has_token => LoadError::Forbidden(format!(
                "`{repo}` is gated, and the account of this token has no access to it: accept its terms at {endpoint}/{repo}"
            )),
            (_, Some("GatedRepo")) => LoadError::Forbidden(format!(
                "`{repo}` is gated: accept its terms at {endpoint}/{repo}, then set HF_TOKEN to a token of that account"
            )),
            (401, _) if token_is_bad => LoadError::Forbidden(format!(
                "{endpoint} refuses the token{said}: set HF_TOKEN to a valid one, or unset it for public models"
            )),
            (_, Some("RevisionNotFound")) => {
                LoadError::NotFound(format!("`{repo}` has no revision `{revision}` at {endpoint}"))
            }
            (_, Some("EntryNotFound")) => LoadError::NotFound(format!(
                "`{repo}` has no file `{}` at revision `{revision}`",
                file.unwrap_or_default()
            )),
            (401 | 404, code) => {
                let what = match file {
                    Some(file) if code.is_none() && self.status == 404 => {
                        format!("file `{file}` in model `{repo}`")
                    }
                    _ => format!("model `{repo}`"),
                };
                let private = if has_token { "the token has no access to it" } else { "HF_TOKEN is not set" };
                LoadError::NotFound(format!(
                    "there is no {what} at {endpoint}: check the spelling (`org/name`); if it is private, {private}"
                ))
            }
            (403 | 451, _) => LoadError::Forbidden(format!("{endpoint} refuses access to `{repo}`{said}")),
            (429, _) => LoadError::Network(format!(
                "{endpoint} asks to slow down (429){said}: try again later, or set HF_TOKEN for a higher limit"
            )),
            (status, _) => LoadError::Network(format!("{endpoint} answered {status} for `{repo}`{said}")),
        }
    }
}

/// An error of hf-hub as one of ours.
pub(crate) fn hub_error(error: &HFError, asked: &Asked<'_>) -> LoadError {
    let refused = |status: u16, code: &Option<String>, message: &Option<String>| {
        Refusal { status, code: code.clone(), message: message.clone(), retry_after: None }.error(asked)
    };
    match error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::RateLimited { context, .. }
        | HFError::RepoNotFound { context: Some(context), .. }
        | HFError::RevisionNotFound { context: Some(context), .. }
        | HFError::EntryNotFound { context: Some(context), .. } => {
            refused(context.status.as_u16(), &context.error_code, &context.server_message)
        }
        HFError::Request { source, .. } => unreachable(source, asked),
        other => LoadError::Network(format!(
            "{} gave no usable answer for `{}`: {other}",
            asked.endpoint, asked.repo
        )),
    }
}

/// The Hub could not be reached.
pub(crate) fn unreachable(error: &reqwest::Error, asked: &Asked<'_>) -> LoadError {
    let why = if error.is_timeout() { "it did not answer in time".into() } else { root_cause(error) };
    LoadError::Network(format!("{} could not be reached for `{}`: {why}", asked.endpoint, asked.repo))
}

/// The innermost reason: reqwest's own text names the URL and little else.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
