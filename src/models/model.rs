//! A decoder at rest and at work: the engine's [`Weights`] and [`Model`].

use std::sync::Arc;

use candle_core::{Storage, Tensor};
use candlewick_engine::{
    BlockId, KvCacheShape, KvDType, Model, ModelInfo, RowFailure, SampledToken, StepError, StepOutcome,
    StepPlan, TokenScore, Weights,
};

use crate::batch::Batch;
use crate::cache::KvCache;
use crate::kernels::attention::HeadShape;
use crate::kernels::packed::BestOutput;
use crate::kernels::pool::Pool;
use crate::kernels::rows::map;
use crate::layers::decoder::Decoder;
use crate::sampler;

/// Logits that are in memory at once, when a long prompt is scored.
const LOGITS_BYTES_MAX: usize = 64 << 20;

/// The weights of a decoder, with the threads that its steps run on.
pub(crate) struct DecoderWeights {
    shared: Arc<Shared>,
}

struct Shared {
    decoder: Decoder,
    info: ModelInfo,
    num_layers: usize,
    heads: HeadShape,
    kv_dtype: KvDType,
    pool: Arc<Pool>,
}

impl DecoderWeights {
    /// Weights of `num_layers` layers of such heads, whose keys and values are kept as `kv_dtype`.
    pub(crate) fn new(
        decoder: Decoder,
        info: ModelInfo,
        num_layers: usize,
        heads: HeadShape,
        kv_dtype: KvDType,
        pool: Arc<Pool>,
    ) -> Self {
        Self { shared: Arc::new(Shared { decoder, info, num_layers, heads, kv_dtype, pool }) }
    }
}

impl Weights for DecoderWeights {
    fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    fn start(&self, shape: KvCacheShape) -> Result<Box<dyn Model>, StepError> {
        let cache = KvCache::new(shape, self.shared.num_layers, self.shared.heads, self.shared.kv_dtype)?;
        Ok(Box::new(DecoderModel { shared: self.shared.clone(), cache }))
    }
}

/// A decoder with a KV cache of its own.
struct DecoderModel {
    shared: Arc<Shared>,
    cache: KvCache,
}

impl Model for DecoderModel {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, StepError> {
        let Self { shared, cache } = self;
        let batch = Batch::new(plan, shared.info.vocab_size, cache.shape())?;
        if batch.token_ids.is_empty() {
            return Ok(StepOutcome::default());
        }
        // The whole step runs inside the pool, so that its layers share out work without leaving it.
        shared.pool.install(|| shared.step(plan, &batch, cache))
    }

    fn release(&mut self, blocks: &[BlockId]) {
        self.cache.release(blocks);
    }
}

impl Shared {
    fn step(
        &self,
        plan: &StepPlan,
        batch: &Batch<'_>,
        cache: &mut KvCache,
    ) -> Result<StepOutcome, StepError> {
        let hidden = self.decoder.forward(batch, cache).map_err(compute)?;
        let wanted = wanted_rows(plan, batch);
        let mut places: Vec<Vec<Place>> = plan.chunks.iter().map(|_| Vec::new()).collect();
        let mut outcome = StepOutcome {
            sampled: vec![Vec::new(); plan.chunks.len()],
            prompt_scores: vec![Vec::new(); plan.chunks.len()],
            failed: Vec::new(),
        };
        let rows_max = (LOGITS_BYTES_MAX / (self.info.vocab_size * size_of::<f32>())).max(1);
        for wanted in wanted.chunks(rows_max) {
            let rows: Vec<u32> = wanted.iter().map(|wanted| wanted.row as u32).collect();
            let answers = match self.best(plan, wanted, &hidden, &rows)? {
                Some(answers) => answers,
                None => self.answers(plan, wanted, &hidden, &rows)?,
            };
            for (wanted, answer) in wanted.iter().zip(answers) {
                places[wanted.chunk].extend(answer.sampled);
                outcome.prompt_scores[wanted.chunk].extend(answer.score.transpose()?);
            }
        }
        for (index, (chunk, places)) in plan.chunks.iter().zip(places).enumerate() {
            // What is wrong behind a draft that was is not looked at.
            let (sampled, failure) = chunk.accept(places);
            outcome.sampled[index] = sampled;
            match failure {
                None => {}
                Some(Unsampled::Row(why)) => outcome.failed.push(RowFailure { chunk: index, why }),
                Some(Unsampled::Step(error)) => return Err(error),
            }
        }
        Ok(outcome)
    }

    /// The answers to rows of which nothing but the likeliest token is asked; `None` if any of them asks for more. What is
    /// wrong with logits is said by those who look at all of them.
    fn best(
        &self,
        plan: &StepPlan,
        wanted: &[Wanted],
        hidden: &Tensor,
        rows: &[u32],
    ) -> Result<Option<Vec<Answer>>, StepError> {
        let takes_best = |wanted: &Wanted| {
            let spec = wanted.sample.map(|sample| &plan.chunks[wanted.chunk].samples[sample]);
            !wanted.scored && spec.is_some_and(sampler::takes_best)
        };
        if !wanted.iter().all(takes_best) {
            return Ok(None);
        }
        let best = self.decoder.best(hidden, rows).map_err(compute)?;
        let answer = |best: BestOutput| {
            let (token_id, _) = best.filter(|(_, logit)| logit.is_finite())?;
            Some(Answer { sampled: Some(Ok(SampledToken { token_id, score: None })), score: None })
        };
        Ok(best.and_then(|best| best.into_iter().map(answer).collect()))
    }

    /// The answers to rows, from their logits.
    fn answers(
        &self,
        plan: &StepPlan,
        wanted: &[Wanted],
        hidden: &Tensor,
        rows: &[u32],
    ) -> Result<Vec<Answer>, StepError> {
        let logits = self.decoder.logits(hidden, rows).map_err(compute)?;
        let (storage, _) = logits.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(StepError::Compute("the logits are not in main memory".into()));
        };
        let logits = storage.as_slice::<f32>().map_err(compute)?;
        Ok(map(wanted.len(), |index| {
            let logits = &logits[index * self.info.vocab_size..][..self.info.vocab_size];
            answer(plan, logits, &wanted[index])
        }))
    }
}

fn compute(error: candle_core::Error) -> StepError {
    StepError::Compute(error.to_string())
}

/// A row whose logits are asked for.
struct Wanted {
    row: usize,
    chunk: usize,
    /// Which of the chunk's tokens it is.
    token: usize,
    /// Which of the chunk's samples is taken there.
    sample: Option<usize>,
    scored: bool,
}

/// The rows that are sampled or scored, in order.
fn wanted_rows(plan: &StepPlan, batch: &Batch<'_>) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (chunk, (asked, segment)) in plan.chunks.iter().zip(&batch.segments).enumerate() {
        let num_scored = asked.prompt_logprobs.as_ref().map_or(0, |asked| asked.next_token_ids.len());
        for token in 0..segment.num_rows {
            let sample = token.checked_sub(asked.first_sampled());
            let scored = token < num_scored;
            if sample.is_some() || scored {
                wanted.push(Wanted { row: segment.first_row + token, chunk, token, sample, scored });
            }
        }
    }
    wanted
}

struct Answer {
    sampled: Option<Place>,
    score: Option<Result<TokenScore, StepError>>,
}

/// What came of sampling at one place.
type Place = Result<SampledToken, Unsampled>;

/// Why there is no token at a place.
enum Unsampled {
    /// Nothing may follow: the matter of one sequence.
    Row(String),
    /// The logits are no numbers.
    Step(StepError),
}

fn answer(plan: &StepPlan, logits: &[f32], wanted: &Wanted) -> Answer {
    let chunk = &plan.chunks[wanted.chunk];
    let scored = chunk.prompt_logprobs.as_ref().filter(|_| wanted.scored);
    Answer {
        sampled: wanted.sample.map(|place| match sampler::sample(logits, &chunk.samples[place]) {
            Ok(sampled) => sampled.map_err(Unsampled::Row),
            Err(error) => Err(Unsampled::Step(error)),
        }),
        score: scored.map(|asked| sampler::score(logits, asked.next_token_ids[wanted.token], asked.num_top)),
    }
}
