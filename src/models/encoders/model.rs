//! An encoder at rest and at work: the engine's [`Weights`] and [`Encoder`](encode::Encoder).

use std::sync::Arc;

use candle_core::Storage;
use candlewick_engine::encode::{self, EncodePlan, EncodeTask, Encoded, PlannedText};
use candlewick_engine::{KvCacheShape, KvDType, Model, ModelInfo, StepError, Weights};

use super::batch::{BLOCK_SIZE, TextBatch};
use super::body::Body;
use super::head::Classifier;
use super::sentence::{Sentence, Wish, token_vectors};
use crate::cache::KvCache;
use crate::kernels::pool::Pool;
use crate::kernels::rows::map;
use crate::layers::slice::contiguous;

/// The weights of an encoder, with the threads that its passes run on.
pub(super) struct EncoderWeights {
    shared: Arc<Shared>,
}

/// What comes after the vectors of tokens.
pub(super) enum Output {
    /// A vector of the text.
    Vector(Sentence),
    /// Scores of labels.
    Labels(Classifier),
}

struct Shared {
    body: Body,
    output: Output,
    info: ModelInfo,
    pool: Arc<Pool>,
}

impl EncoderWeights {
    pub(super) fn new(body: Body, output: Output, info: ModelInfo, pool: Arc<Pool>) -> Self {
        Self { shared: Arc::new(Shared { body, output, info, pool }) }
    }
}

impl Weights for EncoderWeights {
    fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    fn start(&self, _: KvCacheShape) -> Result<Box<dyn Model>, StepError> {
        Err(StepError::Plan("this model encodes texts and generates none".into()))
    }

    fn start_encoder(&self) -> Result<Box<dyn encode::Encoder>, StepError> {
        Ok(Box::new(EncoderModel { shared: self.shared.clone(), kv: None }))
    }
}

/// An encoder with scratch memory of its own.
struct EncoderModel {
    shared: Arc<Shared>,
    /// Keys and values of the layer at hand; made anew when a pass needs more.
    kv: Option<KvCache>,
}

impl encode::Encoder for EncoderModel {
    fn encode(&mut self, plan: &EncodePlan) -> Result<Vec<Encoded>, StepError> {
        let Self { shared, kv } = self;
        let (body, info) = (&shared.body, &shared.info);
        let batch = TextBatch::new(plan, info.vocab_size, body.num_types(), info.max_position_embeddings)?;
        if plan.texts.is_empty() {
            return Ok(Vec::new());
        }
        let kept = kv.take().filter(|kv| kv.shape().num_blocks as usize >= batch.num_blocks());
        let kv = match kept {
            Some(kept) => kv.insert(kept),
            None => {
                let shape =
                    KvCacheShape { num_blocks: batch.num_blocks() as u32, block_size: BLOCK_SIZE as u32 };
                kv.insert(KvCache::new(shape, 1, body.heads(), KvDType::F32)?)
            }
        };
        // The whole pass runs inside the pool, so that its layers share out work without leaving it.
        shared.pool.install(|| shared.encode(plan, &batch, kv))
    }
}

impl Shared {
    fn encode(
        &self,
        plan: &EncodePlan,
        batch: &TextBatch,
        kv: &mut KvCache,
    ) -> Result<Vec<Encoded>, StepError> {
        let states = self.body.forward(batch, kv).map_err(compute)?;
        let (storage, at) = states.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(StepError::Compute("the vectors are not in main memory".into()));
        };
        let states = contiguous::<f32>(storage, at).map_err(compute)?;
        let hidden = self.body.hidden_size();
        let answers = map(plan.texts.len(), |index| {
            let rows = &batch.texts[index];
            self.answer(&plan.texts[index], &states[rows.start * hidden..rows.end * hidden])
        });
        answers.into_iter().collect()
    }

    /// What is made of a text's `(tokens, hidden)`.
    fn answer(&self, text: &PlannedText, states: &[f32]) -> Result<Encoded, StepError> {
        let hidden = self.body.hidden_size();
        let encoded = match (&self.output, text.task) {
            (Output::Vector(sentence), EncodeTask::Embed { dimensions, normalize }) => {
                let wish = Wish { dimensions, normalize };
                let values = sentence.vector(states, hidden, text.input.num_prompt_tokens, wish);
                values.map(|values| Encoded { width: values.len(), values })
            }
            (Output::Vector(_), EncodeTask::EmbedTokens { dimensions, normalize }) => {
                let width = dimensions.unwrap_or(hidden).min(hidden);
                Ok(Encoded { values: token_vectors(states, hidden, width, normalize), width })
            }
            (Output::Labels(classifier), EncodeTask::Classify) => {
                let values = classifier.scores(states, hidden);
                values.map(|values| Encoded { width: classifier.num_labels(), values })
            }
            (Output::Vector(_), EncodeTask::Classify)
            | (Output::Labels(_), EncodeTask::Embed { .. } | EncodeTask::EmbedTokens { .. }) => {
                return Err(StepError::Plan(format!("text {}: this model cannot do that", text.id)));
            }
        };
        encoded.map_err(compute)
    }
}

fn compute(error: candle_core::Error) -> StepError {
    StepError::Compute(error.to_string())
}
