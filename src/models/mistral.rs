//! Mistral (arXiv:2310.06825).
//!
//! Particular about it: every layer sees a window of `sliding_window` positions, 4096 where the config does not say,
//! all of them where it says `null`. No biases. A list of layer types is passed over, as transformers does.

use candlewick_engine::LoadError;

use crate::config::Config;
use crate::layers::decoder::{DecoderConfig, Defaults};

/// `MistralConfig` of transformers.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(8),
    head_dim: None,
    max_position_embeddings: 4096 * 32,
    rope_theta: 10_000.0,
    tie_word_embeddings: false,
};

/// The decoder that a `config.json` describes.
pub(crate) fn config(json: Config<'_>) -> Result<DecoderConfig, LoadError> {
    let mut decoder = DecoderConfig::read("mistral", json, &DEFAULTS)?;
    let window =
        if json.is_null("sliding_window") { None } else { Some(json.count("sliding_window", 4096)?) };
    decoder.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(decoder)
}
