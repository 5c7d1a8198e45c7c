//! ModernBERT (Warner et al. 2024, arXiv:2412.13663).
//!
//! Particular about it: norms come first, but for attention in the first layer, which follows the norm of the embeddings;
//! rotary positions of two bases; most layers see only their neighbourhood; gate and values of the feed-forward layer
//! in one matrix; biases nowhere unless the config says so.

use candlewick_engine::LoadError;
use serde_json::Value;

use super::head::ClassifierNames;
use super::{Biases, EncoderConfig, LayerConfig, MlpNames, Names, QkvNames, read_activation, read_heads};
use crate::config::{Config, corrupt};
use crate::layers::rope::{RopeConfig, RopeScaling};

const NAMES: Names = Names {
    prefix: "model.",
    tokens: "embeddings.tok_embeddings",
    positions: "",
    types: "",
    embedding_norm: "embeddings.norm",
    relative: "",
    layers: "layers",
    qkv: QkvNames::Joined("attn.Wqkv"),
    attention_out: "attn.Wo",
    attention_norm: "attn_norm",
    mlp_in: MlpNames::GatedHalves("mlp.Wi"),
    mlp_out: "mlp.Wo",
    mlp_norm: "mlp_norm",
    final_norm: Some("final_norm"),
    classifier: Some(ClassifierNames::PREDICTION_HEAD),
};

/// The kinds of layers, in the order of [`EncoderConfig::ropes`].
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The encoder that a `config.json` describes.
pub(super) fn config(json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let hidden_size = json.count("hidden_size", 768)?;
    let num_layers = json.count("num_hidden_layers", 22)?;
    let reach = json.count("local_attention", 128)? / 2;
    let period = json.count("global_attn_every_n_layers", 3)?;
    let types = json.list_for_layers("layer_types", num_layers)?;
    let layers = (0..num_layers).map(|index| {
        let is_local = match types.map(|types| types[index].as_str()) {
            None => !index.is_multiple_of(period),
            Some(Some("full_attention")) => false,
            Some(Some("sliding_attention")) => true,
            Some(_) => return Err(corrupt(format!("`layer_types` should name {}", KINDS.join(" or ")))),
        };
        Ok(LayerConfig { reach: is_local.then_some(reach), rope: Some(usize::from(is_local)) })
    });
    let (attention, mlp) = (json.flag("attention_bias", false)?, json.flag("mlp_bias", false)?);
    Ok(EncoderConfig {
        vocab_size: json.count("vocab_size", 50_368)?,
        hidden_size,
        intermediate_size: json.count("intermediate_size", 1152)?,
        heads: read_heads(hidden_size, json.count("num_attention_heads", 12)?)?,
        layers: layers.collect::<Result<_, _>>()?,
        ropes: vec![
            rope(json, KINDS[0], "global_rope_theta", 160_000.0)?,
            rope(json, KINDS[1], "local_rope_theta", 10_000.0)?,
        ],
        activation: read_activation(json, "hidden_activation", "gelu")?,
        norm_first: true,
        norm_epsilon: json.number("norm_eps", 1e-5)? as f32,
        positions: None,
        relative: None,
        num_types: 0,
        max_position_embeddings: json.count("max_position_embeddings", 8192)?,
        biases: Biases { attention, mlp_in: mlp, mlp_out: mlp, norm: json.flag("norm_bias", false)? },
        names: NAMES,
    })
}

/// The base of a kind of layers: by kind, as transformers 5 writes it, or by a key of its own.
fn rope(json: Config<'_>, kind: &str, key: &str, default: f64) -> Result<RopeConfig, LoadError> {
    let of_kind = json.get("rope_parameters").and_then(|all| all.get(kind)).filter(|value| !value.is_null());
    if let Some(value) = of_kind {
        let rope_type = Config(value).text("rope_type", "default")?;
        if rope_type != "default" {
            return Err(LoadError::Unsupported(format!("rope scaling {rope_type:?} of {kind} is not there")));
        }
    }
    let empty = Value::Null;
    let theta = match Config(of_kind.unwrap_or(&empty)).number_if_given("rope_theta")? {
        Some(theta) => theta,
        None => json.number(key, default)?,
    };
    Ok(RopeConfig { theta, scaling: RopeScaling::Default })
}
