//! BERT (Devlin et al. 2018, arXiv:1810.04805), and the many sentence encoders that took its shape.
//!
//! Particular about it: learned positions, types of tokens, a norm after each sum. A classifier reads the first token
//! through the `pooler` that was trained with it.

use candlewick_engine::LoadError;

use super::head::ClassifierNames;
use super::{
    Biases, EncoderConfig, LayerConfig, LearnedPositions, MlpNames, Names, QkvNames, read_activation,
    read_heads,
};
use crate::config::Config;

/// The names that RoBERTa took over.
pub(super) const NAMES: Names = Names {
    prefix: "bert.",
    tokens: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    relative: "",
    layers: "encoder.layer",
    qkv: QkvNames::Parts(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    mlp_in: MlpNames::Plain("intermediate.dense"),
    mlp_out: "output.dense",
    mlp_norm: "output.LayerNorm",
    final_norm: None,
    classifier: Some(ClassifierNames::POOLER),
};

/// The encoder that a `config.json` describes.
pub(super) fn config(json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let positions = json.text("position_embedding_type", "absolute")?;
    if positions != "absolute" {
        return Err(LoadError::Unsupported(format!(
            "`position_embedding_type` {positions:?} is not there; only \"absolute\" is"
        )));
    }
    if json.flag("is_decoder", false)? {
        return Err(LoadError::Unsupported("an encoder that is used as a decoder (`is_decoder`)".into()));
    }
    let hidden_size = json.count("hidden_size", 768)?;
    let max_position_embeddings = json.count("max_position_embeddings", 512)?;
    Ok(EncoderConfig {
        vocab_size: json.count("vocab_size", 30_522)?,
        hidden_size,
        intermediate_size: json.count("intermediate_size", 3072)?,
        heads: read_heads(hidden_size, json.count("num_attention_heads", 12)?)?,
        layers: vec![LayerConfig::PLAIN; json.count("num_hidden_layers", 12)?],
        ropes: Vec::new(),
        activation: read_activation(json, "hidden_act", "gelu")?,
        norm_first: false,
        norm_epsilon: json.number("layer_norm_eps", 1e-12)? as f32,
        positions: Some(LearnedPositions { num_rows: max_position_embeddings, first: 0 }),
        relative: None,
        num_types: json.count("type_vocab_size", 2)?,
        max_position_embeddings,
        biases: Biases::ALL,
        names: NAMES,
    })
}
