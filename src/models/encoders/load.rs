//! Which checkpoints are encoders, and how one becomes a model.

use std::sync::Arc;

use candlewick_engine::encode::{EncoderAbility, EncoderInfo, SentenceLayout};
use candlewick_engine::{LoadError, LoadOptions, ModelFiles, ModelInfo, Weights};
use candlewick_protocol::LabelActivation;
use serde_json::Value;

use super::body::Body;
use super::encoder::Encoder;
use super::head::Classifier;
use super::model::{EncoderWeights, Output};
use super::sentence::Sentence;
use super::{EncoderConfig, FAMILIES};
use crate::config::{Config, corrupt};
use crate::factory::finish_progress;
use crate::kernels::pool::Pool;
use crate::layers::decoder::{DecoderBody, DecoderConfig};
use crate::weights::{Checkpoint, WeightReader};

/// What a checkpoint's architecture makes of texts.
enum Architecture {
    /// Vectors: the bare encoder, or one that predicts words and whose head is not read.
    Embeds,
    Classifies,
    ClassifiesTokens,
}

/// Whether a config is of a family of encoders.
pub(crate) fn is_encoder(json: &Value) -> bool {
    FAMILIES.iter().any(|(family, _)| json["model_type"] == *family)
}

/// The families there are.
pub(crate) fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(family, _)| *family)
}

/// Whether an encoder is one that is there, by its config alone.
pub(crate) fn check(json: &Value) -> Result<(), LoadError> {
    read_config(json)?;
    read_architecture(json).map(drop)
}

fn read_config(json: &Value) -> Result<EncoderConfig, LoadError> {
    let family = json["model_type"].as_str().unwrap_or_default();
    let read = FAMILIES.iter().find(|(name, _)| *name == family).map(|(_, read)| read);
    read.ok_or_else(|| corrupt(format!("{family:?} is no family of encoders")))?(Config(json))
}

fn read_architecture(json: &Value) -> Result<Architecture, LoadError> {
    let Some(name) = json["architectures"][0].as_str() else { return Ok(Architecture::Embeds) };
    Ok(match name {
        _ if name.ends_with("ForSequenceClassification") => Architecture::Classifies,
        _ if name.ends_with("ForTokenClassification") => Architecture::ClassifiesTokens,
        _ if name.ends_with("Model") || name.ends_with("ForMaskedLM") || name.ends_with("ForPreTraining") => {
            Architecture::Embeds
        }
        _ => {
            return Err(LoadError::Unsupported(format!(
                "{name} is not there; of encoders, …Model, …ForMaskedLM, …ForSequenceClassification and \
                 …ForTokenClassification are"
            )));
        }
    })
}

/// Loads an encoder.
pub(crate) fn load(
    json: &Value,
    files: &ModelFiles,
    options: &LoadOptions,
    pool: &Arc<Pool>,
    on_progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Arc<dyn Weights>, LoadError> {
    let config = read_config(json)?;
    let mut layout = SentenceLayout::load(files)?;
    // A checkpoint that is declared an embedder is one, whatever head it was saved with.
    let architecture = if layout.is_declared { Architecture::Embeds } else { read_architecture(json)? };
    let checkpoint = Checkpoint::open(files)?;
    let mut reader = WeightReader::new(&checkpoint, options.clone(), pool, on_progress);
    let tokens = format!("{}.weight", config.names.tokens);
    let prefix =
        if checkpoint.has(&format!("{}{tokens}", config.names.prefix)) { config.names.prefix } else { "" };
    let encoder = Encoder::load(&config, prefix, &mut reader)?;
    let hidden = config.hidden_size;
    let (output, ability) = match architecture {
        Architecture::Embeds => {
            let ability = EncoderAbility::Embed {
                dimensions: layout.width(hidden),
                matryoshka: layout.matryoshka.clone(),
            };
            (Output::Vector(Sentence::load(&layout, files, options, pool)?), ability)
        }
        Architecture::Classifies | Architecture::ClassifiesTokens => {
            let is_of_tokens = matches!(architecture, Architecture::ClassifiesTokens);
            let labels = read_labels(json);
            let classifier =
                Classifier::load(&mut reader, Config(json), &config, prefix, labels.len(), is_of_tokens)?;
            let ability = if is_of_tokens {
                EncoderAbility::ClassifyTokens { labels }
            } else {
                let activation = read_activation(json, labels.len())?;
                EncoderAbility::Classify { labels, activation }
            };
            (Output::Labels(classifier), ability)
        }
    };
    let max_tokens = layout.max_tokens.unwrap_or(usize::MAX).min(config.max_position_embeddings);
    layout.max_tokens = Some(max_tokens);
    let info = ModelInfo {
        family: json["model_type"].as_str().unwrap_or_default().into(),
        max_position_embeddings: config.max_position_embeddings,
        vocab_size: config.vocab_size,
        num_parameters: reader.num_parameters,
        weight_bytes: reader.num_bytes,
        kv_bytes_per_token: 0,
        encoder: Some(Arc::new(EncoderInfo { ability, max_tokens, layout })),
    };
    finish_progress(on_progress, checkpoint.len() as u64)?;
    Ok(Arc::new(EncoderWeights::new(Body::Encoder(encoder, config), output, info, pool.clone())))
}

/// Loads a decoder that its repository declares an embedder. Its head, if it has one, is not read.
pub(crate) fn load_decoder(
    config: DecoderConfig,
    files: &ModelFiles,
    options: &LoadOptions,
    pool: &Arc<Pool>,
    on_progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Arc<dyn Weights>, LoadError> {
    let mut layout = SentenceLayout::load(files)?;
    let checkpoint = Checkpoint::open(files)?;
    let mut reader = WeightReader::new(&checkpoint, options.clone(), pool, on_progress);
    let body = DecoderBody::load(&config, &mut reader)?;
    let output = Output::Vector(Sentence::load(&layout, files, options, pool)?);
    let context = config.rope.context(config.max_position_embeddings);
    let max_tokens = layout.max_tokens.unwrap_or(usize::MAX).min(context);
    layout.max_tokens = Some(max_tokens);
    let ability = EncoderAbility::Embed {
        dimensions: layout.width(config.hidden_size),
        matryoshka: layout.matryoshka.clone(),
    };
    let info = ModelInfo {
        family: config.family.into(),
        max_position_embeddings: context,
        vocab_size: config.vocab_size,
        num_parameters: reader.num_parameters,
        weight_bytes: reader.num_bytes,
        kv_bytes_per_token: 0,
        encoder: Some(Arc::new(EncoderInfo { ability, max_tokens, layout })),
    };
    finish_progress(on_progress, checkpoint.len() as u64)?;
    Ok(Arc::new(EncoderWeights::new(Body::Decoder(body, config), output, info, pool.clone())))
}

/// The names of the labels, as transformers makes them up where the config has none: `LABEL_0` and `LABEL_1`.
fn read_labels(json: &Value) -> Vec<String> {
    let named = json["id2label"].as_object();
    let num_labels =
        named.map(serde_json::Map::len).or(json["num_labels"].as_u64().map(|count| count as usize));
    let label = |index: usize| {
        let name = named.and_then(|names| names.get(&index.to_string())).and_then(Value::as_str);
        name.map_or_else(|| format!("LABEL_{index}"), str::to_owned)
    };
    (0..num_labels.unwrap_or(2)).map(label).collect()
}

/// How scores become what is told: as sentence-transformers has it for cross-encoders, then as the pipelines of transformers
/// do.
fn read_activation(json: &Value, num_labels: usize) -> Result<LabelActivation, LoadError> {
    let own = [
        &json["sentence_transformers"]["activation_fn"],
        &json["sbert_ce_default_activation_function"],
        &json["function_to_apply"],
    ];
    if let Some(name) = own.iter().find_map(|name| name.as_str()) {
        return match name.rsplit('.').next().unwrap_or_default() {
            "Sigmoid" | "sigmoid" => Ok(LabelActivation::Sigmoid),
            "Softmax" | "softmax" => Ok(LabelActivation::Softmax),
            "Identity" | "none" => Ok(LabelActivation::Identity),
            _ => Err(LoadError::Unsupported(format!(
                "scores through {name:?} are not there; through Sigmoid, Softmax and Identity they are"
            ))),
        };
    }
    Ok(match json["problem_type"].as_str() {
        Some("regression") => LabelActivation::Identity,
        Some("multi_label_classification") => LabelActivation::Sigmoid,
        _ if num_labels == 1 => LabelActivation::Sigmoid,
        _ => LabelActivation::Softmax,
    })
}
