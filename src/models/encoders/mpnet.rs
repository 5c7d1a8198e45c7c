//! MPNet (Song et al. 2020, arXiv:2004.09297).
//!
//! Particular about it: learned positions counted as RoBERTa counts them, and biases of distance besides, one table for
//! all layers; no types.

use candlewick_engine::LoadError;

use super::head::ClassifierNames;
use super::{EncoderConfig, MlpNames, Names, QkvNames, RelativePositions, bert, roberta};
use crate::config::{Config, corrupt};

const NAMES: Names = Names {
    prefix: "mpnet.",
    types: "",
    relative: "encoder.relative_attention_bias",
    qkv: QkvNames::Parts(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
    attention_out: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    mlp_in: MlpNames::Plain("intermediate.dense"),
    classifier: Some(ClassifierNames::DENSE),
    ..bert::NAMES
};

/// Buckets of distance, and the distance from which on they share one. transformers has both as defaults of a function;
/// the config says only how many rows the table has.
const NUM_BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

/// The encoder that a `config.json` describes.
pub(super) fn config(json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let encoder = bert::config(json)?;
    let vocab_size = json.count("vocab_size", 30_527)?;
    let num_rows = json.count("relative_attention_num_buckets", NUM_BUCKETS)?;
    if num_rows < NUM_BUCKETS {
        return Err(corrupt(format!(
            "`relative_attention_num_buckets` is {num_rows}, and distances fall into {NUM_BUCKETS}"
        )));
    }
    let relative = Some(RelativePositions { num_rows, num_buckets: NUM_BUCKETS, max_distance: MAX_DISTANCE });
    roberta::after_padding(
        EncoderConfig { vocab_size, relative, num_types: 0, names: NAMES, ..encoder },
        json,
    )
}
