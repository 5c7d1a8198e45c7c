//! The gated feed-forward layer (Shazeer 2020, arXiv:2002.05202).

use candle_core::{Result, Tensor};
use candlewick_engine::LoadError;

use super::decoder::DecoderConfig;
use super::linear::{Around, Linear};
use super::norm::RmsNorm;
use crate::weights::WeightReader;

/// `down(activation(gate(x)) · up(x))`.
pub(crate) struct Mlp {
    gate_up: Linear,
    down: Linear,
}

impl Mlp {
    /// Reads `gate_proj`, `up_proj` and `down_proj` below `name`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        config: &DecoderConfig,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let (gate, up) = (format!("{name}.gate_proj"), format!("{name}.up_proj"));
        Ok(Self {
            gate_up: Linear::gated(weights, [&gate, &up], [hidden, inner], bias, config.activation)?,
            down: Linear::load(weights, &format!("{name}.down_proj"), [inner, hidden], bias)?,
        })
    }

    /// `x + mlp(norm(x))`: `(rows, hidden)` → the same.
    pub(crate) fn forward(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let inner = self.gate_up.forward_with(x, Around { norm: Some(norm), residual: None })?;
        self.down.forward_with(&inner, Around { norm: None, residual: Some(x) })
    }
}
