//! What turns vectors into scores of labels.

use candle_core::{Device, Result, Tensor};
use candlewick_engine::LoadError;

use super::EncoderConfig;
use super::dense::{Dense, DenseActivation};
use crate::config::Config;
use crate::kernels::activation::Activation;
use crate::layers::layer_norm::LayerNorm;
use crate::weights::WeightReader;

/// How a family's classifiers name their tensors, and what lies between the text's vector and its scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClassifierNames {
    /// The dense layer before the last one.
    dense: &'static str,
    /// Whether that layer is among the encoder's own tensors.
    is_dense_prefixed: bool,
    activation: DenseActivation,
    /// The norm after it.
    norm: Option<&'static str>,
    /// The last layer.
    out: &'static str,
    /// Whether the config says how text's vector is pooled (`classifier_pooling`) and what follows the dense layer.
    is_configured: bool,
}

impl ClassifierNames {
    /// BERT's.
    pub(super) const POOLER: Self = Self {
        dense: "pooler.dense",
        is_dense_prefixed: true,
        activation: DenseActivation::Tanh,
        norm: None,
        out: "classifier",
        is_configured: false,
    };
    /// RoBERTa's, and MPNet's.
    pub(super) const DENSE: Self = Self {
        dense: "classifier.dense",
        is_dense_prefixed: false,
        out: "classifier.out_proj",
        ..Self::POOLER
    };
    /// DistilBERT's.
    pub(super) const PRE_CLASSIFIER: Self = Self {
        dense: "pre_classifier",
        is_dense_prefixed: false,
        activation: DenseActivation::Of(Activation::Relu),
        ..Self::POOLER
    };
    /// ModernBERT's.
    pub(super) const PREDICTION_HEAD: Self = Self {
        dense: "head.dense",
        is_dense_prefixed: false,
        activation: DenseActivation::Of(Activation::Gelu),
        norm: Some("head.norm"),
        is_configured: true,
        ..Self::POOLER
    };
}

/// A classifier of texts or of tokens.
pub(super) struct Classifier {
    dense: Option<Dense>,
    norm: Option<LayerNorm>,
    out: Dense,
    num_labels: usize,
    pools_mean: bool,
    is_of_tokens: bool,
}

impl Classifier {
    /// Reads it.
    pub(super) fn load(
        weights: &mut WeightReader<'_>,
        json: Config<'_>,
        config: &EncoderConfig,
        prefix: &str,
        num_labels: usize,
        is_of_tokens: bool,
    ) -> std::result::Result<Self, LoadError> {
        let family = json.text("model_type", "")?;
        let names = config.names.classifier.ok_or_else(|| {
            LoadError::Unsupported(format!("classifiers of {family} are not there; its embedders are"))
        })?;
        let hidden = config.hidden_size;
        // Tokens are labelled by one layer, except where the family has its prediction head before it.
        let has_dense = !is_of_tokens || names.is_configured;
        let (mut activation, mut dense_bias, mut pools_mean) = (names.activation, true, false);
        if names.is_configured {
            activation = DenseActivation::Of(super::read_activation(json, "classifier_activation", "gelu")?);
            dense_bias = json.flag("classifier_bias", false)?;
            pools_mean = match json.text("classifier_pooling", "cls")? {
                "cls" => false,
                "mean" => true,
                other => {
                    return Err(LoadError::Unsupported(format!(
                        "`classifier_pooling` {other:?} is not there"
                    )));
                }
            };
        }
        let dense = format!("{}{}", if names.is_dense_prefixed { prefix } else { "" }, names.dense);
        let dense = match has_dense {
            true => Some(Dense::load(weights, &dense, [hidden, hidden], dense_bias, activation)?),
            false => None,
        };
        let norm = match names.norm {
            Some(norm) if has_dense => {
                Some(LayerNorm::load(weights, norm, hidden, config.norm_epsilon, config.biases.norm)?)
            }
            _ => None,
        };
        let out = if is_of_tokens { "classifier" } else { names.out };
        let out = Dense::load(weights, out, [hidden, num_labels], true, DenseActivation::Identity)?;
        Ok(Self { dense, norm, out, num_labels, pools_mean, is_of_tokens })
    }

    /// Scores of each label: `(tokens, hidden)` → `(1, labels)`, or `(tokens, labels)` where tokens are labelled.
    pub(super) fn scores(&self, states: &[f32], hidden: usize) -> Result<Vec<f32>> {
        let mut x = if self.is_of_tokens {
            states.to_vec()
        } else if self.pools_mean {
            mean(states, hidden)
        } else {
            states[..hidden].to_vec()
        };
        if let Some(dense) = &self.dense {
            x = dense.forward(x)?;
        }
        if let Some(norm) = &self.norm {
            let rows = x.len() / hidden;
            x = norm
                .forward(&Tensor::from_vec(x, (rows, hidden), &Device::Cpu)?)?
                .flatten_all()?
                .to_vec1()?;
        }
        self.out.forward(x)
    }

    /// Labels there are.
    pub(super) fn num_labels(&self) -> usize {
        self.num_labels
    }
}

fn mean(states: &[f32], hidden: usize) -> Vec<f32> {
    let num_tokens = (states.len() / hidden) as f64;
    let element = |element: usize| {
        let sum: f64 = states.iter().skip(element).step_by(hidden).map(|&x| f64::from(x)).sum();
        (sum / num_tokens) as f32
    };
    (0..hidden).map(element).collect()
}
