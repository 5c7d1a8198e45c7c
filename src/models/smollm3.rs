//! SmolLM3 (huggingface.co/blog/smollm3).
//!
//! Particular about it: some layers have no positions (NoPE, arXiv:2501.18795), every fourth unless the config says
//! otherwise; biases as in Llama; the head is tied unless the config says otherwise. With `use_sliding_window`, it is
//! the layers without positions that see a window.

use candlewick_engine::LoadError;

use crate::config::{Config, wrong};
use crate::layers::decoder::{DecoderConfig, Defaults};

/// `SmolLM3Config` of transformers.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 128_256,
    hidden_size: 2048,
    intermediate_size: 11_008,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: Some(4),
    head_dim: None,
    max_position_embeddings: 32_768,
    rope_theta: 2_000_000.0,
    tie_word_embeddings: true,
};

/// The decoder that a `config.json` describes.
pub(crate) fn config(json: Config<'_>) -> Result<DecoderConfig, LoadError> {
    let mut decoder = DecoderConfig::read("smollm3", json, &DEFAULTS)?;
    decoder.qkv_bias = json.flag("attention_bias", false)?;
    decoder.o_bias = decoder.qkv_bias;
    decoder.mlp_bias = json.flag("mlp_bias", false)?;

    let rotated = json.list_for_layers("no_rope_layers", decoder.layers.len())?;
    let interval = json.count("no_rope_layer_interval", 4)?;
    for (index, layer) in decoder.layers.iter_mut().enumerate() {
        // The list says 1 for layers that do rotate, for all its name.
        layer.rope = match rotated.map(|list| &list[index]) {
            None => !(index + 1).is_multiple_of(interval),
            Some(value) => {
                value.as_u64().ok_or_else(|| wrong("no_rope_layers", "a list of 0 and 1", value))? != 0
            }
        };
    }

    let window = json.count_if_given("sliding_window")?;
    let without_positions: Vec<bool> = decoder.layers.iter().map(|layer| !layer.rope).collect();
    let slides = json.flag("use_sliding_window", false)?;
    decoder.slide(json, window, |layer| slides && without_positions[layer])?;
    Ok(decoder)
}
