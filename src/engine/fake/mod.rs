//! A model with no weights, for tests and benches only: its tokens follow from a rule, and it breaks when told to.
//!
//! [`FakeModel`] is also the scheduler's strictest reader. It keeps what was written to each slot of its cache, and a plan
//! whose block table does not lead to exactly the sequence's earlier tokens is a [`StepError::Plan`]. The hash of those
//! tokens, read through the table, is what the next token follows from: a sequence gets the tokens of its solo run or
//! none. With [`FakeFactory`] and [`FakeSource`] a whole server runs without a file on disk.

mod control;
mod encoder;
mod source;

use std::collections::HashMap;
use std::sync::Arc;

pub use control::{FakeControl, Fault, Gate};
pub use encoder::{FAKE_DIMENSIONS, fake_vector};
pub use source::{END_OF_TEXT, FakeFactory, FakeSource, IM_END, IM_START, VOCAB_SIZE};

use self::encoder::FakeEncoder;
use crate::encode::Encoder;
use crate::{
    BlockId, Chunk, KvCacheShape, Model, ModelInfo, RowFailure, SampleSpec, SampledToken, SequenceId,
    StepError, StepOutcome, StepPlan, TokenScore, Weights,
};

/// What a fake model says.
#[derive(Debug, Clone)]
pub enum FakeRule {
    /// A token of this range of ids, by the hash of all tokens before it (and of seed, choice and place, unless greedy).
    Hash(std::ops::Range<u32>),
    /// These tokens whatever the prompt; from the end of the list on, its last one.
    Script(Vec<u32>),
}

impl FakeRule {
    /// Says this text in tokens of [`FakeSource`]'s tokenizer, then ends its turn.
    pub fn says(text: &str) -> Self {
        Self::Script(text.bytes().map(u32::from).chain([IM_END]).collect())
    }

    /// The next token, of a sequence whose tokens have this hash.
    pub fn next(&self, hash: u64, spec: &SampleSpec) -> u32 {
        if let Some(forced) = spec.forced {
            return forced;
        }
        match self {
            Self::Script(tokens) => tokens[(spec.num_generated as usize).min(tokens.len() - 1)],
            Self::Hash(ids) => {
                let params = &spec.params;
                let draw = if params.is_greedy() {
                    0
                } else {
                    chain(params.seed, spec.choice) ^ u64::from(spec.num_generated)
                };
                let mut place = chain(hash ^ draw, 0);
                loop {
                    let token_id = ids.start + (place % u64::from(ids.end - ids.start)) as u32;
                    let ends =
                        params.eos_token_ids.contains(&token_id) || params.stop_token_ids.contains(&token_id);
                    if !ends || spec.num_generated >= params.min_tokens {
                        return token_id;
                    }
                    place = chain(place, token_id);
                }
            }
        }
    }
}

impl Default for FakeRule {
    /// Lower-case letters without end, in tokens of [`FakeSource`]'s tokenizer.
    fn default() -> Self {
        Self::Hash(u32::from(b'a')..u32::from(b'z') + 1)
    }
}

/// The hash of a sequence's tokens, which [`FakeRule::Hash`] goes by: what a test compares a run with.
pub fn hash_tokens(tokens: impl IntoIterator<Item = u32>) -> u64 {
    tokens.into_iter().fold(0, chain)
}

/// One more token under the hash: splitmix64's finaliser, after Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators" (2014).
fn chain(hash: u64, token_id: u32) -> u64 {
    let mut z = (hash ^ u64::from(token_id)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Weights that are not there.
pub struct FakeWeights {
    /// What is told of the model.
    pub info: ModelInfo,
    /// What its models say.
    pub rule: FakeRule,
    /// Holds and breaks its models.
    pub control: Arc<FakeControl>,
}

impl Weights for FakeWeights {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn start(&self, cache: KvCacheShape) -> Result<Box<dyn Model>, StepError> {
        Ok(Box::new(FakeModel {
            vocab_size: self.info.vocab_size,
            rule: self.rule.clone(),
            control: self.control.clone(),
            block_size: cache.block_size as usize,
            slots: vec![None; (cache.num_blocks * cache.block_size) as usize],
            hashes: HashMap::new(),
        }))
    }

    fn start_encoder(&self) -> Result<Box<dyn Encoder>, StepError> {
        Ok(Box::new(FakeEncoder { control: self.control.clone() }))
    }
}

/// A fake model at work.
pub struct FakeModel {
    vocab_size: usize,
    rule: FakeRule,
    control: Arc<FakeControl>,
    block_size: usize,
    slots: Vec<Option<Slot>>,
    /// Of each sequence that was ever here: the hash of its tokens up to each of them.
    hashes: HashMap<SequenceId, Vec<u64>>,
}

/// The tokens of a chunk, where they were asked for, and why there is none after them.
type Sampled = (Vec<SampledToken>, Option<String>);

/// What was last written to a slot of the cache.
#[derive(Debug, Clone, Copy)]
struct Slot {
    token_id: u32,
    /// Of its sequence's tokens, this one included.
    hash: u64,
}

impl Model for FakeModel {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, StepError> {
        self.control.before_step(plan)?;
        self.check_tables(plan)?;
        let mut outcome = StepOutcome::default();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            let ((sampled, failure), scores) = self.compute(chunk)?;
            outcome.failed.extend(failure.map(|why| RowFailure { chunk: index, why }));
            outcome.sampled.push(sampled);
            outcome.prompt_scores.push(scores);
        }
        Ok(outcome)
    }

    fn release(&mut self, blocks: &[BlockId]) {
        for block in blocks {
            // Whoever still reads them is found out.
            self.slots[block.0 as usize * self.block_size..][..self.block_size].fill(None);
        }
    }
}

impl FakeModel {
    /// No block that is written may be in two tables, and none outside the cache; each table must reach to the end of its
    /// chunk.
    fn check_tables(&self, plan: &StepPlan) -> Result<(), StepError> {
        let mut holders = HashMap::<BlockId, (&Chunk, bool)>::new();
        for chunk in &plan.chunks {
            let (id, end) = (chunk.sequence, chunk.start + chunk.token_ids.len());
            if chunk.token_ids.is_empty() || end > chunk.block_table.len() * self.block_size {
                return Err(StepError::Plan(format!(
                    "{id} is to compute {}..{end} in {:?}",
                    chunk.start, chunk.block_table
                )));
            }
            if let Some(token_id) = chunk.token_ids.iter().find(|id| **id as usize >= self.vocab_size) {
                return Err(StepError::Plan(format!(
                    "{id} has token {token_id} of a vocabulary of {}",
                    self.vocab_size
                )));
            }
            for (index, block) in chunk.block_table.iter().enumerate() {
                if (block.0 as usize + 1) * self.block_size > self.slots.len() {
                    return Err(StepError::Plan(format!(
                        "{id} has block {}, which is outside the cache",
                        block.0
                    )));
                }
                let is_written = (index + 1) * self.block_size > chunk.start;
                if let Some((other, written_there)) = holders.insert(*block, (chunk, is_written))
                    && (is_written || written_there)
                {
                    return Err(StepError::Plan(format!(
                        "block {} is held by {} and by {id}, and one of them writes to it",
                        block.0, other.sequence
                    )));
                }
            }
        }
        Ok(())
    }

    /// Reads the sequence's earlier tokens, writes the chunk's, and answers. Where another sequence has written to a slot
    /// in between, the hash there is not that of the tokens before it.
    fn compute(&mut self, chunk: &Chunk) -> Result<(Sampled, Vec<TokenScore>), StepError> {
        let slot = |position: usize| {
            chunk.block_table[position / self.block_size].0 as usize * self.block_size
                + position % self.block_size
        };
        let (mut hash, mut read) = (0, Vec::new());
        for position in 0..chunk.start {
            let written = self.slots[slot(position)].filter(|slot| slot.hash == chain(hash, slot.token_id));
            let Some(written) = written else {
                let id = chunk.sequence;
                return Err(StepError::Plan(format!("the cache does not hold {id}'s token at {position}")));
            };
            hash = written.hash;
            read.push(hash);
        }
        // Of what others have computed, only the tokens that follow can tell.
        let known = self.hashes.entry(chunk.sequence).or_default();
        if known.iter().zip(&read).any(|(known, read)| known != read) {
            let message =
                format!("the cache holds other tokens than {}'s before {}", chunk.sequence, chunk.start);
            return Err(StepError::Plan(message));
        }
        *known = read;
        for (offset, token_id) in chunk.token_ids.iter().enumerate() {
            hash = chain(hash, *token_id);
            self.slots[slot(chunk.start + offset)] = Some(Slot { token_id: *token_id, hash });
            known.push(hash);
        }
        let hashes = &self.hashes[&chunk.sequence][chunk.start..];
        let sampled =
            chunk.accept(chunk.samples.iter().zip(&hashes[chunk.first_sampled()..]).map(|(spec, &hash)| {
                let token_id = self.hold(self.rule.next(hash, spec), hash, spec)?;
                let score = spec
                    .params
                    .logprobs
                    .map(|num_top| self.score(hash, token_id, num_top, &spec.params.logprob_token_ids));
                Ok(SampledToken { token_id, score })
            }));
        let scores = chunk.prompt_logprobs.iter().flat_map(|asked| {
            asked
                .next_token_ids
                .iter()
                .zip(hashes)
                .map(|(next, hash)| self.score(*hash, *next, asked.num_top, &[]))
        });
        Ok((sampled, scores.collect()))
    }

    /// The token that the rule says, if the sequence's grammar allows it, else one that it allows, by the hash.
    fn hold(&self, token_id: u32, hash: u64, spec: &SampleSpec) -> Result<u32, String> {
        let Some(mask) = spec.mask()? else { return Ok(token_id) };
        let may_come = |id: u32| mask.allows(id) || mask.accepts_end() && spec.params.is_end(id);
        if may_come(token_id) {
            return Ok(token_id);
        }
        let allowed: Vec<u32> = (0..self.vocab_size as u32).filter(|id| may_come(*id)).collect();
        match allowed.len() {
            0 => Err("no token may come next".into()),
            num => Ok(allowed[(chain(hash, 1) % num as u64) as usize]),
        }
    }

    /// By [`fake_logprobs`], whatever the rule says next.
    fn score(&self, hash: u64, token_id: u32, num_top: u32, more: &[u32]) -> TokenScore {
        let logprobs = fake_logprobs(hash, self.vocab_size);
        let mut ranked: Vec<(u32, f32)> = (0..).zip(logprobs.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let place = ranked.iter().position(|(id, _)| *id == token_id).expect("it is in the vocabulary");
        ranked.truncate(num_top as usize);
        for &id in more {
            if !ranked.iter().any(|(known, _)| *known == id) {
                ranked.push((id, logprobs[id as usize]));
            }
        }
        TokenScore { logprob: logprobs[token_id as usize], rank: place as u32 + 1, top: ranked }
    }
}

/// The log-probabilities of every token behind a sequence whose tokens have this hash ([`hash_tokens`]).
pub fn fake_logprobs(hash: u64, vocab_size: usize) -> Vec<f32> {
    let logit = |token_id: u32| (chain(hash, token_id) % 1000) as f32 / 200.0;
    let logits: Vec<f32> = (0..vocab_size as u32).map(logit).collect();
    let normalizer = logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
    logits.into_iter().map(|logit| logit - normalizer).collect()
}
