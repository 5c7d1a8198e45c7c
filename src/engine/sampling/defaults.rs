//! What a model's own files say about generating.
//!
//! A value there that is out of range is left out with a warning: no request is at fault, so none is refused for it.

use candlewick_protocol::{Failure, SamplingOptions};
use serde_json::Value;
use tracing::warn;

use super::GenerationDefaults;
use super::range::{MIN_P, REPETITION_PENALTY, TEMPERATURE, TOP_P, TYPICAL_P, check_top_k};

impl GenerationDefaults {
    /// Reads `generation_config.json` and the end-of-sequence ids of `config.json`; either may be absent.
    ///
    /// Of the former, the keys that vLLM reads (`temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`,
    /// `max_new_tokens`), and `do_sample`, `min_new_tokens`, `stop_strings`, `typical_p`,
    /// `no_repeat_ngram_size` and `eos_token_id`.
    pub fn from_json(generation_config: Option<&Value>, config: &Value) -> Self {
        let none = Value::Null;
        let generation = generation_config.unwrap_or(&none);
        let float = |key: &str| generation[key].as_f64().map(|value| value as f32);
        let count =
            |key: &str| generation[key].as_u64().map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        let sampling = SamplingOptions {
            temperature: valid(TEMPERATURE.check(float("temperature"))),
            top_p: valid(TOP_P.check(float("top_p"))),
            top_k: valid(check_top_k(generation["top_k"].as_i64())),
            min_p: valid(MIN_P.check(float("min_p"))),
            typical_p: valid(TYPICAL_P.check(float("typical_p"))),
            repetition_penalty: valid(REPETITION_PENALTY.check(float("repetition_penalty"))),
            no_repeat_ngram_size: count("no_repeat_ngram_size"),
            max_tokens: count("max_new_tokens"),
            min_tokens: count("min_new_tokens"),
            stop: strings(&generation["stop_strings"]),
            do_sample: generation["do_sample"].as_bool(),
            ..SamplingOptions::default()
        };
        // Configs of models with several modalities keep the language model's under `text_config`.
        let places = [generation, config, &config["text_config"]];
        let eos_token_ids =
            places.iter().map(|place| token_ids(&place["eos_token_id"])).find(|ids| !ids.is_empty());
        Self { sampling, eos_token_ids: eos_token_ids.unwrap_or_default() }
    }
}

fn valid<T>(checked: Result<Option<T>, Failure>) -> Option<T> {
    checked.unwrap_or_else(|failure| {
        warn!("a value of generation_config.json is ignored: {failure}");
        None
    })
}

/// One id, or a list of them.
fn token_ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    ids.iter().filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// One text, or a list of them; an empty one would end every output at once.
fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    texts.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(Into::into).collect()
}
