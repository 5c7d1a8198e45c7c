//! Qwen2 and Qwen2.5 (arXiv:2407.10671).
//!
//! Particular about it: biases on queries, keys and values and nowhere else, always; with `use_sliding_window`, the
//! layers from `max_window_layers` on see a window.

use candlewick_engine::LoadError;

use crate::config::Config;
use crate::layers::decoder::{DecoderConfig, Defaults};

/// `Qwen2Config` of transformers.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    hidden_size: 4096,
    intermediate_size: 22_016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(32),
    head_dim: None,
    max_position_embeddings: 32_768,
    rope_theta: 10_000.0,
    tie_word_embeddings: false,
};

/// The decoder that a `config.json` describes.
pub(crate) fn config(json: Config<'_>) -> Result<DecoderConfig, LoadError> {
    let mut decoder = DecoderConfig::read("qwen2", json, &DEFAULTS)?;
    decoder.qkv_bias = true;
    slide_last_layers(&mut decoder, json)?;
    Ok(decoder)
}

/// The windows of Qwen2 and Qwen3: on the last layers, if switched on.
pub(crate) fn slide_last_layers(decoder: &mut DecoderConfig, json: Config<'_>) -> Result<(), LoadError> {
    let slides = json.flag("use_sliding_window", false)? && !json.is_null("sliding_window");
    let window = json.count("sliding_window", 4096)?;
    let window = slides.then_some(window);
    let first = json.index("max_window_layers", 28)?;
    decoder.slide(json, window, |layer| layer >= first)
}
