//! Qwen3 (arXiv:2505.09388).
//!
//! Particular about it: a norm on each query and key head before rotation; heads as wide as the config says, whatever
//! the hidden size; `attention_bias` on all four projections; windows as in Qwen2.

use candlewick_engine::LoadError;

use crate::config::Config;
use crate::layers::decoder::{DecoderConfig, Defaults};
use crate::qwen2::slide_last_layers;

/// `Qwen3Config` of transformers.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    hidden_size: 4096,
    intermediate_size: 22_016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(32),
    head_dim: Some(128),
    max_position_embeddings: 32_768,
    rope_theta: 10_000.0,
    tie_word_embeddings: false,
};

/// The decoder that a `config.json` describes.
pub(crate) fn config(json: Config<'_>) -> Result<DecoderConfig, LoadError> {
    let mut decoder = DecoderConfig::read("qwen3", json, &DEFAULTS)?;
    decoder.qk_norm = true;
    decoder.qkv_bias = json.flag("attention_bias", false)?;
    decoder.o_bias = decoder.qkv_bias;
    slide_last_layers(&mut decoder, json)?;
    Ok(decoder)
}
