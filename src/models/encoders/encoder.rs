//! The encoder itself: embeddings, blocks of attention and feed-forward, and the vectors of all tokens.

use candle_core::{Device, Result, Storage, Tensor, bail};
use candlewick_engine::LoadError;

use super::batch::TextBatch;
use super::{EncoderConfig, LayerConfig, MlpNames, Names, QkvNames, RelativePositions};
use crate::cache::KvCache;
use crate::kernels::activation::Activation;
use crate::kernels::attention::{AttendOptions, HeadShape, RelativeBias, Segment, attend};
use crate::kernels::rope::{HeadOptions, place};
use crate::layers::activation::{activate, gate_halves};
use crate::layers::embedding::{Embedding, gather};
use crate::layers::layer_norm::LayerNorm;
use crate::layers::linear::{Around, Linear};
use crate::layers::rope::{Angles, Rope};
use crate::layers::slice::contiguous;
use crate::weights::WeightReader;

/// An encoder with its weights.
pub(super) struct Encoder {
    tokens: Embedding,
    positions: Option<(Tensor, usize)>,
    types: Option<Tensor>,
    norm: LayerNorm,
    blocks: Vec<Block>,
    final_norm: Option<LayerNorm>,
    ropes: Vec<Rope>,
    relative: Option<RelativeTable>,
    heads: HeadShape,
}

impl Encoder {
    /// Reads all weights; `prefix` is what the checkpoint puts before their names.
    pub(super) fn load(
        config: &EncoderConfig,
        prefix: &str,
        weights: &mut WeightReader<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let EncoderConfig { hidden_size, names, norm_epsilon, .. } = *config;
        let tokens =
            Embedding::load(weights, &format!("{prefix}{}", names.tokens), config.vocab_size, hidden_size)?;
        let mut table =
            |name: &str, num_rows| weights.matrix(&format!("{prefix}{name}.weight"), [num_rows, hidden_size]);
        let positions = match config.positions {
            Some(learned) => Some((table(names.positions, learned.num_rows)?, learned.first)),
            None => None,
        };
        let types = match config.num_types {
            0 => None,
            num_types => Some(table(names.types, num_types)?),
        };
        let relative = match config.relative {
            Some(relative) => Some(RelativeTable::load(config, relative, prefix, weights)?),
            None => None,
        };
        let mut norm = |name: &str| {
            LayerNorm::load(
                weights,
                &format!("{prefix}{name}"),
                hidden_size,
                norm_epsilon,
                config.biases.norm,
            )
        };
        let (embedding_norm, final_norm) =
            (norm(names.embedding_norm)?, names.final_norm.map(norm).transpose()?);
        let blocks = (0..config.layers.len())
            .map(|index| Block::load(weights, &format!("{prefix}{}.{index}", names.layers), config, index))
            .collect::<std::result::Result<_, _>>()?;
        let ropes = config.ropes.iter().map(|rope| Rope::new(rope.clone(), config.heads.head_dim)).collect();
        Ok(Self {
            tokens,
            positions,
            types,
            norm: embedding_norm,
            blocks,
            final_norm,
            ropes,
            relative,
            heads: config.heads,
        })
    }

    /// The vectors of all tokens: `(rows, hidden)`. `kv` is scratch memory for one layer's keys and values.
    pub(super) fn forward(&self, batch: &TextBatch, kv: &mut KvCache) -> Result<Tensor> {
        let angles: Vec<Angles> = self.ropes.iter().map(|rope| rope.angles(&batch.positions)).collect();
        let biases = self.relative.as_ref().map(|table| table.of_distances(batch.longest()));
        let relative = biases.as_ref().map(|table| RelativeBias { table, reach: batch.longest() });
        let segments = batch.segments();
        let mut x = self.embed(batch)?;
        for block in &self.blocks {
            x = block.forward(&x, &angles, relative, &segments, self.heads, kv)?;
        }
        match &self.final_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// Tokens, their types and their places, added up and normed: `(rows, hidden)`.
    fn embed(&self, batch: &TextBatch) -> Result<Tensor> {
        let mut x = self.tokens.forward(&batch.token_ids)?;
        if let Some(types) = &self.types {
            x = (x + gather(types, &batch.type_ids)?)?;
        }
        if let Some((table, first)) = &self.positions {
            let rows: Vec<u32> = batch.positions.iter().map(|position| (position + first) as u32).collect();
            x = (x + gather(table, &rows)?)?;
        }
        self.norm.forward(&x)
    }
}

/// Attention and feed-forward, each added to what came in and normed before or after.
struct Block {
    qkv: Linear,
    out: Linear,
    /// Absent where norms come first and the embeddings were normed just before.
    attention_norm: Option<LayerNorm>,
    mlp: Mlp,
    mlp_norm: LayerNorm,
    layer: LayerConfig,
    norm_first: bool,
}

impl Block {
    fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &EncoderConfig,
        index: usize,
    ) -> std::result::Result<Self, LoadError> {
        let EncoderConfig { hidden_size, heads, biases, norm_epsilon, norm_first, .. } = *config;
        let Names { qkv, attention_out, attention_norm, mlp_norm, .. } = config.names;
        let width = heads.num_heads * heads.head_dim;
        let qkv = match qkv {
            QkvNames::Parts(parts) => {
                let names = parts.map(|part| format!("{name}.{part}"));
                let parts: Vec<_> = names.iter().map(|name| (name.as_str(), width)).collect();
                Linear::joined(weights, &parts, hidden_size, biases.attention)?
            }
            QkvNames::Joined(joined) => {
                let shape = [hidden_size, 3 * width];
                Linear::load(weights, &format!("{name}.{joined}"), shape, biases.attention)?
            }
        };
        let out = format!("{name}.{attention_out}");
        let out = Linear::load(weights, &out, [width, hidden_size], biases.attention)?;
        let mut norm = |part: &str| {
            LayerNorm::load(weights, &format!("{name}.{part}"), hidden_size, norm_epsilon, biases.norm)
        };
        let attention_norm = if norm_first && index == 0 { None } else { Some(norm(attention_norm)?) };
        let mlp_norm = norm(mlp_norm)?;
        let mlp = Mlp::load(weights, name, config)?;
        Ok(Self { qkv, out, attention_norm, mlp, mlp_norm, layer: config.layers[index], norm_first })
    }

    fn forward(
        &self,
        x: &Tensor,
        angles: &[Angles],
        relative: Option<RelativeBias<'_>>,
        segments: &[Segment<'_>],
        heads: HeadShape,
        kv: &mut KvCache,
    ) -> Result<Tensor> {
        let norm = |x: &Tensor| match &self.attention_norm {
            Some(norm) => norm.forward(x),
            None => Ok(x.clone()),
        };
        if self.norm_first {
            let x = self.attend(&norm(x)?, x, angles, relative, segments, heads, kv)?;
            return self.mlp.forward(&self.mlp_norm.forward(&x)?, &x);
        }
        let x = norm(&self.attend(x, x, angles, relative, segments, heads, kv)?)?;
        self.mlp_norm.forward(&self.mlp.forward(&x, &x)?)
    }

    /// `residual + attention(x)`: `(rows, hidden)` → the same.
    #[allow(clippy::too_many_arguments)] // Two of them belong together only where norms come first.
    fn attend(
        &self,
        x: &Tensor,
        residual: &Tensor,
        angles: &[Angles],
        relative: Option<RelativeBias<'_>>,
        segments: &[Segment<'_>],
        heads: HeadShape,
        kv: &mut KvCache,
    ) -> Result<Tensor> {
        // 1. Projections: (rows, hidden) → (rows, 3 × heads × head_dim)
        let qkv = self.qkv.forward(x)?;
        let (rows, width) = (qkv.dim(0)?, heads.num_heads * heads.head_dim);
        let (storage, at) = qkv.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("keys and values are not in main memory") };
        // 2. Positions, where rotation gives them; keys and values into the blocks of their texts.
        let rotation = self.layer.rope.map(|rope| angles[rope].rotation());
        let options = HeadOptions { rotation, ..HeadOptions::default() };
        let (block_size, mut q) = (kv.shape().block_size as usize, vec![0.0; rows * width]);
        place(contiguous(storage, at)?, segments, heads, options, kv.writer(0), block_size, &mut q);
        // 3. Each row looks over its own text, or its neighbourhood there.
        let options = AttendOptions {
            window: self.layer.reach.map(|reach| reach + 1),
            ahead: self.layer.reach.unwrap_or(usize::MAX),
            bias: relative,
            ..AttendOptions::default()
        };
        let mut seen = vec![0.0; rows * width];
        attend(&q, kv.layer(0), segments, heads, options, &mut seen);
        let seen = Tensor::from_vec(seen, (rows, width), &Device::Cpu)?;
        // 4. Heads back together: (rows, hidden)
        self.out.forward_with(&seen, Around { norm: None, residual: Some(residual) })
    }
}

/// The feed-forward layer.
struct Mlp {
    within: Linear,
    out: Linear,
    activation: MlpActivation,
}

enum MlpActivation {
    Plain(Activation),
    /// The product with the gate is part of `within`.
    Done,
    Halves(Activation),
}

impl Mlp {
    fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &EncoderConfig,
    ) -> std::result::Result<Self, LoadError> {
        let EncoderConfig { hidden_size: hidden, intermediate_size: inner, activation, biases, .. } = *config;
        let bias = biases.mlp_in;
        let (within, activation) = match config.names.mlp_in {
            MlpNames::Plain(plain) => {
                let within = Linear::load(weights, &format!("{name}.{plain}"), [hidden, inner], bias)?;
                (within, MlpActivation::Plain(activation))
            }
            MlpNames::Gated(parts) => {
                let names = parts.map(|part| format!("{name}.{part}"));
                let names = [names[0].as_str(), names[1].as_str()];
                (Linear::gated(weights, names, [hidden, inner], bias, activation)?, MlpActivation::Done)
            }
            MlpNames::GatedHalves(both) => {
                let within = Linear::load(weights, &format!("{name}.{both}"), [hidden, 2 * inner], bias)?;
                (within, MlpActivation::Halves(activation))
            }
        };
        let out = format!("{name}.{}", config.names.mlp_out);
        let out = Linear::load(weights, &out, [inner, hidden], biases.mlp_out)?;
        Ok(Self { within, out, activation })
    }

    /// `residual + mlp(x)`: `(rows, hidden)` → the same.
    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let within = self.within.forward(x)?;
        let within = match self.activation {
            MlpActivation::Plain(activation) => activate(&within, activation)?,
            MlpActivation::Done => within,
            MlpActivation::Halves(activation) => gate_halves(&within, activation)?,
        };
        self.out.forward_with(&within, Around { norm: None, residual: Some(residual) })
    }
}

/// Learned biases of distance: `(buckets, heads)`.
struct RelativeTable {
    config: RelativePositions,
    num_heads: usize,
    table: Vec<f32>,
}

impl RelativeTable {
    fn load(
        config: &EncoderConfig,
        relative: RelativePositions,
        prefix: &str,
        weights: &mut WeightReader<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let (num_heads, num_rows) = (config.heads.num_heads, relative.num_rows);
        let name = format!("{prefix}{}.weight", config.names.relative);
        let table = weights.matrix(&name, [num_rows, num_heads])?;
        let rows: Vec<u32> = (0..num_rows as u32).collect();
        let table = gather(&table, &rows).and_then(|table| table.flatten_all()?.to_vec1());
        let table = table.map_err(|error| LoadError::Internal(error.to_string()))?;
        Ok(Self { config: relative, num_heads, table })
    }

    /// The bias of each head and each distance below `reach`, as [`RelativeBias`] has it.
    fn of_distances(&self, reach: usize) -> Vec<f32> {
        let width = 2 * reach as isize - 1;
        let buckets: Vec<usize> =
            (0..width).map(|index| bucket(index - (reach as isize - 1), self.config)).collect();
        let heads = 0..self.num_heads;
        heads
            .flat_map(|head| buckets.iter().map(move |bucket| self.table[bucket * self.num_heads + head]))
            .collect()
    }
}

/// The bucket of what lies so far ahead (or, below zero, behind): one each for near places, then wider and wider ones.
fn bucket(ahead: isize, RelativePositions { num_buckets, max_distance, .. }: RelativePositions) -> usize {
    let half = num_buckets / 2;
    let side = if ahead > 0 { half } else { 0 };
    let (distance, exact) = (ahead.unsigned_abs(), half / 2);
    if distance < exact {
        return side + distance;
    }
    let growth = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
    side + (exact + (growth * (half - exact) as f32) as usize).min(half - 1)
}
