//! Root-mean-square norm.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candlewick_engine::LoadError;

use super::slice::contiguous;
use crate::kernels::norm::rms_norm;
use crate::kernels::packed::Norm;
use crate::weights::WeightReader;

/// Scales each row to a root mean square of one, then by a learned weight.
pub(crate) struct RmsNorm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl RmsNorm {
    /// Reads `{name}.weight`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self { weight: weights.vector(&format!("{name}.weight"), width)?, epsilon })
    }

    /// `(rows, width)` → the same. A width of several heads is normed head by head.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(&RmsNormOp { norm: self })
    }

    /// For a linear layer that norms its inputs itself.
    pub(crate) fn as_kernel(&self) -> Norm<'_> {
        Norm { weight: &self.weight, epsilon: self.epsilon }
    }
}

struct RmsNormOp<'a> {
    norm: &'a RmsNorm,
}

impl CustomOp1 for RmsNormOp<'_> {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous::<f32>(x, x_at)?;
        let mut out = vec![0.0; x.len()];
        rms_norm(x, &self.norm.weight, self.norm.epsilon, &mut out);
        Ok((CpuStorage::F32(out), x_at.shape().clone()))
    }
}
