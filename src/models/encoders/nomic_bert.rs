//! Nomic BERT (Nussbaum et al. 2024, arXiv:2402.01613).
//!
//! Particular about it: BERT with rotary positions and gated feed-forward layers, without biases outside of its norms.
//! `config.json` comes in two spellings: that of the published repositories, which follows GPT-2, and transformers' own.

use candlewick_engine::LoadError;

use super::{Biases, EncoderConfig, LayerConfig, MlpNames, Names, QkvNames, read_activation, read_heads};
use crate::config::Config;
use crate::kernels::activation::Activation;
use crate::layers::rope::{RopeConfig, RopeScaling};

const NAMES: Names = Names {
    prefix: "nomic_bert.",
    tokens: "embeddings.word_embeddings",
    positions: "",
    types: "embeddings.token_type_embeddings",
    embedding_norm: "emb_ln",
    relative: "",
    layers: "encoder.layers",
    qkv: QkvNames::Joined("attn.Wqkv"),
    attention_out: "attn.out_proj",
    attention_norm: "norm1",
    mlp_in: MlpNames::Gated(["mlp.fc12", "mlp.fc11"]),
    mlp_out: "mlp.fc2",
    mlp_norm: "norm2",
    final_norm: None,
    classifier: None,
};

/// The encoder that a `config.json` describes.
pub(super) fn config(json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let is_published = json.get("n_embd").is_some();
    let count = |published, own, default| json.count(if is_published { published } else { own }, default);
    let hidden_size = count("n_embd", "hidden_size", 768)?;
    let max_position_embeddings = count("n_positions", "max_position_embeddings", 2048)?;
    let (activation, rope) = if is_published {
        refuse_variants(json)?;
        let theta = json.number("rotary_emb_base", 10_000.0)?;
        (Activation::Silu, RopeConfig { theta, scaling: RopeScaling::Default })
    } else {
        let rope = RopeConfig::read(json, 1000.0, max_position_embeddings)?;
        (read_activation(json, "hidden_act", "silu")?, rope)
    };
    let epsilon = if is_published { "layer_norm_epsilon" } else { "layer_norm_eps" };
    let num_layers = count("n_layer", "num_hidden_layers", 12)?;
    Ok(EncoderConfig {
        vocab_size: json.count("vocab_size", 30_528)?,
        hidden_size,
        intermediate_size: count("n_inner", "intermediate_size", 3072)?,
        heads: read_heads(hidden_size, count("n_head", "num_attention_heads", 12)?)?,
        layers: vec![LayerConfig { reach: None, rope: Some(0) }; num_layers],
        ropes: vec![rope],
        activation,
        norm_first: false,
        norm_epsilon: json.number(epsilon, 1e-12)? as f32,
        positions: None,
        relative: None,
        num_types: json.index("type_vocab_size", 2)?,
        max_position_embeddings,
        biases: Biases { attention: false, mlp_in: false, mlp_out: false, norm: true },
        names: NAMES,
    })
}

/// The published spelling can say much that no published checkpoint of text does.
fn refuse_variants(json: Config<'_>) -> Result<(), LoadError> {
    let expected_flags = [
        ("prenorm", false),
        ("qkv_proj_bias", false),
        ("mlp_fc1_bias", false),
        ("mlp_fc2_bias", false),
        ("rotary_emb_interleaved", false),
        ("use_rms_norm", false),
    ];
    for (key, expected) in expected_flags {
        if json.flag(key, expected)? != expected {
            return Err(LoadError::Unsupported(format!(
                "nomic_bert with `{key}` {} is not there",
                !expected
            )));
        }
    }
    let (activation, fraction) =
        (json.text("activation_function", "swiglu")?, json.number("rotary_emb_fraction", 1.0)?);
    if activation != "swiglu" || fraction != 1.0 {
        return Err(LoadError::Unsupported(format!(
            "nomic_bert with `activation_function` {activation:?} and `rotary_emb_fraction` {fraction} is not there; \
             \"swiglu\" and 1 are"
        )));
    }
    Ok(())
}
