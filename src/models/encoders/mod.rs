//! Encoders: every token of a text sees the whole text, and what comes out is vectors.
//!
//! A family's own file says what is particular about it by filling in [`EncoderConfig`], with the names that its
//! checkpoints give their tensors; [`encoder`] reads and computes it, [`sentence`] makes one vector of a text's tokens,
//! [`head`] turns them into labels, and [`model`] puts these together behind the engine's traits.
//!
//! Texts are packed one after the other without padding. What is computed for a text depends on it alone, to the bit.

mod batch;
mod bert;
mod body;
mod dense;
mod distilbert;
mod encoder;
mod head;
mod load;
mod model;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod roberta;
mod sentence;

use candlewick_engine::LoadError;

use crate::config::{Config, corrupt};
use crate::kernels::activation::Activation;
use crate::kernels::attention::HeadShape;
use crate::layers::rope::RopeConfig;

use self::head::ClassifierNames;
pub(crate) use self::load::{check, families, is_encoder, load, load_decoder};

/// The encoder that a config describes, or why it is none that is there.
type ReadConfig = fn(Config<'_>) -> Result<EncoderConfig, LoadError>;

/// `model_type` → how its config is read.
const FAMILIES: &[(&str, ReadConfig)] = &[
    ("bert", bert::config),
    ("distilbert", distilbert::config),
    ("modernbert", modernbert::config),
    ("mpnet", mpnet::config),
    ("nomic_bert", nomic_bert::config),
    ("roberta", roberta::config),
    ("xlm-roberta", roberta::config),
];

/// Everything that tells one encoder from another.
#[derive(Debug, Clone)]
pub(crate) struct EncoderConfig {
    /// Number of token ids.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Width within the feed-forward layers.
    pub(crate) intermediate_size: usize,
    /// Heads of every layer.
    pub(crate) heads: HeadShape,
    /// Each layer's own ways; as many as there are layers.
    pub(crate) layers: Vec<LayerConfig>,
    /// How positions become angles, where they do; layers name theirs by index.
    pub(crate) ropes: Vec<RopeConfig>,
    /// Activation of the feed-forward layers.
    pub(crate) activation: Activation,
    /// Norms come before attention and feed-forward, and not after their sums.
    pub(crate) norm_first: bool,
    /// Added to the variance in norms.
    pub(crate) norm_epsilon: f32,
    /// Learned positions.
    pub(crate) positions: Option<LearnedPositions>,
    /// Learned biases of distance.
    pub(crate) relative: Option<RelativePositions>,
    /// Types that tokens may have (first text, second text); 0: none.
    pub(crate) num_types: usize,
    /// Longest text it was made for, in tokens.
    pub(crate) max_position_embeddings: usize,
    /// Which layers have biases.
    pub(crate) biases: Biases,
    /// How its checkpoints name their tensors.
    pub(crate) names: Names,
}

/// What is particular about one layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerConfig {
    /// How many positions on each side a token sees; `None` sees all.
    pub(crate) reach: Option<usize>,
    /// Which of the ropes rotates its queries and keys.
    pub(crate) rope: Option<usize>,
}

impl LayerConfig {
    /// Sees everything, and is not rotated.
    pub(crate) const PLAIN: Self = Self { reach: None, rope: None };
}

/// A table of positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LearnedPositions {
    /// Its rows.
    pub(crate) num_rows: usize,
    /// The row of a text's first token.
    pub(crate) first: usize,
}

/// Biases of distance, in buckets that grow with it (Raffel et al. 2020, arXiv:1910.10683).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelativePositions {
    /// Rows of their table, of which each bucket has one.
    pub(crate) num_rows: usize,
    /// Buckets, half of them for what lies ahead.
    pub(crate) num_buckets: usize,
    /// From here on all distances share a bucket.
    pub(crate) max_distance: usize,
}

/// Which layers have biases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Biases {
    /// The projections of attention.
    pub(crate) attention: bool,
    /// The projection into the feed-forward layer.
    pub(crate) mlp_in: bool,
    /// The projection out of it.
    pub(crate) mlp_out: bool,
    /// Norms.
    pub(crate) norm: bool,
}

impl Biases {
    /// Everywhere.
    pub(crate) const ALL: Self = Self { attention: true, mlp_in: true, mlp_out: true, norm: true };
}

/// How a family's checkpoints name their tensors. Names of a layer follow [`Names::layers`] and its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// What checkpoints with a head put before all that is not the head.
    pub(crate) prefix: &'static str,
    pub(crate) tokens: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) types: &'static str,
    pub(crate) embedding_norm: &'static str,
    pub(crate) relative: &'static str,
    pub(crate) layers: &'static str,
    pub(crate) qkv: QkvNames,
    pub(crate) attention_out: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) mlp_in: MlpNames,
    pub(crate) mlp_out: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// The norm after the last layer, where there is one.
    pub(crate) final_norm: Option<&'static str>,
    /// What turns a text's vector into labels, if classifiers of this family are there.
    classifier: Option<ClassifierNames>,
}

/// Projections to queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub(crate) enum QkvNames {
    /// Three matrices.
    Parts([&'static str; 3]),
    /// One.
    Joined(&'static str),
}

/// Projections into the feed-forward layer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MlpNames {
    /// One matrix, no gate.
    Plain(&'static str),
    /// Gate and values, each a matrix.
    Gated([&'static str; 2]),
    /// Gate and values in one matrix.
    GatedHalves(&'static str),
}

/// Heads that share the width evenly.
fn read_heads(hidden_size: usize, num_heads: usize) -> Result<HeadShape, LoadError> {
    if !hidden_size.is_multiple_of(num_heads) {
        return Err(corrupt(format!("a width of {hidden_size} does not divide into {num_heads} heads")));
    }
    Ok(HeadShape { num_heads, num_kv_heads: num_heads, head_dim: hidden_size / num_heads })
}

/// The activation that a key names.
fn read_activation(config: Config<'_>, key: &str, default: &str) -> Result<Activation, LoadError> {
    let name = config.text(key, default)?;
    Activation::named(name).ok_or_else(|| {
        let names = Activation::NAMES;
        LoadError::Unsupported(format!("`{key}` {name:?} is not there; those that are: {names}"))
    })
}
