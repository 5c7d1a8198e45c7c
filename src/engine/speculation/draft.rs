//! Guesses by a smaller model of the same vocabulary, which runs ahead of the large one.
//!
//! It samples each place as the large one will (same parameters, same draw), so that where the two agree on what is likely,
//! they agree on the token. What it says changes no answer, so nothing here need be exact: a text that it cannot follow is
//! not guessed at.
//!
//! It has a KV cache of its own. A text keeps its blocks while others do not need them, and is known again by its tokens: what
//! was guessed wrong is overwritten, and the next turn of a chat, which is another sequence, goes on from the text of the one before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{BlockId, Chunk, KvCacheShape, Model, SampleSpec, SequenceId, StepError, StepPlan};

/// What is asked of a draft model about one sequence.
#[derive(Debug, Clone)]
pub struct DraftAsk {
    /// Which.
    pub sequence: SequenceId,
    /// Its prompt.
    pub prompt: Arc<[u32]>,
    /// What it has said so far.
    pub output: Vec<u32>,
    /// How its next token is sampled.
    pub sample: SampleSpec,
    /// Texts are gone on from under the same salt only.
    pub cache_salt: Option<Arc<str>>,
    /// Most tokens that are wanted.
    pub num_max: usize,
}

/// What a draft model has guessed.
#[derive(Debug, Clone, Default)]
pub struct Drafts {
    /// The tokens that may come next, for those of whom there is a guess.
    pub guesses: Vec<(SequenceId, Vec<u32>)>,
    /// How many tokens each of its steps had, and how long it took.
    pub steps: Vec<(usize, Duration)>,
}

/// A draft model at work.
pub struct Drafter {
    model: Box<dyn Model>,
    cache: KvCacheShape,
    /// Token ids are below this, or it does not know them.
    vocab_size: usize,
    /// Longest text that it follows.
    max_len: usize,
    texts: HashMap<SequenceId, Text>,
    /// Blocks from this on were never used.
    next_fresh: u32,
    returned: Vec<BlockId>,
    /// Counts the times that it was asked: the clock of `Text::last_used`.
    now: u64,
}

/// A text in the cache.
#[derive(Debug, Default)]
struct Text {
    tokens: Vec<u32>,
    /// They hold `tokens` and nobody else's.
    blocks: Vec<BlockId>,
    cache_salt: Option<Arc<str>>,
    last_used: u64,
}

/// A text that is being gone on with.
struct Working<'a> {
    ask: &'a DraftAsk,
    text: Text,
    guess: Vec<u32>,
    /// Whether more of it is wanted, and can be had.
    goes_on: bool,
}

impl DraftAsk {
    fn num_known(&self) -> usize {
        self.prompt.len() + self.output.len()
    }

    /// The known tokens from a place on.
    fn known_from(&self, place: usize) -> impl Iterator<Item = u32> {
        let in_prompt = &self.prompt[place.min(self.prompt.len())..];
        let in_output = &self.output[place.saturating_sub(self.prompt.len())..];
        in_prompt.iter().chain(in_output).copied()
    }

    /// How the token behind so many guesses is sampled.
    fn sample_behind(&self, guess: &[u32]) -> SampleSpec {
        let mut sample = self.sample.clone();
        sample.num_generated += guess.len() as u32;
        sample.forced = sample.forced.filter(|_| guess.is_empty());
        if let Some(history) = &mut sample.history {
            history.output.extend(guess);
        }
        sample
    }
}

impl Text {
    /// How many of its tokens a sequence begins with.
    fn num_same(&self, ask: &DraftAsk) -> usize {
        let same = |known: &[u32], tokens: &[u32]| {
            known.iter().zip(tokens).take_while(|(known, token)| known == token).count()
        };
        let in_prompt = same(&ask.prompt, &self.tokens);
        match self.tokens.get(ask.prompt.len()..) {
            Some(rest) if in_prompt == ask.prompt.len() => in_prompt + same(&ask.output, rest),
            _ => in_prompt,
        }
    }
}

impl Drafter {
    /// A draft model with an empty cache of this shape, of whom texts of at most `max_len` tokens are asked.
    pub fn new(model: Box<dyn Model>, cache: KvCacheShape, vocab_size: usize, max_len: usize) -> Self {
        Self {
            model,
            cache,
            vocab_size,
            max_len,
            texts: HashMap::new(),
            next_fresh: 0,
            returned: Vec::new(),
            now: 0,
        }
    }

    /// Reads what it has not yet read of these texts, at most `num_tokens_max` tokens of all together and the shortest rests
    /// first, and guesses how those go on that it has read to their ends.
    ///
    /// # Errors
    /// As [`Model::step`]; it is of no use any more then.
    pub fn draft(&mut self, asks: &[DraftAsk], num_tokens_max: usize) -> Result<Drafts, StepError> {
        self.now += 1;
        let mut drafts = Drafts::default();
        let mut working: Vec<Working<'_>> = asks.iter().filter_map(|ask| self.find(ask, asks)).collect();
        working.sort_by_key(|working| working.ask.num_known() - working.text.tokens.len());
        let first = self.read(&mut working, num_tokens_max);
        self.step(&mut working, first, &mut drafts)?;
        while working.iter().any(|working| working.goes_on) {
            let chunks = working.iter().enumerate().filter(|(_, working)| working.goes_on);
            let chunks = chunks.map(|(index, working)| {
                let last = *working.guess.last().expect("what goes on has a guess");
                (index, chunk(working, vec![last], true))
            });
            let chunks = chunks.collect();
            self.step(&mut working, chunks, &mut drafts)?;
        }
        for Working { ask, text, guess, .. } in working {
            if !guess.is_empty() {
                drafts.guesses.push((ask.sequence, guess));
            }
            if !text.blocks.is_empty() {
                self.texts.insert(ask.sequence, text);
            }
        }
        Ok(drafts)
    }

    /// Forgets every text: memory is short.
    pub fn forget(&mut self) {
        let texts = std::mem::take(&mut self.texts);
        texts.into_values().for_each(|text| self.returned.extend(text.blocks));
        self.model.release(&self.returned);
    }

    /// The text that a sequence goes on from: its own, or the one of nobody that is asked about that has most in common with it,
    /// if that is most of it.
    fn find<'a>(&mut self, ask: &'a DraftAsk, all: &[DraftAsk]) -> Option<Working<'a>> {
        if ask.num_known() + ask.num_max > self.max_len {
            return None;
        }
        let text = self.texts.remove(&ask.sequence).or_else(|| {
            let of_use = |(id, text): &(&SequenceId, &Text)| {
                text.cache_salt == ask.cache_salt
                    && text.num_same(ask) * 2 > text.tokens.len()
                    && all.iter().all(|other| other.sequence != **id)
            };
            let nearest = self.texts.iter().filter(of_use).max_by_key(|(_, text)| text.num_same(ask));
            let nearest = *nearest?.0;
            self.texts.remove(&nearest)
        });
        let mut text = text.unwrap_or_default();
        // The last known token is what the first guess is sampled from.
        let num_same = text.num_same(ask).min(ask.num_known() - 1);
        text.tokens.truncate(num_same);
        self.give_back_unused(&mut text);
        text.last_used = self.now;
        text.cache_salt.clone_from(&ask.cache_salt);
        Some(Working { ask, text, guess: Vec::new(), goes_on: false })
    }

    fn give_back_unused(&mut self, text: &mut Text) {
        let num_used = text.tokens.len().div_ceil(self.cache.block_size as usize);
        self.returned.extend(text.blocks.drain(num_used.min(text.blocks.len())..));
    }

    /// What is read of each text: all that is missing, as far as the step has room for it, and the cache.
    fn read(&mut self, working: &mut [Working<'_>], num_tokens_max: usize) -> Vec<(usize, Chunk)> {
        let mut num_left = num_tokens_max;
        let mut chunks = Vec::new();
        for (index, working) in working.iter_mut().enumerate() {
            let (start, num_known) = (working.text.tokens.len(), working.ask.num_known());
            let num = (num_known - start).min(num_left);
            let is_read = start + num == num_known;
            // Of the last guess nothing is kept.
            let end = start + num + if is_read { working.ask.num_max.saturating_sub(1) } else { 0 };
            let token_ids: Vec<u32> = working.ask.known_from(start).take(num).collect();
            let is_known = token_ids.iter().all(|&token_id| (token_id as usize) < self.vocab_size);
            if num == 0 || !is_known || !self.make_room(&mut working.text, end) {
                continue;
            }
            num_left -= num;
            chunks.push((index, chunk(working, token_ids, is_read && working.ask.num_max > 0)));
        }
        chunks
    }

    /// Gives a text blocks for so many tokens, those of the text that nobody has asked about for the longest time if need be.
    fn make_room(&mut self, text: &mut Text, num_tokens: usize) -> bool {
        while text.blocks.len() * (self.cache.block_size as usize) < num_tokens {
            if let Some(block) = self.returned.pop() {
                text.blocks.push(block);
            } else if self.next_fresh < self.cache.num_blocks {
                text.blocks.push(BlockId(self.next_fresh));
                self.next_fresh += 1;
            } else {
                let Some(oldest) = self.texts.iter().min_by_key(|(_, text)| text.last_used) else {
                    return false;
                };
                let oldest = *oldest.0;
                let oldest = self.texts.remove(&oldest).expect("it was just found");
                self.returned.extend(oldest.blocks);
            }
        }
        true
    }

    /// Computes chunks of these texts, and takes in what they bring.
    fn step(
        &mut self,
        working: &mut [Working<'_>],
        chunks: Vec<(usize, Chunk)>,
        drafts: &mut Drafts,
    ) -> Result<(), StepError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let (indices, chunks): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
        let plan = StepPlan { chunks };
        let began = Instant::now();
        let outcome = self.model.step(&plan)?;
        drafts.steps.push((plan.num_tokens(), began.elapsed()));
        for ((index, chunk), sampled) in indices.into_iter().zip(&plan.chunks).zip(outcome.sampled) {
            let Working { ask, text, guess, goes_on } = &mut working[index];
            text.tokens.extend(&chunk.token_ids);
            // Nothing comes after an end.
            let next = sampled.first().map(|token| token.token_id);
            let next = next.filter(|&token_id| !ask.sample.params.is_end(token_id));
            guess.extend(next);
            *goes_on = next.is_some() && guess.len() < ask.num_max;
        }
        Ok(())
    }
}

/// The next tokens of a text; with `is_sampled`, the one behind them is guessed.
fn chunk(working: &Working<'_>, token_ids: Vec<u32>, is_sampled: bool) -> Chunk {
    let Working { ask, text, guess, .. } = working;
    Chunk {
        sequence: ask.sequence,
        token_ids,
        start: text.tokens.len(),
        block_table: text.blocks.clone(),
        samples: is_sampled.then(|| ask.sample_behind(guess)).into_iter().collect(),
        prompt_logprobs: None,
    }
}
