//! Rotary positions: the frequencies that a config asks for, and the rotation.
//!
//! Scalings follow transformers' `modeling_rope_utils.py`, in the same precision. With one difference: under `dynamic`
//! scaling transformers rotates a whole forward pass by the frequencies of its last position, so that an answer depends
//! on how its prompt was cut into passes. Here each position has the frequencies of its own, which is what transformers
//! gives it when it is decoded.

use std::f64::consts::PI;

use candlewick_engine::LoadError;
use serde_json::Value;

use crate::config::{Config, corrupt, wrong};
use crate::kernels::rope::Rotation;

/// The rope scalings that are there, for error messages.
const SCALINGS: &str = "default, linear, dynamic, llama3, yarn";

/// The name under which a GGUF file's own factors come.
const FACTORS: &str = "factors";

/// How positions become angles.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RopeConfig {
    /// Base of the geometric progression of wavelengths.
    pub(crate) theta: f64,
    /// How it is stretched over more positions than it was trained for.
    pub(crate) scaling: RopeScaling,
}

/// A way to stretch positions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions are divided by a factor.
    Linear { factor: f64 },
    /// The base grows with the position, beyond those it was trained for.
    Dynamic { factor: f64, max_position: usize },
    /// Long wavelengths are stretched, short ones kept, those between interpolated (Llama 3.1).
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position: f64 },
    /// Each wavelength by a factor of its own: what Llama's scaling amounts to, in a GGUF file.
    Factors(Vec<f32>),
    /// The same with a ramp over dimensions, and larger cosines and sines (Peng et al. 2023, arXiv:2309.00071).
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_max_position: f64,
        truncate: bool,
    },
}

impl RopeConfig {
    /// Reads `rope_theta` and `rope_scaling` as the Hub's repositories have them, or `rope_parameters` as transformers 5
    /// writes it.
    pub(crate) fn read(
        config: Config<'_>,
        default_theta: f64,
        max_position: usize,
    ) -> std::result::Result<Self, LoadError> {
        let empty = Value::Object(serde_json::Map::new());
        let (key, value) = ["rope_scaling", "rope_parameters"]
            .iter()
            .find_map(|key| config.get(key).filter(|value| **value != empty).map(|value| (*key, value)))
            .unwrap_or(("rope_parameters", &empty));
        let Some(object) = value.as_object() else { return Err(wrong(key, "an object", value)) };
        let scaling = Config(value);
        if object.keys().any(|key| key.ends_with("_attention")) {
            return Err(LoadError::Unsupported(format!(
                "`{key}` differs by layer type, which this family cannot have"
            )));
        }
        let theta = match scaling.number_if_given("rope_theta")? {
            Some(theta) => theta,
            None => config.number("rope_theta", default_theta)?,
        };
        if theta.is_nan() || theta <= 0.0 {
            return Err(corrupt(format!("`rope_theta` should be above zero, and is {theta}")));
        }
        let rope_type = scaling.text("rope_type", scaling.text("type", "default")?)?;
        let scaling = RopeScaling::read(config, scaling, rope_type, key, max_position)?;
        Ok(Self { theta, scaling })
    }

    /// The longest context of a model with so many `max_position_embeddings`: scalings that are laid over a finished model
    /// stretch it, those it was trained with are counted in already (as in vLLM's `_get_and_verify_max_len`).
    pub(crate) fn context(&self, max_position: usize) -> usize {
        match self.scaling {
            RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => max_position,
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => {
                (max_position as f64 * factor.max(1.0)) as usize
            }
            RopeScaling::Yarn { factor, original_max_position, .. } => {
                max_position.max((original_max_position * factor) as usize)
            }
        }
    }
}

impl RopeScaling {
    fn read(
        config: Config<'_>,
        scaling: Config<'_>,
        rope_type: &str,
        key: &str,
        max_position: usize,
    ) -> std::result::Result<Self, LoadError> {
        let required = |name: &str| {
            let number = scaling.number_if_given(name)?;
            number.ok_or_else(|| corrupt(format!("`{key}` of type {rope_type} needs `{name}`")))
        };
        let partial = match scaling.number_if_given("partial_rotary_factor")? {
            Some(partial) => partial,
            None => config.number("partial_rotary_factor", 1.0)?,
        };
        // transformers looks at it under every type but the default one, and these families then cannot run.
        if rope_type != "default" && partial != 1.0 {
            return Err(LoadError::Unsupported(format!(
                "`partial_rotary_factor` {partial} is not there for this family"
            )));
        }
        let original_max_position = || {
            let given = match config.number_if_given("original_max_position_embeddings")? {
                Some(given) => Some(given),
                None => scaling.number_if_given("original_max_position_embeddings")?,
            };
            Ok::<_, LoadError>(given.unwrap_or(max_position as f64))
        };
        Ok(match rope_type {
            "default" => Self::Default,
            "linear" => Self::Linear { factor: required("factor")? },
            "dynamic" => Self::Dynamic { factor: required("factor")?, max_position },
            "llama3" => Self::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_position: original_max_position()?,
            },
            "yarn" => {
                let original_max_position = original_max_position()?;
                let factor = match scaling.number_if_given("factor")? {
                    Some(factor) => factor,
                    None => max_position as f64 / original_max_position,
                };
                let nonzero =
                    |name: &str| Ok::<_, LoadError>(scaling.number_if_given(name)?.filter(|x| *x != 0.0));
                let attention_factor = match scaling.number_if_given("attention_factor")? {
                    Some(given) => given,
                    None => match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
                        (Some(one), Some(all)) => yarn_mscale(factor, one) / yarn_mscale(factor, all),
                        _ => yarn_mscale(factor, 1.0),
                    },
                };
                Self::Yarn {
                    factor,
                    attention_factor,
                    beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
                    beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
                    original_max_position,
                    truncate: scaling.flag("truncate", true)?,
                }
            }
            FACTORS => {
                let list = scaling.get(FACTORS).and_then(Value::as_array).into_iter().flatten();
                Self::Factors(list.filter_map(Value::as_f64).map(|factor| factor as f32).collect())
            }
            other => {
                return Err(LoadError::Unsupported(format!(
                    "rope scaling {other:?} is not there; those that are: {SCALINGS}"
                )));
            }
        })
    }
}

/// How much larger cosines and sines are under yarn.
fn yarn_mscale(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}

/// Turns positions into cosines and sines.
pub(crate) struct Rope {
    config: RopeConfig,
    head_dim: usize,
    inverse_frequencies: Vec<f32>,
    attention_factor: f64,
}

/// Cosines and sines of a batch, each `(rows, head_dim / 2)`: the same for every layer.
pub(crate) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// The rope of heads of `head_dim`.
    pub(crate) fn new(config: RopeConfig, head_dim: usize) -> Self {
        let inverse_frequencies = inverse_frequencies(&config, head_dim);
        let attention_factor = match config.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        Self { config, head_dim, inverse_frequencies, attention_factor }
    }

    /// The angles of a batch with these positions.
    pub(crate) fn angles(&self, positions: &[usize]) -> Angles {
        let half = self.head_dim / 2;
        let mut angles = Angles {
            cos: Vec::with_capacity(positions.len() * half),
            sin: Vec::with_capacity(positions.len() * half),
        };
        for &position in positions {
            match self.config.scaling {
                RopeScaling::Dynamic { factor, max_position } if position >= max_position => {
                    let stretched =
                        dynamic_theta(self.config.theta, factor, position + 1, max_position, self.head_dim);
                    self.push(&mut angles, position, &geometric(stretched, self.head_dim));
                }
                _ => self.push(&mut angles, position, &self.inverse_frequencies),
            }
        }
        angles
    }

    fn push(&self, angles: &mut Angles, position: usize, inverse_frequencies: &[f32]) {
        for frequency in inverse_frequencies {
            let angle = position as f32 * frequency;
            angles.cos.push((f64::from(angle.cos()) * self.attention_factor) as f32);
            angles.sin.push((f64::from(angle.sin()) * self.attention_factor) as f32);
        }
    }
}

impl Angles {
    /// For the kernel that rotates.
    pub(crate) fn rotation(&self) -> Rotation<'_> {
        Rotation { cos: &self.cos, sin: &self.sin }
    }
}

/// `1 / θ^(2i/d)`, in `f32` as torch computes it.
fn geometric(theta: f64, head_dim: usize) -> Vec<f32> {
    let theta = theta as f32;
    (0..head_dim).step_by(2).map(|i| 1.0 / theta.powf(i as f32 / head_dim as f32)).collect()
}

/// The base under dynamic scaling, for a sequence of `len` tokens.
fn dynamic_theta(theta: f64, factor: f64, len: usize, max_position: usize, head_dim: usize) -> f64 {
    let dim = head_dim as f64;
    let stretch = factor * len as f64 / max_position as f64 - (factor - 1.0);
    theta * stretch.powf(dim / (dim - 2.0))
}

fn inverse_frequencies(config: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let plain = geometric(config.theta, head_dim);
    match config.scaling {
        RopeScaling::Default | RopeScaling::Dynamic { .. } => plain,
        RopeScaling::Factors(ref factors) => plain.into_iter().zip(factors).map(|(x, by)| x / by).collect(),
        RopeScaling::Linear { factor } => plain.into_iter().map(|x| x / factor as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let stretch = |x: f32| {
                let wavelength = 2.0 * PI as f32 / x;
                if wavelength > (original_max_position / low_freq_factor) as f32 {
                    x / factor as f32
                } else if wavelength < (original_max_position / high_freq_factor) as f32 {
                    x
                } else {
                    let smooth = (original_max_position as f32 / wavelength - low_freq_factor as f32)
                        / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - smooth) * x / factor as f32 + smooth * x
                }
            };
            plain.into_iter().map(stretch).collect()
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, truncate, .. } => {
            let dim = head_dim as f64;
            let dimension_of = |num_rotations: f64| {
                dim * (original_max_position / (num_rotations * 2.0 * PI)).ln() / (2.0 * config.theta.ln())
            };
            let (low, high) = (dimension_of(beta_fast), dimension_of(beta_slow));
            let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let high = if low == high { high + 0.001 } else { high };
            let blend = |(i, x): (usize, f32)| {
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                x / factor as f32 * (1.0 - kept) + x * kept
            };
            plain.into_iter().enumerate().map(blend).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rope(config: Value, head_dim: usize) -> Rope {
        Rope::new(RopeConfig::read(Config(&config), 10_000.0, 128).unwrap(), head_dim)
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6 * expected.abs(), "{found}, not {expected}");
        }
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let read = |config: Value| RopeConfig::read(Config(&config), 10_000.0, 128).unwrap();
        let hub = read(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}));
        let v5 = read(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}));
        assert_eq!(hub, v5);
        assert_eq!(read(json!({"rope_scaling": null})).scaling, RopeScaling::Default);
        assert_eq!(read(json!({})).theta, 10_000.0);
        let both = read(json!({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}}));
        assert_eq!(both.theta, 2.0, "the nested value is the one that counts");
    }

    #[test]
    fn scalings_over_a_finished_model_stretch_its_context() {
        let context = |scaling: Value| {
            RopeConfig::read(Config(&json!({"rope_scaling": scaling})), 10_000.0, 128).unwrap().context(128)
        };
        assert_eq!(context(json!(null)), 128);
        assert_eq!(context(json!({"type": "linear", "factor": 2.5})), 320);
        assert_eq!(context(json!({"type": "dynamic", "factor": 2.0})), 256);
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
        assert_eq!(context(yarn), 512);
        let trained = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16});
        assert_eq!(context(trained), 128);
    }

    #[test]
    fn positions_within_the_trained_range_are_not_stretched_by_dynamic_scaling() {
        let dynamic = rope(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), 8);
        let plain = rope(json!({}), 8);
        assert_eq!(dynamic.angles(&[0, 127]).cos, plain.angles(&[0, 127]).cos);
        assert_ne!(dynamic.angles(&[128]).cos, plain.angles(&[128]).cos);
    }

    #[test]
    fn dynamic_scaling_grows_the_base_with_each_position() {
        // 10000 · (2 · 192 / 128 − 1)^(8 / 6), and its powers.
        let base = 10_000.0f64 * 2.0f64.powf(8.0 / 6.0);
        let expected: Vec<f32> =
            (0..4).map(|i| ((191.0 / base.powf(f64::from(i) / 4.0)) as f32).sin()).collect();
        let found = rope(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), 8).angles(&[191]).sin;
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-5, "{found}, not {expected}");
        }
        let rope = rope(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), 8);
        assert_eq!(
            rope.angles(&[191, 500]).sin[..4],
            rope.angles(&[191]).sin,
            "whatever else is in the batch"
        );
    }

    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let scaling = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
        let (plain, scaled) = (rope(json!({}), 16), rope(scaling, 16));
        let (plain, scaled) = (plain.inverse_frequencies, scaled.inverse_frequencies);
        close(&scaled[..1], &plain[..1]);
        let divided: Vec<f32> = plain[4..].iter().map(|x| x / 8.0).collect();
        close(&scaled[4..], &divided);
        assert!(scaled[1] < plain[1] && scaled[1] > plain[1] / 8.0, "between the two");
    }
}
