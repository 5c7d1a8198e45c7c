//! RoBERTa and XLM-RoBERTa (Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2019, arXiv:1911.02116).
//!
//! Particular about them: BERT, but positions are counted from the one after the padding token's id, and the classifier
//! has a dense layer of its own.

use candlewick_engine::LoadError;

use super::head::ClassifierNames;
use super::{EncoderConfig, LearnedPositions, Names, bert};
use crate::config::{Config, corrupt};

const NAMES: Names = Names { prefix: "roberta.", classifier: Some(ClassifierNames::DENSE), ..bert::NAMES };

/// The encoder that a `config.json` describes.
pub(super) fn config(json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let encoder = bert::config(json)?;
    let num_types = json.count("type_vocab_size", 2)?;
    let vocab_size =
        json.count("vocab_size", if json.text("model_type", "")? == "roberta" { 50_265 } else { 30_522 })?;
    after_padding(EncoderConfig { num_types, vocab_size, names: NAMES, ..encoder }, json)
}

/// Positions that begin after the padding token's.
pub(super) fn after_padding(encoder: EncoderConfig, json: Config<'_>) -> Result<EncoderConfig, LoadError> {
    let first = json.index("pad_token_id", 1)? + 1;
    let num_rows = encoder.max_position_embeddings;
    if num_rows <= first {
        return Err(corrupt(format!("{num_rows} positions leave none after the padding token's")));
    }
    let positions = Some(LearnedPositions { num_rows, first });
    Ok(EncoderConfig { positions, max_position_embeddings: num_rows - first, ..encoder })
}
