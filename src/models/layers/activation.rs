//! Activations that stand by themselves: of feed-forward layers without a gate, or with gate and values in one matrix.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::slice::contiguous;
use crate::kernels::activation::Activation;
use crate::kernels::rows::for_each_row;

/// `activation(x)`: `(rows, width)` → the same.
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.apply_op1_no_bwd(&ActivateOp { activation, is_gate: false })
}

/// `activation(first half) · second half` of each row: `(rows, 2 × width)` → `(rows, width)`.
pub(crate) fn gate_halves(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.apply_op1_no_bwd(&ActivateOp { activation, is_gate: true })
}

struct ActivateOp {
    activation: Activation,
    is_gate: bool,
}

impl CustomOp1 for ActivateOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, num_in) = x_at.shape().dims2()?;
        let x = contiguous::<f32>(x, x_at)?;
        let width = if self.is_gate { num_in / 2 } else { num_in };
        let mut out = vec![0.0; rows * width];
        for_each_row(&mut out, width, |row, out| {
            let (first, second) = x[row * num_in..][..num_in].split_at(width);
            out.copy_from_slice(first);
            self.activation.apply_to(out);
            if self.is_gate {
                out.iter_mut().zip(second).for_each(|(out, value)| *out *= value);
            }
        });
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }
}
