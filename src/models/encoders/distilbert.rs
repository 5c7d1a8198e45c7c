//! DistilBERT (Sanh et al. 2019, arXiv:1910.01108).
//!
//! Particular about it: BERT without types, under names of its own; a dense layer with ReLU before the classifier.

use candlewick_engine::LoadError;

use super::head::ClassifierNames;
use super::{
    Biases, EncoderConfig, LayerConfig, LearnedPositions, MlpNames, Names, QkvNames, read_activation,
    read_heads,
};
use crate::config::Config;

const NAMES: Names = Names {
    prefix: "distilbert.",
    tokens: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "",
    embedding_norm: "embeddings.LayerNorm",
    relative: "",
    layers: "transformer.layer",
    qkv: QkvNames::Parts(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    attention_out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    mlp_in: MlpNames::Plain("ffn.lin1"),
    mlp_out: "ffn.lin2",
    mlp_norm: "output_layer_norm",
    final_norm: None,
    classifier: Some(ClassifierNames::PRE_CLASSIFIER),
};

/// The encoder that a `config.json` describes.
pub(super) fn config(json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let hidden_size = json.count("dim", 768)?;
    let max_position_embeddings = json.count("max_position_embeddings", 512)?;
    Ok(EncoderConfig {
        vocab_size: json.count("vocab_size", 30_522)?,
        hidden_size,
        intermediate_size: json.count("hidden_dim", 3072)?,
        heads: read_heads(hidden_size, json.count("n_heads", 12)?)?,
        layers: vec![LayerConfig::PLAIN; json.count("n_layers", 6)?],
        ropes: Vec::new(),
        activation: read_activation(json, "activation", "gelu")?,
        norm_first: false,
        norm_epsilon: 1e-12,
        positions: Some(LearnedPositions { num_rows: max_position_embeddings, first: 0 }),
        relative: None,
        num_types: 0,
        max_position_embeddings,
        biases: Biases::ALL,
        names: NAMES,
    })
}
