//! A decoder of pre-normed blocks: what Llama brought and most families kept. A family's own file says what is
//! particular about it by filling in [`DecoderConfig`].

use candle_core::{Result, Tensor};
use candlewick_engine::LoadError;

use super::attention::Attention;
use super::embedding::{Embedding, gather};
use super::linear::{Around, Linear};
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::{Rope, RopeConfig};
use crate::batch::Batch;
use crate::cache::KvCache;
use crate::config::{Config, corrupt};
use crate::kernels::activation::Activation;
use crate::kernels::attention::{HeadShape, Segment};
use crate::kernels::packed::{BestOutput, Kind};
use crate::weights::WeightReader;

/// Everything that tells one decoder from another.
#[derive(Debug, Clone)]
pub(crate) struct DecoderConfig {
    /// `model_type`.
    pub(crate) family: &'static str,
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
    /// Activation of the feed-forward layers.
    pub(crate) activation: Activation,
    /// Longest context it was made for.
    pub(crate) max_position_embeddings: usize,
    /// Added to the mean square in norms.
    pub(crate) rms_norm_eps: f32,
    /// How positions become angles.
    pub(crate) rope: RopeConfig,
    /// The head is the embedding table.
    pub(crate) tie_word_embeddings: bool,
    /// Biases of the projections to queries, keys and values.
    pub(crate) qkv_bias: bool,
    /// Bias of the projection out of attention.
    pub(crate) o_bias: bool,
    /// Biases in the feed-forward layers.
    pub(crate) mlp_bias: bool,
    /// Norms on each query and key head.
    pub(crate) qk_norm: bool,
}

/// What is particular about one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerConfig {
    /// How many positions a token sees, itself included; `None` sees all.
    pub(crate) window: Option<usize>,
    /// Whether queries and keys are rotated by their positions.
    pub(crate) rope: bool,
}

impl LayerConfig {
    /// Sees everything, with positions.
    pub(crate) const FULL: Self = Self { window: None, rope: true };
}

/// What transformers takes where a key of `config.json` is absent.
pub(crate) struct Defaults {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// `None`: as many as there are heads.
    pub(crate) num_key_value_heads: Option<usize>,
    /// `None`: the hidden size divided by the heads.
    pub(crate) head_dim: Option<usize>,
    pub(crate) max_position_embeddings: usize,
    pub(crate) rope_theta: f64,
    pub(crate) tie_word_embeddings: bool,
}

impl DecoderConfig {
    /// What all families spell alike; biases, norms and layers are plain, for the family to change.
    pub(crate) fn read(
        family: &'static str,
        config: Config<'_>,
        defaults: &Defaults,
    ) -> std::result::Result<Self, LoadError> {
        let hidden_size = config.count("hidden_size", defaults.hidden_size)?;
        let heads = read_heads(config, defaults, hidden_size)?;
        let max_position_embeddings =
            config.count("max_position_embeddings", defaults.max_position_embeddings)?;
        let activation = config.text("hidden_act", "silu")?;
        let activation = Activation::named(activation).ok_or_else(|| {
            let names = Activation::NAMES;
            LoadError::Unsupported(format!(
                "`hidden_act` {activation:?} is not there; those that are: {names}"
            ))
        })?;
        let num_layers = config.count("num_hidden_layers", defaults.num_hidden_layers)?;
        Ok(Self {
            family,
            vocab_size: config.count("vocab_size", defaults.vocab_size)?,
            hidden_size,
            intermediate_size: config.count("intermediate_size", defaults.intermediate_size)?,
            heads,
            layers: vec![LayerConfig::FULL; num_layers],
            activation,
            max_position_embeddings,
            rms_norm_eps: config.number("rms_norm_eps", 1e-6)? as f32,
            rope: RopeConfig::read(config, defaults.rope_theta, max_position_embeddings)?,
            tie_word_embeddings: config.flag("tie_word_embeddings", defaults.tie_word_embeddings)?,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
        })
    }

    /// Gives `window` to the layers that `layer_types` calls sliding or, where there is no such list, to those that
    /// `slides` says.
    pub(crate) fn slide(
        &mut self,
        config: Config<'_>,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> std::result::Result<(), LoadError> {
        let types = config.list_for_layers("layer_types", self.layers.len())?;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let sliding = match types.map(|types| &types[index]) {
                None => slides(index),
                Some(value) => match value.as_str() {
                    Some("sliding_attention") => true,
                    Some("full_attention") => false,
                    _ => {
                        return Err(LoadError::Unsupported(format!(
                            "`layer_types` has {value}; those that are there: full_attention, sliding_attention"
                        )));
                    }
                },
            };
            layer.window = window.filter(|_| sliding);
        }
        Ok(())
    }
}

fn read_heads(
    config: Config<'_>,
    defaults: &Defaults,
    hidden_size: usize,
) -> std::result::Result<HeadShape, LoadError> {
    let num_heads = config.count("num_attention_heads", defaults.num_attention_heads)?;
    let default_kv = if config.is_null("num_key_value_heads") { None } else { defaults.num_key_value_heads };
    let num_kv_heads = config.count("num_key_value_heads", default_kv.unwrap_or(num_heads))?;
    if !num_heads.is_multiple_of(num_kv_heads) {
        return Err(corrupt(format!(
            "`num_attention_heads` ({num_heads}) should be a multiple of `num_key_value_heads` ({num_kv_heads})"
        )));
    }
    let head_dim = match config.count_if_given("head_dim")? {
        Some(given) => given,
        None => defaults.head_dim.unwrap_or(hidden_size / num_heads),
    };
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(corrupt(format!("heads should have an even number of elements, and have {head_dim}")));
    }
    Ok(HeadShape { num_heads, num_kv_heads, head_dim })
}

/// A decoder with its weights.
pub(crate) struct Decoder {
    body: DecoderBody,
    head: Linear,
}

/// A decoder without its head: what it makes of tokens, before it says which comes next.
pub(crate) struct DecoderBody {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
}

/// Attention and feed-forward, each normed before and added to what came in.
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

impl Decoder {
    /// Reads all weights.
    pub(crate) fn load(
        config: &DecoderConfig,
        weights: &mut WeightReader<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let prefix = prefix(weights);
        let embed_name = format!("{prefix}embed_tokens");
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let (embedding, tied) = if is_tied(config, weights, &embed_name) {
            let (embedding, head) = Embedding::load_tied(weights, &embed_name, vocab, hidden)?;
            (embedding, Some(head))
        } else {
            (Embedding::load(weights, &embed_name, vocab, hidden)?, None)
        };
        let body = DecoderBody::load_around(embedding, prefix, config, weights, |index| index)?;
        let head = match tied {
            Some(head) => head,
            None => Linear::head(weights, "lm_head", [hidden, vocab])?,
        };
        Ok(Self { body, head })
    }

    /// What its largest matrix is kept as.
    pub(crate) fn kind(&self) -> Kind {
        self.head.kind()
    }

    /// The residual stream after the last block: `(rows, hidden)`.
    pub(crate) fn forward(&self, batch: &Batch<'_>, cache: &mut KvCache) -> Result<Tensor> {
        self.body.forward(&batch.token_ids, &batch.positions, &batch.segments, cache)
    }

    /// The logits of some rows of the residual stream: `(rows, vocab)`. The head is the largest matrix, so only rows
    /// that are sampled or scored go through it.
    pub(crate) fn logits(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        self.head.forward_with(&gather(x, rows)?, Around { norm: Some(&self.body.norm), residual: None })
    }

    /// The likeliest token of some rows and its logit, without the logits; see [`Linear::best`].
    pub(crate) fn best(&self, x: &Tensor, rows: &[u32]) -> Result<Option<Vec<BestOutput>>> {
        self.head.best(&gather(x, rows)?, Some(&self.body.norm))
    }
}

/// What stands before the names of all tensors but the head's, as the Hub's checkpoints have it; those saved from a bare
/// model lack it.
fn prefix(weights: &WeightReader<'_>) -> &'static str {
    let has = |name: &str| weights.checkpoint().has(name);
    if !has("model.embed_tokens.weight") && has("embed_tokens.weight") { "" } else { "model." }
}

impl DecoderBody {
    /// Reads all weights but the head's. It is for whole texts in one pass, none of which goes on: the keys and values of
    /// one layer are in the cache at a time.
    pub(crate) fn load(
        config: &DecoderConfig,
        weights: &mut WeightReader<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let prefix = prefix(weights);
        let name = format!("{prefix}embed_tokens");
        let embedding = Embedding::load(weights, &name, config.vocab_size, config.hidden_size)?;
        Self::load_around(embedding, prefix, config, weights, |_| 0)
    }

    fn load_around(
        embedding: Embedding,
        prefix: &str,
        config: &DecoderConfig,
        weights: &mut WeightReader<'_>,
        cache_layer: impl Fn(usize) -> usize,
    ) -> std::result::Result<Self, LoadError> {
        let blocks = (0..config.layers.len())
            .map(|index| {
                let name = format!("{prefix}layers.{index}");
                Block::load(weights, &name, config, index, cache_layer(index))
            })
            .collect::<std::result::Result<_, _>>()?;
        let norm = RmsNorm::load(weights, &format!("{prefix}norm"), config.hidden_size, config.rms_norm_eps)?;
        let rope = Rope::new(config.rope.clone(), config.heads.head_dim);
        Ok(Self { embedding, blocks, norm, rope })
    }

    /// The residual stream after the last block: `(rows, hidden)`.
    fn forward(
        &self,
        token_ids: &[u32],
        positions: &[usize],
        segments: &[Segment<'_>],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let angles = self.rope.angles(positions);
        let mut x = self.embedding.forward(token_ids)?;
        for block in &self.blocks {
            x = block.attention.forward(&x, &block.attention_norm, &angles, segments, cache)?;
            x = block.mlp.forward(&x, &block.mlp_norm)?;
        }
        Ok(x)
    }

    /// What the head would read: `(rows, hidden)`.
    pub(crate) fn states(
        &self,
        token_ids: &[u32],
        positions: &[usize],
        segments: &[Segment<'_>],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        self.norm.forward(&self.forward(token_ids, positions, segments, cache)?)
    }
}

/// As transformers 5 has it: a checkpoint that comes with a head of its own, different from the embedding, means it.
fn is_tied(config: &DecoderConfig, weights: &WeightReader<'_>, embed_name: &str) -> bool {
    let checkpoint = weights.checkpoint();
    config.tie_word_embeddings
        && (!checkpoint.has("lm_head.weight")
            || checkpoint.same("lm_head.weight", &format!("{embed_name}.weight")))
}

impl Block {
    fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &DecoderConfig,
        index: usize,
        cache_layer: usize,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, epsilon) = (config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &format!("{name}.input_layernorm"), hidden, epsilon)?,
            attention: Attention::load(weights, &format!("{name}.self_attn"), config, index, cache_layer)?,
            mlp_norm: RmsNorm::load(weights, &format!("{name}.post_attention_layernorm"), hidden, epsilon)?,
            mlp: Mlp::load(weights, &format!("{name}.mlp"), config)?,
        })
    }
}
