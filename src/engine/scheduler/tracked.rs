//! One sequence as the scheduler sees it: tokens known, tokens computed, blocks held.

use crate::model::{BlockId, Chunk, PromptLogprobs, SampleSpec, SampledToken, TokenHistory, TokenScore};
use crate::sequence::PromptScores;
use crate::{News, Sequence, SequenceEnd};

/// A sequence's place in the order of favour: the lower one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub priority: i32,
    pub arrival: u64,
}

/// A sequence that was admitted, and how far it has come.
pub(super) struct Tracked {
    /// The sequence; its `output` grows.
    pub sequence: Sequence,
    /// Tokens whose keys and values are in `blocks`.
    pub num_computed: usize,
    /// The block table.
    pub blocks: Vec<BlockId>,
    /// Its reader is slow.
    pub is_paused: bool,
    /// The prompt's scores so far; `None` if there is nothing (more) to score.
    scores: Option<PromptScores>,
}

impl Tracked {
    pub fn new(sequence: Sequence) -> Self {
        // With output, the prompt was scored before the first token of it.
        let scores = (sequence.prompt_logprobs.is_some() && sequence.output.is_empty()).then(Vec::new);
        Self { sequence, num_computed: 0, blocks: Vec::new(), is_paused: false, scores }
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
        self.scores.iter_mut().for_each(Vec::clear);
        std::mem::take(&mut self.blocks)
    }

    /// The next so many tokens.
    pub fn chunk(&self, num_tokens: usize) -> Chunk {
        let Sequence { id, prompt, output, params, prompt_logprobs, .. } = &self.sequence;
        let (start, end) = (self.num_computed, self.num_computed + num_tokens);
        let known = prompt.iter().chain(output).copied();
        let samples = end == self.num_known() && !self.is_generated();
        Chunk {
            sequence: *id,
            token_ids: known.skip(start).take(num_tokens).collect(),
            start,
            block_table: self.blocks.clone(),
            sample: samples.then(|| SampleSpec {
                params: params.clone(),
                choice: id.choice,
                num_generated: output.len() as u32,
                history: params
                    .needs_history()
                    .then(|| TokenHistory { prompt: prompt.clone(), output: output.clone() }),
            }),
            prompt_logprobs: self.scores.as_ref().and(*prompt_logprobs).map(|num_top| PromptLogprobs {
                num_top,
                next_token_ids: prompt[start + 1..(end + 1).min(prompt.len())].to_vec(),
            }),
        }
    }

    /// Takes in what came of a chunk and tells the news; `true` if the sequence is complete.
    pub fn advance(
        &mut self,
        chunk: &Chunk,
        sampled: Option<SampledToken>,
        scores: Vec<TokenScore>,
        news: &mut Vec<News>,
    ) -> bool {
        let sequence = self.sequence.id;
        self.num_computed += chunk.token_ids.len();
        if let Some(so_far) = &mut self.scores {
            so_far.extend(scores);
            if self.num_computed == self.sequence.prompt.len() {
                let scores = self.scores.take().expect("they were just added to");
                news.push(News::PromptScored { sequence, scores });
            }
        }
        if chunk.sample.is_some() {
            let token = sampled.expect("a model samples where it is asked to");
            self.sequence.output.push(token.token_id);
            let end = self.end_after(token.token_id);
            news.push(News::Sampled { sequence, token, end });
            return end.is_some();
        }
        let is_complete = self.num_missing() == 0;
        if is_complete {
            news.push(News::Complete { sequence });
        }
        is_complete
    }

    /// Whether nothing is left to generate. So it is from the start where only the prompt's scores are wanted.
    fn is_generated(&self) -> bool {
        self.sequence.output.len() >= self.sequence.params.max_tokens as usize
    }

    /// Whether the token, the latest of the output, ends the sequence.
    fn end_after(&self, token_id: u32) -> Option<SequenceEnd> {
        let params = &self.sequence.params;
        if params.eos_token_ids.contains(&token_id) {
            Some(SequenceEnd::Eos)
        } else if params.stop_token_ids.contains(&token_id) {
            Some(SequenceEnd::StopToken(token_id))
        } else {
            self.is_generated().then_some(SequenceEnd::Length)
        }
    }
}
