//! Layer norm.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candlewick_engine::LoadError;

use super::slice::contiguous;
use crate::kernels::layer_norm::layer_norm;
use crate::weights::WeightReader;

/// Shifts each row to a mean of zero and scales it to a variance of one, then by a learned weight and bias.
pub(crate) struct LayerNorm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    epsilon: f32,
}

impl LayerNorm {
    /// Reads `{name}.weight` and, if `bias`, `{name}.bias`; the first BERT checkpoints call them gamma and beta.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        width: usize,
        epsilon: f32,
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        let is_old = weights.checkpoint().has(&format!("{name}.gamma"));
        let [gamma, beta] = if is_old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let weight = weights.vector(&format!("{name}.{gamma}"), width)?;
        let bias = bias.then(|| weights.vector(&format!("{name}.{beta}"), width)).transpose()?;
        Ok(Self { weight, bias, epsilon })
    }

    /// `(rows, width)` → the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(&LayerNormOp { norm: self })
    }
}

struct LayerNormOp<'a> {
    norm: &'a LayerNorm,
}

impl CustomOp1 for LayerNormOp<'_> {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let LayerNorm { weight, bias, epsilon } = self.norm;
        let x = contiguous::<f32>(x, x_at)?;
        let mut out = vec![0.0; x.len()];
        layer_norm(x, weight, bias.as_deref(), *epsilon, &mut out);
        Ok((CpuStorage::F32(out), x_at.shape().clone()))
    }
}
