//! Linear layers: the seam to the packed kernels. Whatever a weight is packed or quantised into, this is the one place
//! among the layers that knows.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};
use candlewick_engine::{Kernels, LoadError};

use super::norm::RmsNorm;
use super::reference;
use super::slice::contiguous;
use crate::kernels::activation::Activation;
use crate::kernels::packed::pack::Packing;
use crate::kernels::packed::{BestOutput, Epilogue, Kind, Packed};
use crate::packing::Role;
use crate::weights::WeightReader;

/// `y = x · weightᵀ + bias`. The weight is packed in the type it is kept in; `x` and `y` are `f32`.
///
/// Several layers over the same inputs are one: their outputs joined ([`Linear::joined`]), or gated in pairs
/// ([`Linear::gated`]).
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
    gate: Option<Activation>,
}

/// A matrix: for our kernels, or for candle's.
#[derive(Clone)]
pub(crate) enum Weight {
    /// Packed, and maybe an embedding's table too.
    Packed(Arc<Packed>),
    /// The same weights in `f32`, `(out, in)`.
    Reference(Tensor),
}

/// What a layer does on the way, so that activations need not pass through memory once more.
#[derive(Clone, Copy, Default)]
pub(crate) struct Around<'a> {
    /// A norm of the inputs.
    pub(crate) norm: Option<&'a RmsNorm>,
    /// Added to the result.
    pub(crate) residual: Option<&'a Tensor>,
}

impl Linear {
    /// Reads `{name}.weight` and, if `bias`, `{name}.bias`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        [num_in, num_out]: [usize; 2],
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        Self::joined(weights, &[(name, num_out)], num_in, bias)
    }

    /// Reads several layers over the same inputs, each a name and a number of outputs: `(rows, in)` → the outputs of
    /// the first, then of the second, … in each row.
    pub(crate) fn joined(
        weights: &mut WeightReader<'_>,
        parts: &[(&str, usize)],
        num_in: usize,
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        Self::read(weights, parts, num_in, bias, Packing::Joined, None)
    }

    /// Reads two layers with as many outputs: `activation(first) · second`.
    pub(crate) fn gated(
        weights: &mut WeightReader<'_>,
        [gate, up]: [&str; 2],
        [num_in, num_out]: [usize; 2],
        bias: bool,
        activation: Activation,
    ) -> std::result::Result<Self, LoadError> {
        let parts = [(gate, num_out), (up, num_out)];
        Self::read(weights, &parts, num_in, bias, Packing::Paired, Some(activation))
    }

    fn read(
        weights: &mut WeightReader<'_>,
        parts: &[(&str, usize)],
        num_in: usize,
        bias: bool,
        packing: Packing,
        gate: Option<Activation>,
    ) -> std::result::Result<Self, LoadError> {
        let names: Vec<_> = parts.iter().map(|(name, _)| format!("{name}.weight")).collect();
        let named: Vec<_> =
            names.iter().zip(parts).map(|(name, (_, num_out))| (name.as_str(), *num_out)).collect();
        let weight = Weight::read(weights, &named, num_in, packing, Role::Layer)?;
        let mut joined = Vec::new();
        for (name, num_out) in parts.iter().filter(|_| bias) {
            joined.extend(weights.vector(&format!("{name}.bias"), *num_out)?);
        }
        Ok(Self { weight, bias: bias.then_some(joined), gate })
    }

    /// Reads `{name}.weight` as the way from the last layer to logits.
    pub(crate) fn head(
        weights: &mut WeightReader<'_>,
        name: &str,
        [num_in, num_out]: [usize; 2],
    ) -> std::result::Result<Self, LoadError> {
        let name = format!("{name}.weight");
        Ok(Self::tied(Weight::read(weights, &[(&name, num_out)], num_in, Packing::Joined, Role::Head)?))
    }

    /// A layer that shares its weight with another: a head tied to the embedding.
    pub(crate) fn tied(weight: Weight) -> Self {
        Self { weight, bias: None, gate: None }
    }

    /// `(rows, in)` → `(rows, out)`.
    #[allow(dead_code)] // The decoder's own layers all have something around them.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Around::default())
    }

    /// `linear(norm(x)) + residual`, each where given.
    pub(crate) fn forward_with(&self, x: &Tensor, around: Around<'_>) -> Result<Tensor> {
        match &self.weight {
            Weight::Packed(weight) => x.apply_op1_no_bwd(&LinearOp { layer: self, weight, around }),
            Weight::Reference(weight) => {
                reference::linear(x, weight, self.bias.as_deref(), self.gate, around)
            }
        }
    }

    /// The largest output of each row of `linear(norm(x))`, of equals the first: which, and what it is; `None` for a row with
    /// an output that is no number. Nothing at all where outputs have to be computed first, and then looked at.
    pub(crate) fn best(&self, x: &Tensor, norm: Option<&RmsNorm>) -> Result<Option<Vec<BestOutput>>> {
        let Weight::Packed(weight) = &self.weight else { return Ok(None) };
        let (storage, at) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { return Ok(None) };
        let x = contiguous::<f32>(storage, at)?;
        Ok(Some(weight.best(x, norm.map(RmsNorm::as_kernel), self.bias.as_deref())))
    }

    /// What the weight is kept as.
    pub(crate) fn kind(&self) -> Kind {
        match &self.weight {
            Weight::Packed(weight) => weight.kind(),
            Weight::Reference(_) => Kind::F32,
        }
    }
}

impl Weight {
    /// Matrices over the same inputs as one, as the options would have them.
    pub(super) fn read(
        weights: &mut WeightReader<'_>,
        parts: &[(&str, usize)],
        num_in: usize,
        packing: Packing,
        role: Role,
    ) -> std::result::Result<Self, LoadError> {
        let packed = weights.packed(parts, num_in, packing, role)?;
        if weights.kernels() == Kernels::Packed {
            return Ok(Self::Packed(Arc::new(packed)));
        }
        let plain = reference::unpack(&packed).map_err(|error| LoadError::Internal(error.to_string()))?;
        weights.num_bytes += (plain.elem_count() * size_of::<f32>()) as u64;
        weights.num_bytes -= packed.num_bytes() as u64;
        Ok(Self::Reference(plain))
    }
}

struct LinearOp<'a> {
    layer: &'a Linear,
    weight: &'a Packed,
    around: Around<'a>,
}

impl CustomOp1 for LinearOp<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, num_in) = x_at.shape().dims2()?;
        let Linear { bias, gate, .. } = self.layer;
        let weight = self.weight;
        if num_in != weight.num_in() {
            bail!("a linear layer of {} inputs was given {num_in}", weight.num_in());
        }
        let num_out = weight.num_out() / if gate.is_some() { 2 } else { 1 };
        let residual = self.around.residual.map(|residual| residual.storage_and_layout());
        let residual = match &residual {
            None => None,
            Some((storage, at)) => match &**storage {
                Storage::Cpu(storage) if at.shape().dims() == [rows, num_out] => {
                    Some(contiguous::<f32>(storage, at)?)
                }
                _ => bail!(
                    "a residual of {:?} was added to {rows} rows of {num_out} in main memory",
                    at.shape()
                ),
            },
        };
        let norm = self.around.norm.map(RmsNorm::as_kernel);
        let mut out = vec![0.0; rows * num_out];
        let epilogue = Epilogue { bias: bias.as_deref(), residual, gate: *gate };
        weight.multiply(contiguous::<f32>(x, x_at)?, norm, epilogue, &mut out);
        Ok((CpuStorage::F32(out), (rows, num_out).into()))
    }
}
