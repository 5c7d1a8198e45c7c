//! Dense layers over a text's vector: of classifiers, and after pooling.

use candle_core::{Device, Result, Tensor};
use candlewick_engine::LoadError;

use crate::kernels::activation::Activation;
use crate::layers::linear::Linear;
use crate::weights::WeightReader;

/// `activation(x · weightᵀ + bias)`.
pub(super) struct Dense {
    linear: Linear,
    num_in: usize,
    activation: DenseActivation,
}

/// What follows a dense layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenseActivation {
    Identity,
    Tanh,
    Sigmoid,
    Of(Activation),
}

impl DenseActivation {
    /// The activation of that class in torch.
    pub(super) fn of_torch(class: &str) -> Option<Self> {
        Some(match class {
            "Identity" => Self::Identity,
            "Tanh" => Self::Tanh,
            "Sigmoid" => Self::Sigmoid,
            "GELU" => Self::Of(Activation::Gelu),
            "SiLU" => Self::Of(Activation::Silu),
            "ReLU" => Self::Of(Activation::Relu),
            _ => return None,
        })
    }

    fn apply(self, x: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Tanh => x.iter_mut().for_each(|x| *x = x.tanh()),
            Self::Sigmoid => x.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Self::Of(activation) => activation.apply_to(x),
        }
    }
}

impl Dense {
    /// Reads `{name}.weight` and, if `bias`, `{name}.bias`.
    pub(super) fn load(
        weights: &mut WeightReader<'_>,
        name: &str,
        [num_in, num_out]: [usize; 2],
        bias: bool,
        activation: DenseActivation,
    ) -> std::result::Result<Self, LoadError> {
        let linear = Linear::load(weights, name, [num_in, num_out], bias)?;
        Ok(Self { linear, num_in, activation })
    }

    /// `(rows, in)` → `(rows, out)`.
    pub(super) fn forward(&self, x: Vec<f32>) -> Result<Vec<f32>> {
        let rows = x.len() / self.num_in;
        let out = self.linear.forward(&Tensor::from_vec(x, (rows, self.num_in), &Device::Cpu)?)?;
        let mut out = out.flatten_all()?.to_vec1()?;
        self.activation.apply(&mut out);
        Ok(out)
    }
}
