//! Self-attention with grouped key-value heads, over the paged cache.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};
use candlewick_engine::LoadError;

use super::decoder::{DecoderConfig, LayerConfig};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::Angles;
use super::slice::contiguous;
use crate::cache::KvCache;
use crate::kernels::attention::{HeadShape, PagedKv, Segment, attend};
use crate::weights::WeightReader;

/// The attention of one layer.
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    heads: HeadShape,
    layer: LayerConfig,
    index: usize,
}

impl Attention {
    /// Reads `q_proj`, `k_proj`, `v_proj`, `o_proj` and, where there are such, `q_norm` and `k_norm` below `name`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &DecoderConfig,
        index: usize,
    ) -> std::result::Result<Self, LoadError> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = config.heads;
        let (hidden, q_width, kv_width) = (config.hidden_size, num_heads * head_dim, num_kv_heads * head_dim);
        let mut linear =
            |part: &str, shape, bias| Linear::load(weights, &format!("{name}.{part}"), shape, bias);
        let q = linear("q_proj", [hidden, q_width], config.qkv_bias)?;
        let k = linear("k_proj", [hidden, kv_width], config.qkv_bias)?;
        let v = linear("v_proj", [hidden, kv_width], config.qkv_bias)?;
        let o = linear("o_proj", [q_width, hidden], config.o_bias)?;
        let mut norm = |part: &str| {
            let load = || RmsNorm::load(weights, &format!("{name}.{part}"), head_dim, config.rms_norm_eps);
            config.qk_norm.then(load).transpose()
        };
        let (q_norm, k_norm) = (norm("q_norm")?, norm("k_norm")?);
        Ok(Self { q, k, v, o, q_norm, k_norm, heads: config.heads, layer: config.layers[index], index })
    }

    /// `(rows, hidden)` → the same. Writes the rows' keys and values to the cache.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        angles: &Angles,
        segments: &[Segment<'_>],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        // 1. Projections: (rows, hidden) → (rows, heads × head_dim)
        let (q, k, v) = (self.q.forward(x)?, self.k.forward(x)?, self.v.forward(x)?);
        // 2. Norms of each head, where the family has them
        let q = self.norm_heads(self.q_norm.as_ref(), q)?;
        let k = self.norm_heads(self.k_norm.as_ref(), k)?;
        // 3. Positions, except in layers without
        let (q, k) = if self.layer.rope { (angles.rotate(&q)?, angles.rotate(&k)?) } else { (q, k) };
        // 4. Keys and values into the blocks of their sequences
        write_cache(cache, self.index, segments, &k, &v)?;
        // 5. Each row looks back over its own sequence: (rows, heads × head_dim)
        let kv = cache.layer(self.index);
        let seen =
            q.apply_op1_no_bwd(&AttendOp { kv, segments, heads: self.heads, window: self.layer.window })?;
        // 6. Heads back together: (rows, hidden)
        self.o.forward(&seen)
    }

    fn norm_heads(&self, norm: Option<&RmsNorm>, x: Tensor) -> Result<Tensor> {
        let Some(norm) = norm else { return Ok(x) };
        let shape = x.shape().clone();
        norm.forward(&x.reshape(((), self.heads.head_dim))?)?.reshape(shape)
    }
}

fn write_cache(
    cache: &mut KvCache,
    layer: usize,
    segments: &[Segment<'_>],
    k: &Tensor,
    v: &Tensor,
) -> Result<()> {
    let ((keys, keys_at), (values, values_at)) = (k.storage_and_layout(), v.storage_and_layout());
    let (Storage::Cpu(keys), Storage::Cpu(values)) = (&*keys, &*values) else {
        bail!("the KV cache is in main memory, and the keys are not");
    };
    cache.write(layer, segments, contiguous(keys, keys_at)?, contiguous(values, values_at)?);
    Ok(())
}

struct AttendOp<'a> {
    kv: PagedKv<'a>,
    segments: &'a [Segment<'a>],
    heads: HeadShape,
    window: Option<usize>,
}

impl CustomOp1 for AttendOp<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(&self, q: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let q = contiguous::<f32>(q, at)?;
        let mut out = vec![0.0; q.len()];
        attend(q, self.kv, self.segments, self.heads, self.window, &mut out);
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }
}
