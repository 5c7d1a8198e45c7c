//! `/v1/completions`: the request as a whole.

use candlewick_protocol::{GenerationRequest, Prompt, RequestId, TruncationSide, merge_sampling};
use serde_json::{Map, Value};

use super::fields::{Fields, token_ids_at, wrong_type};
use super::format::read_constraint;
use super::sampling::{check_token_limits, read_generation_config, read_sampling};
use super::shape::{read_cache_salt, read_choices, read_num_top, read_output, read_truncation};
use super::shared::{
    ReplyOptions, read_harmless, read_model, read_priority, read_request_id, read_stream, read_timeout,
    refuse_unsupported,
};
use crate::ApiSettings;
use crate::error::ApiError;
use crate::sender::Sender;

/// Most prompts in one request.
const NUM_PROMPTS_MAX: usize = 1024;
/// OpenAI's default for this route.
const MAX_TOKENS_DEFAULT: u32 = 16;

/// A completions request, read.
#[derive(Debug)]
pub struct CompletionsCall {
    /// One for each prompt, in order.
    pub generations: Vec<GenerationRequest>,
    /// How their answers are written.
    pub reply: ReplyOptions,
}

/// Reads a completions request.
pub fn read_completions(
    body: Map<String, Value>,
    sender: Sender,
    settings: &ApiSettings,
) -> Result<CompletionsCall, ApiError> {
    let mut fields = Fields::root(body);
    let (model_name, model) = read_model(&mut fields)?.unzip();
    let add_special_tokens = fields.bool("add_special_tokens")?.unwrap_or(true);
    let prompts = read_prompts(&mut fields, add_special_tokens)?;
    let echo = fields.flag("echo")?;
    let prompts = read_suffix(&mut fields, prompts, echo)?;
    let stream = read_stream(&mut fields)?;

    let mut sampling = read_sampling(&mut fields)?;
    sampling.max_tokens = fields.count("max_tokens", u32::from(!echo))?;
    if let Some(config) = read_generation_config(&mut fields)? {
        sampling = merge_sampling(sampling, &config);
    }
    sampling.max_tokens_default = Some(MAX_TOKENS_DEFAULT);
    check_token_limits(&sampling)?;

    let choices = read_choices(&mut fields, stream.is_some())?;
    let logprobs = read_num_top(&mut fields, "logprobs", settings.max_logprobs)?;
    let output = read_output(&mut fields, logprobs, echo, stream.is_some(), settings)?;
    let reply = ReplyOptions {
        stream,
        model: model_name,
        tokens_as_token_ids: fields.flag("return_tokens_as_token_ids")?,
        hide_reasoning: false,
        echo_service_tier: read_harmless(&mut fields)?,
        echo_text: None,
        reasoning_fields: settings.reasoning_fields,
        calls_are_function_calls: false,
        request_id: read_request_id(&mut fields)?,
        ..ReplyOptions::default()
    }
    .reporting(&output);
    let (truncation, cache_salt) =
        (read_truncation(&mut fields, TruncationSide::Left)?, read_cache_salt(&mut fields)?);
    let constraint = read_constraint(&mut fields)?;
    let priority = read_priority(&mut fields)?;
    let timeout = read_timeout(&mut fields, sender.timeout)?;
    fields.refuse("prompt_embeds", "send `prompt` as text or token ids", |_| false)?;
    refuse_unsupported(&mut fields)?;
    fields.finish_request(settings.strict_fields)?;

    let request_id = reply.request_id.as_deref().map_or(sender.request_id, RequestId::from);
    let generations = prompts.into_iter().map(|prompt| GenerationRequest {
        request_id: request_id.clone(),
        model: model.clone(),
        prompt,
        sampling: sampling.clone(),
        num_choices: choices.num,
        search: choices.search,
        constraint: constraint.clone(),
        output: output.clone(),
        priority,
        truncation,
        cache_salt: cache_salt.clone(),
        timeout,
        share: sender.share.clone(),
    });
    Ok(CompletionsCall { generations: generations.collect(), reply })
}

/// `prompt` in its four forms: text, texts, token ids, lists of token ids.
fn read_prompts(fields: &mut Fields, add_special_tokens: bool) -> Result<Vec<Prompt>, ApiError> {
    let path = fields.path("prompt");
    let prompt = fields.take("prompt");
    let items = match fields.require("prompt", prompt)? {
        Value::String(text) => return Ok(vec![Prompt::Text { text, add_special_tokens }]),
        Value::Array(items) => items,
        other => {
            return Err(wrong_type(&path, "text, a list of texts, token ids or a list of those", &other));
        }
    };
    match items.first() {
        None => return Err(ApiError::invalid(path, "`prompt` must not be an empty list")),
        Some(Value::Number(_)) => return Ok(vec![Prompt::Tokens(token_ids_at(&path, &items)?)]),
        Some(_) if items.len() > NUM_PROMPTS_MAX => {
            return Err(ApiError::invalid(
                path,
                format!("`prompt` holds at most {NUM_PROMPTS_MAX} prompts, not {}", items.len()),
            ));
        }
        Some(_) => {}
    }
    let texts = items[0].is_string();
    let prompts = items.into_iter().enumerate().map(|(index, item)| {
        let path = format!("{path}.{index}");
        match item {
            Value::String(text) if texts => Ok(Prompt::Text { text, add_special_tokens }),
            Value::Array(ids) if !texts && ids.is_empty() => {
                Err(ApiError::invalid(path.as_str(), format!("`{path}` must hold at least one token id")))
            }
            Value::Array(ids) if !texts => Ok(Prompt::Tokens(token_ids_at(&path, &ids)?)),
            other if texts => Err(wrong_type(&path, "a string like the first prompt", &other)),
            other => Err(wrong_type(&path, "a list of token ids", &other)),
        }
    });
    prompts.collect()
}

/// With a `suffix`, each text becomes the part before a gap.
fn read_suffix(fields: &mut Fields, prompts: Vec<Prompt>, echo: bool) -> Result<Vec<Prompt>, ApiError> {
    let Some(suffix) = fields.string("suffix")?.filter(|suffix| !suffix.is_empty()) else {
        return Ok(prompts);
    };
    if echo {
        return Err(ApiError::invalid("suffix", "`suffix` and `echo` cannot be combined"));
    }
    let prompts = prompts.into_iter().map(|prompt| match prompt {
        Prompt::Text { text, .. } => Ok(Prompt::Infill { prefix: text, suffix: suffix.clone() }),
        _ => Err(ApiError::invalid("suffix", "`suffix` needs a `prompt` of text, not of token ids")),
    });
    prompts.collect()
}
