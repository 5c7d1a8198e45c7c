//! Linear layers: the seam for faster kernels. Whatever a weight is packed or quantised into later, this is the one
//! place that knows.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use candlewick_engine::LoadError;
use half::{bf16, f16};

use super::slice::contiguous;
use crate::kernels::linear::linear;
use crate::weights::WeightReader;

/// `y = x · weightᵀ + bias`. The weight is `(out, in)` in the type it is kept in; activations are `f32`.
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `{name}.weight` and, if `bias`, `{name}.bias`.
    pub(crate) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        [num_in, num_out]: [usize; 2],
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        let weight = weights.matrix(&format!("{name}.weight"), [num_out, num_in])?;
        let bias = if bias { Some(weights.vector(&format!("{name}.bias"), num_out)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// A layer that shares its weight with another: a head tied to the embedding.
    pub(crate) fn tied(weight: Tensor) -> Self {
        Self { weight, bias: None }
    }

    /// `(rows, in)` → `(rows, out)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&self.weight, &LinearOp { bias: self.bias.as_ref() })
    }
}

struct LinearOp<'a> {
    bias: Option<&'a Tensor>,
}

impl CustomOp2 for LinearOp<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        w: &CpuStorage,
        w_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, num_in) = x_at.shape().dims2()?;
        let (num_out, expected_in) = w_at.shape().dims2()?;
        if num_in != expected_in {
            bail!("a linear layer of {expected_in} inputs was given {num_in}");
        }
        let bias = self.bias.map(|bias| bias.storage_and_layout());
        let bias = match &bias {
            Some((storage, at)) => match &**storage {
                candle_core::Storage::Cpu(storage) => Some(contiguous::<f32>(storage, at)?),
                _ => bail!("the bias of a linear layer is on another device than its weight"),
            },
            None => None,
        };
        let x = contiguous::<f32>(x, x_at)?;
        let mut out = vec![0.0; rows * num_out];
        match w {
            CpuStorage::BF16(_) => linear(x, contiguous::<bf16>(w, w_at)?, bias, num_in, &mut out),
            CpuStorage::F16(_) => linear(x, contiguous::<f16>(w, w_at)?, bias, num_in, &mut out),
            CpuStorage::F32(_) => linear(x, contiguous::<f32>(w, w_at)?, bias, num_in, &mut out),
            other => bail!("a linear layer has no kernel for weights of {:?}", other.dtype()),
        }
        Ok((CpuStorage::F32(out), (rows, num_out).into()))
    }
}
