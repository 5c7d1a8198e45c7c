//! Llama 2 and 3 (arXiv:2302.13971, arXiv:2407.21783), and the many checkpoints that took their shape.
//!
//! Particular about it: `attention_bias` on all four projections, `mlp_bias` on all three; from 3.1 on a rope scaling of
//! its own. No windows.

use candlewick_engine::LoadError;

use crate::config::Config;
use crate::layers::decoder::{DecoderConfig, Defaults};

/// `LlamaConfig` of transformers.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    rope_theta: 10_000.0,
    tie_word_embeddings: false,
};

/// The decoder that a `config.json` describes.
pub(crate) fn config(json: Config<'_>) -> Result<DecoderConfig, LoadError> {
    let mut decoder = DecoderConfig::read("llama", json, &DEFAULTS)?;
    decoder.qkv_bias = json.flag("attention_bias", false)?;
    decoder.o_bias = decoder.qkv_bias;
    decoder.mlp_bias = json.flag("mlp_bias", false)?;
    Ok(decoder)
}
