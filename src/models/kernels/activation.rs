//! The activations of gated feed-forward layers, under the names of `config.json`.

use candle_core::cpu::erf::erf_f32;

use super::exp::exp;
use super::lanes::{Kernel, Lanes, dispatch};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · sigmoid(x) (arXiv:1606.08415).
    Silu,
    /// x · Φ(x), with the normal distribution itself.
    Gelu,
    /// x · Φ(x), approximated by a hyperbolic tangent.
    GeluTanh,
    /// x · sigmoid(1.702 x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    Relu2,
}

impl Activation {
    /// The names that `hidden_act` may have here, for error messages.
    pub(crate) const NAMES: &str = "silu, swish, gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, gelu_python_tanh, quick_gelu, \
         relu, relu2";

    /// The function of that name in transformers' `ACT2FN`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_accurate" => {
                Self::GeluTanh
            }
            "quick_gelu" => Self::QuickGelu,
            "relu" => Self::Relu,
            "relu2" => Self::Relu2,
            _ => return None,
        })
    }

    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        match self {
            Self::Silu => x / (1.0 + exp(-x)),
            Self::QuickGelu => x / (1.0 + exp(-1.702 * x)),
            Self::Gelu => 0.5 * x * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::Relu => x.max(0.0),
            Self::Relu2 => x.max(0.0) * x.max(0.0),
        }
    }
}

impl Activation {
    /// `gate = activation(gate) · up` for as many as a compiler can unroll; to be called where an instruction set is
    /// enabled.
    #[inline(always)]
    pub(crate) fn gate<const N: usize>(self, gate: &mut [f32; N], up: &[f32; N]) {
        let all = gate.iter_mut().zip(up);
        match self {
            // Named here so that its loop is compiled without the choice inside.
            Self::Silu => all.for_each(|(gate, up)| *gate = Self::Silu.apply(*gate) * up),
            activation => all.for_each(|(gate, up)| *gate = activation.apply(*gate) * up),
        }
    }
}

impl Activation {
    /// `x = activation(x)`.
    pub(crate) fn apply_to(self, x: &mut [f32]) {
        dispatch(ApplyTo { activation: self, x });
    }
}

struct ApplyTo<'a> {
    activation: Activation,
    x: &'a mut [f32],
}

impl Kernel for ApplyTo<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let all = self.x.iter_mut();
        match self.activation {
            Activation::Silu => all.for_each(|x| *x = Activation::Silu.apply(*x)),
            activation => all.for_each(|x| *x = activation.apply(*x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::kernels::tests::noise;

    #[test]
    fn agrees_with_candle() {
        let gate: Vec<f32> = noise(1, 400).into_iter().map(|x| x * 20.0).collect();
        let up = noise(2, 400);
        let x = Tensor::from_slice(&gate, gate.len(), &Device::Cpu).unwrap();
        let sigmoid = |scale: f64| (&x * candle_nn::ops::sigmoid(&(&x * scale).unwrap()).unwrap()).unwrap();
        let cases = [
            ("silu", sigmoid(1.0)),
            ("quick_gelu", sigmoid(1.702)),
            ("gelu", x.gelu_erf().unwrap()),
            ("gelu_pytorch_tanh", x.gelu().unwrap()),
            ("relu", x.relu().unwrap()),
            ("relu2", x.relu().unwrap().sqr().unwrap()),
        ];
        for (name, expected) in cases {
            let mut out = <[f32; 400]>::try_from(&gate[..]).unwrap();
            Activation::named(name).unwrap().gate(&mut out, up.as_array().unwrap());
            let expected: Vec<f32> = expected.to_vec1().unwrap();
            for ((found, expected), up) in out.iter().zip(expected).zip(&up) {
                let expected = expected * up;
                assert!(
                    (found - expected).abs() < 1e-5 * (1.0 + expected.abs()),
                    "{name}: {found}, not {expected}"
                );
            }
        }
    }
}
