//! Self-attention with grouped key-value heads, over the paged cache.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};
use candlewick_engine::{Kernels, LoadError};

use super::decoder::{DecoderConfig, LayerConfig};
use super::linear::{Around, Linear};
use super::norm::RmsNorm;
use super::reference;
use super::rope::Angles;
use super::slice::contiguous;
use crate::cache::{KvCache, PagedKv};
use crate::kernels::attention::{AttendOptions, HeadShape, Segment, attend};
use crate::kernels::rope::{HeadOptions, place};
use crate::weights::WeightReader;

/// The attention of one layer.
pub(crate) struct Attention {
    qkv: Linear,
    o: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    heads: HeadShape,
    layer: LayerConfig,
    /// Which layer of the cache is its own.
    cache_layer: usize,
    kernels: Kernels,
}

impl Attention {
    /// Reads `q_proj`, `k_proj`, `v_proj`, `o_proj` and, where there are such, `q_norm` and `k_norm` below `name`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &DecoderConfig,
        index: usize,
        cache_layer: usize,
    ) -> std::result::Result<Self, LoadError> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = config.heads;
        let (hidden, q_width, kv_width) = (config.hidden_size, num_heads * head_dim, num_kv_heads * head_dim);
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|part| format!("{name}.{part}"));
        let parts = [(q.as_str(), q_width), (k.as_str(), kv_width), (v.as_str(), kv_width)];
        let qkv = Linear::joined(weights, &parts, hidden, config.qkv_bias)?;
        let o = Linear::load(weights, &format!("{name}.o_proj"), [q_width, hidden], config.o_bias)?;
        let mut norm = |part: &str| {
            let load = || RmsNorm::load(weights, &format!("{name}.{part}"), head_dim, config.rms_norm_eps);
            config.qk_norm.then(load).transpose()
        };
        let (q_norm, k_norm) = (norm("q_norm")?, norm("k_norm")?);
        let (heads, layer, kernels) = (config.heads, config.layers[index], weights.kernels());
        Ok(Self { qkv, o, q_norm, k_norm, heads, layer, cache_layer, kernels })
    }

    /// `x + attention(norm(x))`: `(rows, hidden)` → the same. Writes the rows' keys and values to the cache.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        norm: &RmsNorm,
        angles: &Angles,
        segments: &[Segment<'_>],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        // 1. Projections: (rows, hidden) → (rows, (heads + 2 kv heads) × head_dim)
        let qkv = self.qkv.forward_with(x, Around { norm: Some(norm), residual: None })?;
        // 2. Norms of each head where the family has them, positions except in layers without, keys and values into the
        //    blocks of their sequences: (rows, heads × head_dim)
        let q = self.place(&qkv, angles, segments, cache)?;
        // 3. Each row looks back over its own sequence: (rows, heads × head_dim)
        let (kv, heads, window) = (cache.layer(self.cache_layer), self.heads, self.layer.window);
        let options = AttendOptions { window, ..AttendOptions::default() };
        let seen = match self.kernels {
            Kernels::Packed => q.apply_op1_no_bwd(&AttendOp { kv, segments, heads, options })?,
            Kernels::Reference => reference::attend(&q, kv, segments, heads, window)?,
        };
        // 4. Heads back together: (rows, hidden)
        self.o.forward_with(&seen, Around { norm: None, residual: Some(x) })
    }

    fn place(
        &self,
        qkv: &Tensor,
        angles: &Angles,
        segments: &[Segment<'_>],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (rows, _) = qkv.dims2()?;
        let (storage, at) = qkv.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("the KV cache is in main memory, and the keys are not");
        };
        let options = HeadOptions {
            q_norm: self.q_norm.as_ref().map(RmsNorm::as_kernel),
            k_norm: self.k_norm.as_ref().map(RmsNorm::as_kernel),
            rotation: self.layer.rope.then(|| angles.rotation()),
        };
        let width = self.heads.num_heads * self.heads.head_dim;
        let mut q = vec![0.0; rows * width];
        let block_size = cache.shape().block_size as usize;
        let writer = cache.writer(self.cache_layer);
        place(contiguous(storage, at)?, segments, self.heads, options, writer, block_size, &mut q);
        Tensor::from_vec(q, (rows, width), qkv.device())
    }
}

struct AttendOp<'a> {
    kv: PagedKv<'a>,
    segments: &'a [Segment<'a>],
    heads: HeadShape,
    options: AttendOptions<'a>,
}

impl CustomOp1 for AttendOp<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(&self, q: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let q = contiguous::<f32>(q, at)?;
        let mut out = vec![0.0; q.len()];
        attend(q, self.kv, self.segments, self.heads, self.options, &mut out);
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }
}
