//! What chat and completions have in common beside sampling: the model, streaming, harmless fields, refused fields.

use std::time::Duration;

use candlewick_protocol::{ModelRef, OutputOptions};
use serde_json::Value;

use super::fields::{Fields, wrong_type};
use crate::ReasoningFields;
use crate::error::ApiError;
use crate::sender::{sooner, timeout_of_seconds};

/// How the answer is to be written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplyOptions {
    /// In chunks, and how; `None` is whole.
    pub stream: Option<StreamOptions>,
    /// The model as the client named it.
    pub model: Option<String>,
    /// Report token ids.
    pub return_token_ids: bool,
    /// Report the prompt's text.
    pub return_prompt_text: bool,
    /// Put the prompt before the answer (`echo` of completions).
    pub echo_prompt: bool,
    /// How many of the likeliest tokens are told at each place of the answer.
    pub num_top: u32,
    /// As many at each place of the prompt, in a list of its own.
    pub prompt_logprobs: Option<u32>,
    /// Write tokens of log-probabilities as `token_id:N`.
    pub tokens_as_token_ids: bool,
    /// The client sent a `service_tier`, and is told which it gets.
    pub echo_service_tier: bool,
    /// Leave reasoning out of the answer.
    pub hide_reasoning: bool,
    /// Under which names reasoning is told.
    pub reasoning_fields: ReasoningFields,
    /// Tell a call under its older name, `function_call`.
    pub calls_are_function_calls: bool,
    /// Text to put before the answer (`echo` of a last assistant message).
    pub echo_text: Option<String>,
    /// The id for the object, if the body names one.
    pub request_id: Option<String>,
}

impl ReplyOptions {
    /// What is written of what is reported.
    pub fn reporting(self, output: &OutputOptions) -> Self {
        Self {
            return_token_ids: output.token_ids,
            return_prompt_text: output.prompt_text,
            echo_prompt: output.echo,
            num_top: output.logprobs.unwrap_or(0),
            prompt_logprobs: output.prompt_logprobs,
            ..self
        }
    }
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// One more chunk with the token counts.
    pub include_usage: bool,
    /// Token counts so far in every chunk.
    pub continuous_usage_stats: bool,
}

/// The model a client names, and the name as it was sent.
pub fn read_model(fields: &mut Fields) -> Result<Option<(String, ModelRef)>, ApiError> {
    let Some(name) = fields.string("model")? else { return Ok(None) };
    match name.parse() {
        Ok(model) => Ok(Some((name, model))),
        Err(error) => Err(ApiError::invalid(fields.path("model"), error.to_string())),
    }
}

/// Reads `stream` and `stream_options`.
pub fn read_stream(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
    let stream = fields.flag("stream")?;
    let path = fields.path("stream_options");
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(stream.then(StreamOptions::default));
    };
    if !stream {
        return Err(ApiError::invalid(path, "`stream_options` is only allowed together with `stream: true`"));
    }
    let read = StreamOptions {
        include_usage: options.flag("include_usage")?,
        continuous_usage_stats: options.flag("continuous_usage_stats")?,
    };
    // Padding against eavesdropping; the client must not depend on it.
    options.bool("include_obfuscation")?;
    options.finish();
    Ok(Some(read))
}

/// Checks and drops what changes nothing here; returns whether a `service_tier` was sent.
pub fn read_harmless(fields: &mut Fields) -> Result<bool, ApiError> {
    fields.string("user")?;
    fields.string("session_id")?;
    fields.string("prompt_cache_key")?;
    fields.word("prompt_cache_retention", &["in_memory", "in-memory", "24h"])?;
    fields.bool("store")?;
    let tier = fields.word("service_tier", &["auto", "default", "flex", "scale", "priority", "fast"])?;
    if let Some(id) = fields.string("safety_identifier")? {
        at_most(&fields.path("safety_identifier"), &id, 64)?;
    }
    let path = fields.path("metadata");
    if let Some(metadata) = fields.map("metadata")? {
        if metadata.len() > 16 {
            return Err(ApiError::invalid(
                path,
                format!("`metadata` holds at most 16 pairs, not {}", metadata.len()),
            ));
        }
        for (key, value) in &metadata {
            let path = format!("{path}.{key}");
            if key.chars().count() > 64 {
                return Err(ApiError::invalid(path, "a key of `metadata` has at most 64 characters"));
            }
            match value {
                Value::String(text) => at_most(&path, text, 512)?,
                other => return Err(wrong_type(&path, "a string", other)),
            }
        }
    }
    Ok(tier.is_some())
}

fn at_most(path: &str, text: &str, max: usize) -> Result<(), ApiError> {
    let count = text.chars().count();
    if count <= max {
        return Ok(());
    }
    Err(ApiError::invalid(path, format!("`{path}` has at most {max} characters, not {count}")))
}

/// An id for the request in its body, as vLLM has it.
pub fn read_request_id(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let Some(id) = fields.string("request_id")? else { return Ok(None) };
    if crate::request_id::is_sane(&id) {
        return Ok(Some(id));
    }
    let path = fields.path("request_id");
    Err(ApiError::invalid(path, "`request_id` must be 1 to 128 printable ASCII characters"))
}

/// How long the answer is waited for: in the body, or in a header.
pub fn read_timeout(fields: &mut Fields, of_headers: Option<Duration>) -> Result<Option<Duration>, ApiError> {
    let Some(value) = fields.take("timeout") else { return Ok(of_headers) };
    let timeout = value.as_f64().and_then(timeout_of_seconds);
    let timeout =
        timeout.ok_or_else(|| wrong_type(&fields.path("timeout"), "a number of seconds above 0", &value))?;
    Ok(sooner(Some(timeout), of_headers))
}

/// Lower runs first.
pub fn read_priority(fields: &mut Fields) -> Result<i32, ApiError> {
    let priority = fields.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?.unwrap_or(0);
    Ok(i32::try_from(priority).expect("the range is that of i32"))
}

/// Refuses what other servers have under these names and this one does not.
pub fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    let is_empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };

    fields.refuse("vllm_xargs", "there are no custom processors", is_empty)?;
    for name in ["kv_transfer_params", "ec_transfer_params"] {
        fields.refuse(name, "there is no disaggregated serving", is_empty)?;
    }
    Ok(())
}
