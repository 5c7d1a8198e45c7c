//! The gated feed-forward layer (Shazeer 2020, arXiv:2002.05202).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use candlewick_engine::LoadError;

use super::decoder::DecoderConfig;
use super::linear::Linear;
use super::slice::contiguous;
use crate::kernels::activation::{Activation, gated};
use crate::weights::WeightReader;

/// `down(activation(gate(x)) · up(x))`.
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    /// Reads `gate_proj`, `up_proj` and `down_proj` below `name`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &DecoderConfig,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        Ok(Self {
            gate: Linear::load(weights, &format!("{name}.gate_proj"), [hidden, inner], bias)?,
            up: Linear::load(weights, &format!("{name}.up_proj"), [hidden, inner], bias)?,
            down: Linear::load(weights, &format!("{name}.down_proj"), [inner, hidden], bias)?,
            activation: config.activation,
        })
    }

    /// `(rows, hidden)` → the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.gate.forward(x)?;
        let up = self.up.forward(x)?;
        self.down.forward(&gate.apply_op2_no_bwd(&up, &GatedOp { activation: self.activation })?)
    }
}

struct GatedOp {
    activation: Activation,
}

impl CustomOp2 for GatedOp {
    fn name(&self) -> &'static str {
        "gated-activation"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        g_at: &Layout,
        u: &CpuStorage,
        u_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = g_at.shape().dims2()?;
        let (gate, up) = (contiguous::<f32>(g, g_at)?, contiguous::<f32>(u, u_at)?);
        let mut out = vec![0.0; gate.len()];
        gated(self.activation, gate, up, width, &mut out);
        Ok((CpuStorage::F32(out), g_at.shape().clone()))
    }
}
