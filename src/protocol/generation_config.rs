//! The `generation_config` of a chat request: Hugging Face's `GenerationConfig` as a JSON *string*, as the clients of
//! `transformers serve` send it. It becomes sampling options; fields that the request sets itself win over it.

use serde_json::{Map, Value};

use crate::{Failure, SamplingOptions, clipped};

/// The request field.
const PARAM: &str = "generation_config";

/// Whether a value asks for nothing; values of an unexpected type count as asking.
type AsksNothing = fn(&Value) -> bool;

/// Keys that would change the output and that we do not have.
const UNSUPPORTED: &[(&str, AsksNothing)] = &[
    ("num_beams", is_one),
    ("num_beam_groups", is_one),
    ("num_return_sequences", is_one),
    ("encoder_no_repeat_ngram_size", is_zero),
    ("encoder_repetition_penalty", is_one),
    ("diversity_penalty", is_zero),
    ("penalty_alpha", is_zero),
    ("top_h", is_one),
    ("epsilon_cutoff", is_zero),
    ("eta_cutoff", is_zero),
    ("guidance_scale", is_one),
    ("max_time", is_nothing),
    ("min_length", is_zero),
    ("bad_words_ids", is_nothing),
    ("force_words_ids", is_nothing),
    ("constraints", is_nothing),
    ("sequence_bias", is_nothing),
    ("suppress_tokens", is_nothing),
    ("begin_suppress_tokens", is_nothing),
    ("forced_bos_token_id", is_nothing),
    ("forced_eos_token_id", is_nothing),
    ("exponential_decay_length_penalty", is_nothing),
    ("watermarking_config", is_nothing),
];

impl SamplingOptions {
    /// Reads a `generation_config` string. Keys that mean nothing to us are ignored, as its own library does; those that
    /// ask for a way of generating that we do not have are refused by name.
    ///
    /// `eos_token_id` becomes `stop_token_ids`: such tokens end the output beside the model's own.
    pub fn from_generation_config(text: &str) -> Result<Self, Failure> {
        let not_an_object = |why: String| {
            Failure::invalid(PARAM, format!("generation_config must be a JSON object in a string: {why}"))
        };
        let config: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| not_an_object(error.to_string()))?;
        for (key, asks_nothing) in UNSUPPORTED {
            if config.get(*key).is_some_and(|value| !value.is_null() && !asks_nothing(value)) {
                let message = format!("{key} of generation_config is not supported; leave it out");
                return Err(Failure::invalid(PARAM, message));
            }
        }
        let max_tokens = read(&config, "max_new_tokens", "a positive integer", positive)?;
        Ok(Self {
            temperature: read(&config, "temperature", "a number", float)?,
            top_p: read(&config, "top_p", "a number", float)?,
            top_k: read(&config, "top_k", "an integer", Value::as_i64)?,
            min_p: read(&config, "min_p", "a number", float)?,
            typical_p: read(&config, "typical_p", "a number", float)?,
            repetition_penalty: read(&config, "repetition_penalty", "a number", float)?,
            no_repeat_ngram_size: read(&config, "no_repeat_ngram_size", "an integer of at least 0", count)?,
            seed: read(&config, "seed", "an integer", Value::as_i64)?,
            max_tokens,
            min_tokens: read(&config, "min_new_tokens", "an integer of at least 0", count)?,
            stop: read(&config, "stop_strings", "a string or a list of strings", strings)?
                .unwrap_or_default(),
            stop_token_ids: read(&config, "eos_token_id", "a token id or a list of them", token_ids)?
                .unwrap_or_default(),
            do_sample: read(&config, "do_sample", "true or false", Value::as_bool)?,
            ..Self::default()
        })
    }
}

/// The value of a key, or `None` if it is absent or null.
fn read<T>(
    config: &Map<String, Value>,
    key: &str,
    expected: &str,
    convert: fn(&Value) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let Some(value) = config.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
    let wrong = || {
        let value = value.to_string();
        let message = format!("{key} of generation_config is {}; it must be {expected}", clipped(&value));
        Failure::invalid(PARAM, message)
    };
    convert(value).map(Some).ok_or_else(wrong)
}

fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|value| value as f32)
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|value| u32::try_from(value).ok())
}

fn positive(value: &Value) -> Option<u32> {
    count(value).filter(|value| *value > 0)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(Into::into)).collect(),
        one => one.as_str().map(|text| vec![text.into()]),
    }
}

fn token_ids(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(ids) => ids.iter().map(count).collect(),
        one => count(one).map(|id| vec![id]),
    }
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refusal(text: &str) -> String {
        let failure = SamplingOptions::from_generation_config(text).expect_err("it is refused");
        assert_eq!(failure.param.as_deref(), Some("generation_config"));
        failure.message
    }

    #[test]
    fn what_the_peers_chat_client_sends_is_understood() {
        let text = r#"{"do_sample": true, "max_new_tokens": 256, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
            "eos_token_id": [151645, 151643], "bos_token_id": 151643, "pad_token_id": 151643, "seed": 7, "num_beams": 1,
            "stop_strings": "END", "repetition_penalty": 1.05, "typical_p": 0.9, "no_repeat_ngram_size": 3, "transformers_version": "5.0.0"}"#;
        let options = SamplingOptions::from_generation_config(text).expect("it is good");
        let expected = SamplingOptions {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            typical_p: Some(0.9),
            repetition_penalty: Some(1.05),
            no_repeat_ngram_size: Some(3),
            seed: Some(7),
            max_tokens: Some(256),
            stop: vec!["END".into()],
            stop_token_ids: vec![151645, 151643],
            do_sample: Some(true),
            ..SamplingOptions::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn null_and_unknown_keys_mean_nothing() {
        let text =
            r#"{"temperature": null, "num_beams": null, "bad_words_ids": [], "favourite_colour": "green"}"#;
        assert_eq!(SamplingOptions::from_generation_config(text), Ok(SamplingOptions::default()));
    }

    #[test]
    fn ways_of_generating_that_we_lack_are_refused_by_name() {
        for (key, value) in [
            ("num_beams", "4"),
            ("penalty_alpha", "0.6"),
            ("num_return_sequences", "2"),
            ("bad_words_ids", "[[1]]"),
            ("num_beams", "\"four\""),
        ] {
            let message = refusal(&format!("{{\"{key}\": {value}}}"));
            assert!(message.starts_with(key), "{message}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_what_would_be_right() {
        assert_eq!(
            refusal(r#"{"temperature": "hot"}"#),
            "temperature of generation_config is \"hot\"; it must be a number"
        );
        assert!(refusal(r#"{"max_new_tokens": 0}"#).ends_with("it must be a positive integer"));
        assert!(refusal(r#"{"eos_token_id": -1}"#).starts_with("eos_token_id"));
        assert!(refusal("[]").starts_with("generation_config must be a JSON object in a string"));
        assert!(refusal("{").starts_with("generation_config must be a JSON object in a string"));
    }
}
