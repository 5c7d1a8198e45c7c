//! Sampling parameters: ranges as OpenAI and vLLM have them, then `generation_config` under them.

use std::collections::BTreeMap;

use candlewick_protocol::{RepetitionDetection, SamplingOptions, quoted};
use serde_json::Value;

use super::fields::{Fields, wrong_type};
use crate::error::ApiError;

/// Most stop strings in a request.
const NUM_STOP_MAX: usize = 4;
/// Most words that may not come.
const NUM_BAD_WORDS_MAX: usize = 128;

/// Reads all fields that choose tokens, except `max_tokens`, whose rules differ by route.
pub fn read_sampling(fields: &mut Fields) -> Result<SamplingOptions, ApiError> {
    let within = |min: f64, max: f64| move |number: f64| (min..=max).contains(&number);
    Ok(SamplingOptions {
        temperature: fields.number("temperature", "from 0 to 2", within(0.0, 2.0))?,
        top_p: fields.number("top_p", "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?,
        top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?,
        min_p: fields.number("min_p", "from 0 to 1", within(0.0, 1.0))?,
        typical_p: fields.number("typical_p", "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?,
        no_repeat_ngram_size: fields.count("no_repeat_ngram_size", 0)?,
        repetition_penalty: fields.number("repetition_penalty", "above 0", |penalty| penalty > 0.0)?,
        frequency_penalty: fields.number("frequency_penalty", "from -2 to 2", within(-2.0, 2.0))?,
        presence_penalty: fields.number("presence_penalty", "from -2 to 2", within(-2.0, 2.0))?,
        logit_bias: read_logit_bias(fields)?,
        allowed_token_ids: read_allowed(fields)?,
        bad_words: read_bad_words(fields)?,
        // -1 is vLLM's way to say that there is none; as a seed it would be as good as any other.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.filter(|seed| *seed != -1),
        max_tokens: None,
        max_tokens_default: None,
        min_tokens: fields.count("min_tokens", 0)?,
        stop: read_stop(fields)?,
        stop_token_ids: fields.token_ids("stop_token_ids")?.unwrap_or_default(),
        include_stop_str_in_output: fields.flag("include_stop_str_in_output")?,
        ignore_eos: fields.flag("ignore_eos")?,
        thinking_token_budget: read_thinking_budget(fields)?,
        repetition_detection: read_repetition(fields)?,
        do_sample: fields.bool("do_sample")?,
        skip_special_tokens: fields.bool("skip_special_tokens")?,
        spaces_between_special_tokens: fields.bool("spaces_between_special_tokens")?,
    })
}

fn read_allowed(fields: &mut Fields) -> Result<Vec<u32>, ApiError> {
    match fields.token_ids("allowed_token_ids")? {
        Some(ids) if ids.is_empty() => Err(ApiError::invalid(
            fields.path("allowed_token_ids"),
            "`allowed_token_ids` must not be an empty list: nothing could be generated",
        )),
        ids => Ok(ids.unwrap_or_default()),
    }
}

fn read_bad_words(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path("bad_words");
    let items = fields.list("bad_words")?.unwrap_or_default();
    if items.len() > NUM_BAD_WORDS_MAX {
        let message = format!("`bad_words` holds at most {NUM_BAD_WORDS_MAX} words, not {}", items.len());
        return Err(ApiError::invalid(path, message));
    }
    let words = items.into_iter().enumerate().map(|(index, item)| match item {
        Value::String(word) if !word.trim().is_empty() => Ok(word),
        other => Err(wrong_type(&format!("{path}.{index}"), "a string that is not empty", &other)),
    });
    words.collect()
}

/// -1 sets no limit.
fn read_thinking_budget(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let budget = fields.integer("thinking_token_budget", -1..=i64::from(u32::MAX))?;
    Ok(budget.and_then(|budget| u32::try_from(budget).ok()))
}

/// An object without `max_pattern_size` looks for nothing. What does not fit together is found when it is resolved.
fn read_repetition(fields: &mut Fields) -> Result<Option<RepetitionDetection>, ApiError> {
    let Some(mut detection) = fields.object("repetition_detection")? else { return Ok(None) };
    let read = RepetitionDetection {
        max_pattern_size: detection.count("max_pattern_size", 0)?.unwrap_or(0),
        min_pattern_size: detection.count("min_pattern_size", 0)?.unwrap_or(0),
        min_count: detection.count("min_count", 0)?.unwrap_or(0),
    };
    detection.finish();
    Ok(Some(read))
}

fn read_logit_bias(fields: &mut Fields) -> Result<BTreeMap<u32, f32>, ApiError> {
    let path = fields.path("logit_bias");
    let mut biases = BTreeMap::new();
    for (key, value) in fields.map("logit_bias")?.unwrap_or_default() {
        let at = format!("{path}.{key}");
        let Ok(token) = key.parse::<u32>() else {
            return Err(ApiError::invalid(
                at,
                format!("a key of `logit_bias` must be a token id, not {}", quoted(&key)),
            ));
        };
        let Some(bias) = value.as_f64() else {
            return Err(wrong_type(&at, "a number from -100 to 100", &value));
        };
        biases.insert(token, bias.clamp(-100.0, 100.0) as f32);
    }
    Ok(biases)
}

fn read_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path("stop");
    let items = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(text @ Value::String(_)) => vec![text],
        Some(other) => return Err(wrong_type(&path, "a string or a list of strings", &other)),
    };
    if items.len() > NUM_STOP_MAX {
        return Err(ApiError::invalid(
            path,
            format!("`stop` holds at most {NUM_STOP_MAX} strings, not {}", items.len()),
        ));
    }
    let mut stop = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let at = format!("{path}.{index}");
        match item {
            Value::String(text) if text.is_empty() => {
                return Err(ApiError::invalid(at, "a stop string must not be empty"));
            }
            Value::String(text) => stop.push(text),
            other => return Err(wrong_type(&at, "a string", &other)),
        }
    }
    Ok(stop)
}

/// Reads the JSON text of `generation_config`, which `transformers` clients send for what OpenAI has no field for.
pub fn read_generation_config(fields: &mut Fields) -> Result<Option<SamplingOptions>, ApiError> {
    let path = fields.path("generation_config");
    let text = match fields.take("generation_config") {
        None => return Ok(None),
        Some(Value::String(text)) => text,
        // The peer takes only text; an object cannot mean anything else.
        Some(value @ Value::Object(_)) => value.to_string(),
        Some(other) => return Err(wrong_type(&path, "a string that holds a JSON object", &other)),
    };
    Ok(Some(SamplingOptions::from_generation_config(&text)?))
}

/// Refuses a `min_tokens` above `max_tokens`.
pub fn check_token_limits(sampling: &SamplingOptions) -> Result<(), ApiError> {
    match (sampling.min_tokens, sampling.max_tokens.or(sampling.max_tokens_default)) {
        (Some(min), Some(max)) if min > max => Err(ApiError::invalid(
            "min_tokens",
            format!("`min_tokens` is {min} and the most tokens to generate are {max}; it must not be more"),
        )),
        _ => Ok(()),
    }
}
