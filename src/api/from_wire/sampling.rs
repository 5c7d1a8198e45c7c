//! Sampling parameters: ranges as OpenAI and vLLM have them, then `generation_config` under them.

use std::collections::BTreeMap;

use candlewick_protocol::{SamplingOptions, quoted};
use serde_json::Value;

use super::fields::{Fields, integer_at, wrong_type};
use crate::error::ApiError;

/// Most stop strings in a request.
const NUM_STOP_MAX: usize = 4;

/// Reads all fields that choose tokens, except `max_tokens`, whose rules differ by route.
pub fn read_sampling(fields: &mut Fields) -> Result<SamplingOptions, ApiError> {
    let within = |min: f64, max: f64| move |number: f64| (min..=max).contains(&number);
    Ok(SamplingOptions {
        temperature: fields.number("temperature", "from 0 to 2", within(0.0, 2.0))?,
        top_p: fields.number("top_p", "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?,
        top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?,
        min_p: fields.number("min_p", "from 0 to 1", within(0.0, 1.0))?,
        repetition_penalty: fields.number("repetition_penalty", "above 0", |penalty| penalty > 0.0)?,
        frequency_penalty: fields.number("frequency_penalty", "from -2 to 2", within(-2.0, 2.0))?,
        presence_penalty: fields.number("presence_penalty", "from -2 to 2", within(-2.0, 2.0))?,
        logit_bias: read_logit_bias(fields)?,
        // -1 is vLLM's way to say that there is none; as a seed it would be as good as any other.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.filter(|seed| *seed != -1),
        max_tokens: None,
        max_tokens_default: None,
        min_tokens: fields.count("min_tokens", 0)?,
        stop: read_stop(fields)?,
        stop_token_ids: fields.token_ids("stop_token_ids")?.unwrap_or_default(),
        include_stop_str_in_output: fields.flag("include_stop_str_in_output")?,
        ignore_eos: fields.flag("ignore_eos")?,
        do_sample: fields.bool("do_sample")?,
        skip_special_tokens: fields.bool("skip_special_tokens")?,
    })
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

/// Reads `n`, and refuses `best_of` beyond it.
pub fn read_num_choices(fields: &mut Fields) -> Result<u32, ApiError> {
    let n = fields.integer("n", 1..=128)?.unwrap_or(1);
    let path = fields.path("best_of");
    if let Some(best_of) = fields.take("best_of") {
        let best_of = integer_at(&path, &best_of, 0..=128)?;
        // 0 and 1 are what clients send who want nothing of it.
        if best_of > n {
            return Err(ApiError::unsupported(
                path,
                "`best_of` above `n` is not supported: all choices are returned",
            ));
        }
        if best_of > 1 && best_of < n {
            return Err(ApiError::invalid(path, format!("`best_of` must be at least `n`, which is {n}")));
        }
    }
    Ok(u32::try_from(n).expect("the range fits u32"))
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
