//! One sequence as the scheduler sees it: tokens known, tokens computed, blocks held.

use std::sync::Arc;

use super::shares::Holder;
use crate::blocks::BlockPool;
use crate::grammar::GrammarProgress;
use crate::model::{BlockId, Chunk, PromptLogprobs, SampleSpec, SampledToken, TokenHistory, TokenScore};
use crate::pace::Pace;
use crate::prefix::Prefix;
use crate::sampling::ThinkingProgress;
use crate::sequence::PromptScores;
use crate::speculation::{Acceptance, Candidate, DraftAsk, Speculation, SpeculationLimits};
use crate::{News, SamplingParams, Sequence, SequenceEnd};

/// A sequence's place in the order of favour: the lower one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub priority: i32,
    pub arrival: u64,
    /// Which of those that a search keeps of one that arrived.
    pub branch: u32,
}

/// The beginning of a sequence that is in the cache already.
pub(super) struct CachedPrefix {
    /// Its blocks, in order.
    pub blocks: Vec<BlockId>,
    /// The text that they hold.
    prefix: Prefix,
}

impl CachedPrefix {
    /// Nothing of a text under this salt.
    pub fn none(salt: Option<Arc<str>>) -> Self {
        Self { blocks: Vec::new(), prefix: Prefix::Root(salt) }
    }
}

/// A sequence that was admitted, and how far it has come.
pub(super) struct Tracked {
    /// The sequence; its `output` grows.
    pub sequence: Sequence,
    /// Tokens whose keys and values are in `blocks`.
    pub num_computed: usize,
    /// The block table. Full blocks may be held by other sequences too; they are written no more.
    pub blocks: Vec<BlockId>,
    /// How many of `blocks` the pool knows the content of.
    num_kept: usize,
    /// What the next block that becomes full continues.
    prefix: Prefix,
    /// Its reader is slow.
    pub is_paused: bool,
    /// Where it stands in its grammar.
    grammar: Option<Arc<GrammarProgress>>,
    /// Its latest token is told, and a search is to say how it goes on.
    is_held: bool,
    /// The prompt's scores so far; `None` if there is nothing (more) to score.
    scores: Option<PromptScores>,
    /// How far its reasoning has come, where that has a budget.
    thinking: Option<ThinkingProgress>,
    /// What is guessed of it, once it was.
    pub speculation: Option<Speculation>,
    /// Whose it is.
    pub holder: Holder,
}

impl Tracked {
    pub fn new(sequence: Sequence, holder: Holder) -> Self {
        // With output, the prompt was scored before the first token of it.
        let scores = (sequence.prompt_logprobs.is_some() && sequence.output.is_empty()).then(Vec::new);
        let prefix = Prefix::Root(sequence.cache_salt.clone());
        let grammar = sequence.grammar.clone();
        let grammar = grammar.map(|grammar| Arc::new(GrammarProgress::new(grammar, &sequence.output)));
        let budget = sequence.params.thinking.as_ref();
        let thinking = budget.map(|budget| ThinkingProgress::new(budget, &sequence.output));
        Self {
            sequence,
            num_computed: 0,
            blocks: Vec::new(),
            num_kept: 0,
            prefix,
            is_paused: false,
            is_held: false,
            grammar,
            scores,
            thinking,
            speculation: None,
            holder,
        }
    }

    /// Whether it is not to be planned: others may have its blocks.
    pub fn is_idle(&self) -> bool {
        self.is_paused || self.is_held
    }

    /// Takes over all that another has computed of the same tokens.
    pub fn succeed(&mut self, other: &mut Self) {
        self.num_computed = other.num_computed;
        self.num_kept = other.num_kept;
        self.prefix = other.prefix.clone();
        self.blocks = std::mem::take(&mut other.blocks);
    }

    /// The blocks that hold the beginning of its tokens, computed by whoever. The last known token is always computed
    /// anew, since it is what the next one is sampled from; and a prompt that is scored is computed whole.
    pub fn cached_prefix(&self, pool: &BlockPool, block_size: usize) -> CachedPrefix {
        let mut cached = CachedPrefix::none(self.sequence.cache_salt.clone());
        if self.scores.is_some() {
            return cached;
        }
        for index in 0..(self.num_known() - 1) / block_size {
            let token_ids = self.known(index * block_size, block_size);
            let Some((block, prefix)) = pool.find(&cached.prefix, &token_ids) else { break };
            cached.blocks.push(block);
            cached.prefix = prefix;
        }
        cached
    }

    /// Begins with what others have computed.
    pub fn adopt(&mut self, cached: CachedPrefix, pool: &mut BlockPool, block_size: usize) {
        debug_assert!(self.blocks.is_empty(), "a sequence that waits holds no blocks");
        cached.blocks.iter().for_each(|&block| pool.hold(block));
        self.num_computed = cached.blocks.len() * block_size;
        self.num_kept = cached.blocks.len();
        self.blocks = cached.blocks;
        self.prefix = cached.prefix;
    }

    /// Lets others have the blocks that have become full.
    pub fn keep_full_blocks(&mut self, pool: &mut BlockPool, block_size: usize) {
        while (self.num_kept + 1) * block_size <= self.num_computed {
            let token_ids = self.known(self.num_kept * block_size, block_size);
            self.prefix = pool.keep(&self.prefix, &token_ids, self.blocks[self.num_kept]);
            self.num_kept += 1;
        }
    }

    /// So many of the known tokens, from a position on.
    fn known(&self, start: usize, num_tokens: usize) -> Vec<u32> {
        let Sequence { prompt, output, .. } = &self.sequence;
        if start + num_tokens <= prompt.len() {
            return prompt[start..start + num_tokens].to_vec();
        }
        prompt.iter().chain(output).copied().skip(start).take(num_tokens).collect()
    }

    /// Tokens known: prompt and output.
    pub fn num_known(&self) -> usize {
        self.sequence.prompt.len() + self.sequence.output.len()
    }

    /// Tokens known and not computed; at least one, for a token becomes known in the step after which it is missing.
    pub fn num_missing(&self) -> usize {
        self.num_known() - self.num_computed
    }

    /// The blocks it held, in exchange for computing everything again. Scores of a prompt that is not yet scored to its
    /// end are gathered anew.
    pub fn give_back_blocks(&mut self) -> Vec<BlockId> {
        self.num_computed = 0;
        self.num_kept = 0;
        self.prefix = Prefix::Root(self.sequence.cache_salt.clone());
        self.scores.iter_mut().for_each(Vec::clear);
        std::mem::take(&mut self.blocks)
    }

    /// Gives back the blocks that only wrong guesses were written to.
    pub fn give_back_unused(&mut self, pool: &mut BlockPool, block_size: usize) {
        let unused = self.blocks.split_off(self.num_computed.div_ceil(block_size));
        unused.into_iter().rev().for_each(|block| pool.release(block));
    }

    /// Whether its next tokens are guessed: it decodes, and nobody waits for its latest token to decide how it goes on.
    pub fn is_guessed(&self) -> bool {
        let Sequence { output, holds, .. } = &self.sequence;
        !output.is_empty() && !holds && self.num_missing() == 1 && !self.is_generated()
    }

    /// Whether and how the draft model could be asked about it.
    pub fn candidate(&mut self, limits: SpeculationLimits, all: &Acceptance) -> Option<Candidate> {
        self.guess(limits, all);
        let chance = self.speculation.as_ref()?.chance_of_draft()?;
        Some(Candidate { chance, num_max: self.num_guesses_max(limits) }).filter(|found| found.num_max > 0)
    }

    /// The question to the draft model, how so many tokens of it go on. It is neither held to a form nor asked for scores.
    pub fn ask(&self, num_max: usize) -> DraftAsk {
        let Sequence { id, prompt, output, cache_salt, .. } = &self.sequence;
        let mut sample = self.samples(&[]).remove(0);
        sample.grammar = None;
        if sample.params.logprobs.is_some() {
            sample.params =
                Arc::new(SamplingParams { logprobs: None, ..SamplingParams::clone(&sample.params) });
        }
        let (prompt, output, cache_salt) = (prompt.clone(), output.clone(), cache_salt.clone());
        DraftAsk { sequence: *id, prompt, output, sample, cache_salt, num_max }
    }

    /// The draft model has said how it goes on.
    pub fn note_draft(&mut self, token_ids: Vec<u32>) {
        let num_known = self.num_known();
        if let Some(speculation) = &mut self.speculation {
            speculation.note_draft(num_known, token_ids);
        }
    }

    /// The last token that may come is sampled after the last guess.
    fn num_guesses_max(&self, limits: SpeculationLimits) -> usize {
        let num_left = self.sequence.params.max_tokens as usize - self.sequence.output.len();
        limits.max_draft_tokens.min(num_left - 1)
    }

    /// Guesses its next tokens.
    pub fn guess(&mut self, limits: SpeculationLimits, all: &Acceptance) {
        let num_max = self.num_guesses_max(limits);
        let speculation = self.speculation.get_or_insert_with(|| Speculation::new(limits, all));
        speculation.guess(&self.sequence, num_max);
    }

    /// As much of the guess as pays.
    pub fn draft(&self, pace: &Pace, num_tokens: usize, num_decoding: usize) -> &[u32] {
        self.speculation.as_ref().map_or(&[], |guesses| guesses.draft(pace, num_tokens, num_decoding))
    }

    /// The next so many tokens, and these guesses behind them.
    pub fn chunk(&self, num_tokens: usize, draft: &[u32]) -> Chunk {
        let Sequence { id, prompt, prompt_logprobs, .. } = &self.sequence;
        let (start, end) = (self.num_computed, self.num_computed + num_tokens);
        let mut token_ids = self.known(start, num_tokens);
        token_ids.extend(draft);
        Chunk {
            sequence: *id,
            token_ids,
            start,
            block_table: self.blocks.clone(),
            samples: match end == self.num_known() && !self.is_generated() {
                true => self.samples(draft),
                false => Vec::new(),
            },
            prompt_logprobs: self.scores.as_ref().and(*prompt_logprobs).map(|num_top| PromptLogprobs {
                num_top,
                next_token_ids: prompt[start + 1..(end + 1).min(prompt.len())].to_vec(),
            }),
        }
    }

    /// How to sample after the last known token and after each guess, as if those before it were known.
    fn samples(&self, draft: &[u32]) -> Vec<SampleSpec> {
        let Sequence { id, prompt, output, params, .. } = &self.sequence;
        let mut thinking = self.thinking.clone();
        let mut specs = Vec::with_capacity(draft.len() + 1);
        for place in 0..=draft.len() {
            let drafted = &draft[..place];
            if let (Some(thinking), Some(&last)) = (&mut thinking, drafted.last()) {
                thinking.push(last);
            }
            let history = params
                .needs_history()
                .then(|| TokenHistory { prompt: prompt.clone(), output: [output, drafted].concat() });
            specs.push(SampleSpec {
                params: params.clone(),
                choice: id.choice,
                num_generated: (output.len() + place) as u32,
                history,
                grammar: self.grammar.clone(),
                drafted: self.grammar.as_ref().map(|_| drafted.to_vec()).unwrap_or_default(),
                forced: thinking.as_ref().and_then(ThinkingProgress::forced),
            });
        }
        specs
    }

    /// Takes in what came of a chunk and tells the news; `true` if the sequence is complete.
    pub fn advance(
        &mut self,
        chunk: &Chunk,
        sampled: Vec<SampledToken>,
        scores: Vec<TokenScore>,
        news: &mut Vec<News>,
    ) -> bool {
        let sequence = self.sequence.id;
        // Behind the known tokens, the guesses that were right are computed.
        self.num_computed += chunk.token_ids.len() - chunk.draft().len() + sampled.len().saturating_sub(1);
        if let Some(so_far) = &mut self.scores {
            so_far.extend(scores);
            if self.num_computed == self.sequence.prompt.len() {
                let scores = self.scores.take().expect("they were just added to");
                news.push(News::PromptScored { sequence, scores });
            }
        }
        if !chunk.samples.is_empty() {
            let num_sampled = sampled.len();
            for (place, token) in sampled.into_iter().enumerate() {
                if self.sequence.holds {
                    self.is_held = true;
                    news.push(News::Sampled { sequence, token, end: None });
                    return false;
                }
                self.sequence.output.push(token.token_id);
                if let Some(thinking) = &mut self.thinking {
                    thinking.push(token.token_id);
                }
                let end = self.end(place + 1 == num_sampled);
                news.push(News::Sampled { sequence, token, end });
                if end.is_some() {
                    return true;
                }
            }
            return false;
        }
        let is_complete = self.num_missing() == 0;
        if is_complete {
            news.push(News::Complete { sequence });
        }
        is_complete
    }

    /// Why the sequence ends with the latest token of its output, if it does. A grammar is at its end after the last token of
    /// a step or after none.
    fn end(&self, is_last: bool) -> Option<SequenceEnd> {
        match self.sequence.params.end_of(&self.sequence.output) {
            Some(end @ (SequenceEnd::Eos | SequenceEnd::StopToken(_))) => Some(end),
            _ if is_last && self.grammar.as_ref().is_some_and(|grammar| grammar.is_complete()) => {
                Some(SequenceEnd::Complete)
            }
            end => end,
        }
    }

    /// Whether nothing is left to generate. So it is from the start where only the prompt's scores are wanted.
    fn is_generated(&self) -> bool {
        self.sequence.output.len() >= self.sequence.params.max_tokens as usize
    }
}
