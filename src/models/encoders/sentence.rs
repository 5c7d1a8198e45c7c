//! From the vectors of a text's tokens to one vector: pooling, dense layers, unit length, as sentence-transformers does it.
//!
//! Sums are taken in double precision and in the order of the tokens, so that neither length nor neighbours cost anything.

use candle_core::Result;
use candlewick_engine::encode::{DenseStep, PoolMode, Pooling, SentenceLayout, SentenceStep};
use candlewick_engine::{LoadError, LoadOptions, ModelFiles};

use super::dense::{Dense, DenseActivation};
use crate::kernels::pool::Pool;
use crate::weights::{Checkpoint, WeightReader};

/// The steps, with their weights.
pub(super) struct Sentence {
    steps: Vec<Step>,
    normalizes: bool,
}

enum Step {
    Pool(Pooling),
    Dense(Dense),
    Normalize,
}

/// What is asked of one text's vector, beside what the model does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wish {
    /// So many elements from the front.
    pub(super) dimensions: Option<usize>,
    /// To unit length or not, whatever the model says.
    pub(super) normalize: Option<bool>,
}

impl Sentence {
    /// Reads the dense layers from the files of their own.
    pub(super) fn load(
        layout: &SentenceLayout,
        files: &ModelFiles,
        options: &LoadOptions,
        pool: &Pool,
    ) -> std::result::Result<Self, LoadError> {
        let steps = layout.steps.iter().map(|step| {
            Ok(match step {
                SentenceStep::Pool(pooling) => Step::Pool(pooling.clone()),
                SentenceStep::Dense(dense) => Step::Dense(load_dense(dense, files, options, pool)?),
                SentenceStep::Normalize => Step::Normalize,
            })
        });
        Ok(Self {
            steps: steps.collect::<std::result::Result<_, LoadError>>()?,
            normalizes: layout.normalizes(),
        })
    }

    /// The vector of a text: `states` is `(tokens, hidden)`, its first `num_prompt_tokens` those of an instruction.
    pub(super) fn vector(
        &self,
        states: &[f32],
        hidden: usize,
        num_prompt_tokens: usize,
        wish: Wish,
    ) -> Result<Vec<f32>> {
        let mut vector = Vec::new();
        for step in &self.steps {
            match step {
                Step::Pool(pooling) => vector = pool(states, hidden, num_prompt_tokens, pooling),
                Step::Dense(dense) => vector = dense.forward(vector)?,
                Step::Normalize => {
                    if wish.normalize != Some(false) {
                        normalize(&mut vector);
                    }
                }
            }
        }
        if let Some(dimensions) = wish.dimensions {
            vector.truncate(dimensions);
        }
        let is_whole = wish.dimensions.is_none();
        if wish.normalize.unwrap_or(self.normalizes && !is_whole) {
            normalize(&mut vector);
        }
        Ok(vector)
    }
}

/// The vectors of tokens: `(tokens, hidden)` → `(tokens, width)`.
pub(super) fn token_vectors(states: &[f32], hidden: usize, width: usize, is_unit: bool) -> Vec<f32> {
    let mut vectors = Vec::with_capacity(states.len() / hidden * width);
    for state in states.chunks_exact(hidden) {
        let first = vectors.len();
        vectors.extend(&state[..width]);
        if is_unit {
            normalize(&mut vectors[first..]);
        }
    }
    vectors
}

fn load_dense(
    step: &DenseStep,
    files: &ModelFiles,
    options: &LoadOptions,
    pool: &Pool,
) -> std::result::Result<Dense, LoadError> {
    let DenseStep { folder, num_in, num_out, bias, activation } = step;
    let Some(activation) = DenseActivation::of_torch(activation) else {
        return Err(LoadError::Unsupported(format!("{folder}: the activation {activation} is not there")));
    };
    let name = format!("{folder}/model.safetensors");
    let file = files.get(&name).ok_or_else(|| {
        LoadError::Unsupported(format!(
            "{folder} has no model.safetensors; weights as safetensors are needed"
        ))
    })?;
    let own = ModelFiles { files: [("model.safetensors".into(), file.clone())].into(), gguf: None };
    let (checkpoint, mut on_progress) = (Checkpoint::open(&own)?, |_, _| true);
    let mut weights = WeightReader::new(&checkpoint, options.clone(), pool, &mut on_progress);
    Dense::load(&mut weights, "linear", [*num_in, *num_out], *bias, activation)
}

/// `(tokens, hidden)` → the vectors of all modes, joined.
fn pool(states: &[f32], hidden: usize, num_prompt_tokens: usize, pooling: &Pooling) -> Vec<f32> {
    let tokens: Vec<&[f32]> = states.chunks_exact(hidden).collect();
    // The first and the last token are what they are; means and maxima leave the prompt out, unless nothing else is there.
    let skipped =
        if pooling.include_prompt || num_prompt_tokens >= tokens.len() { 0 } else { num_prompt_tokens };
    let mut vector = Vec::with_capacity(hidden * pooling.modes.len());
    for mode in &pooling.modes {
        let kept = &tokens[skipped..];
        match mode {
            PoolMode::Cls => vector.extend(tokens[0]),
            PoolMode::LastToken => vector.extend(tokens[tokens.len() - 1]),
            PoolMode::Max => vector
                .extend((0..hidden).map(|element| {
                    kept.iter().map(|token| token[element]).fold(f32::NEG_INFINITY, f32::max)
                })),
            PoolMode::Mean => vector.extend(weighted(kept, hidden, |_| 1.0, kept.len() as f64)),
            PoolMode::MeanSqrtLen => {
                vector.extend(weighted(kept, hidden, |_| 1.0, (kept.len() as f64).sqrt()))
            }
            PoolMode::WeightedMean => {
                let place = |index: usize| (skipped + index + 1) as f64;
                let total = (0..kept.len()).map(place).sum();
                vector.extend(weighted(kept, hidden, place, total));
            }
        }
    }
    vector
}

/// `Σ weight · token / total`.
fn weighted(
    tokens: &[&[f32]],
    hidden: usize,
    weight: impl Fn(usize) -> f64,
    total: f64,
) -> impl Iterator<Item = f32> {
    let mut sums = vec![0.0f64; hidden];
    for (index, token) in tokens.iter().enumerate() {
        let weight = weight(index);
        sums.iter_mut().zip(*token).for_each(|(sum, &x)| *sum += weight * f64::from(x));
    }
    sums.into_iter().map(move |sum| (sum / total) as f32)
}

/// To unit length; the zero vector stays what it is.
fn normalize(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    // As torch has it.
    let length = squares.sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [f32; 6] = [1.0, -4.0, 2.0, 5.0, 6.0, 0.5];

    #[track_caller]
    fn check(modes: &[PoolMode], include_prompt: bool, num_prompt_tokens: usize, expected: &[f32]) {
        let pooling = Pooling { modes: modes.to_vec(), include_prompt };
        assert_close(&pool(&STATES, 2, num_prompt_tokens, &pooling), expected);
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
    }

    #[test]
    fn every_mode_is_what_sentence_transformers_does() {
        check(&[PoolMode::Cls], true, 0, &[1.0, -4.0]);
        check(&[PoolMode::LastToken], true, 0, &[6.0, 0.5]);
        check(&[PoolMode::Max], true, 0, &[6.0, 5.0]);
        check(&[PoolMode::Mean], true, 0, &[3.0, 0.5]);
        check(&[PoolMode::MeanSqrtLen], true, 0, &[9.0 / 3f32.sqrt(), 1.5 / 3f32.sqrt()]);
        check(&[PoolMode::WeightedMean], true, 0, &[23.0 / 6.0, 7.5 / 6.0]);
        check(&[PoolMode::Cls, PoolMode::Max], true, 0, &[1.0, -4.0, 6.0, 5.0]);
    }

    #[test]
    fn a_prompt_is_left_out_where_the_repository_says_so() {
        check(&[PoolMode::Mean], false, 1, &[4.0, 2.75]);
        check(&[PoolMode::WeightedMean], false, 1, &[22.0 / 5.0, 11.5 / 5.0]);
        check(&[PoolMode::Max], false, 2, &[6.0, 0.5]);
        check(&[PoolMode::Cls], false, 2, &[1.0, -4.0]);
        check(&[PoolMode::Mean], true, 2, &[3.0, 0.5]);
        check(&[PoolMode::Mean], false, 3, &[3.0, 0.5]);
    }

    #[test]
    fn shortened_vectors_come_to_unit_length_where_whole_ones_do() {
        let vector = |normalizes, wish| {
            let pooling = Pooling { modes: vec![PoolMode::Cls], include_prompt: true };
            let mut steps = vec![Step::Pool(pooling)];
            if normalizes {
                steps.push(Step::Normalize);
            }
            Sentence { steps, normalizes }.vector(&[3.0, 4.0, 12.0], 3, 0, wish).unwrap()
        };
        let (short, raw) = (
            Wish { dimensions: Some(2), ..Wish::default() },
            Wish { normalize: Some(false), ..Wish::default() },
        );
        assert_close(&vector(true, short), &[0.6, 0.8]);
        assert_close(&vector(false, short), &[3.0, 4.0]);
        assert_close(&vector(true, raw), &[3.0, 4.0, 12.0]);
        assert_close(&vector(false, Wish { normalize: Some(true), ..short }), &[0.6, 0.8]);
    }
}
