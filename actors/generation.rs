//! One request's output in the making: tokens in, events out. Pure; the request's actor feeds it.
//!
//! It is the only truth about what was emitted. A batcher that crashes loses nothing, because what is admitted to its
//! successor ([`Generation::sequences`]) is read from here.

mod beams;
mod best;
mod choice;

use std::sync::Arc;

use candlewick_engine::grammar::CompiledGrammar;
use candlewick_engine::text::{PreparedPrompt, TextProcessor};
use candlewick_engine::{
    Branch, News, SampledToken, SamplingParams, Sequence, SequenceEnd, SequenceId, TokenScore,
};
use candlewick_protocol::{
    ErrorKind, Event, Failure, FinishReason, Finished, OutputOptions, RequestKey, Search, Share, Started,
    StopCause, Usage,
};

use self::beams::Beams;
use self::best::best_choices;
use self::choice::Choice;
use crate::metrics::AnswerSize;

/// What a generation is made of.
pub struct GenerationArgs {
    /// Our name for the request.
    pub key: RequestKey,
    /// Canonical id of the model.
    pub model: String,
    /// How the model reads and writes text.
    pub processor: Arc<TextProcessor>,
    /// The prompt.
    pub prompt: PreparedPrompt,
    /// How to sample.
    pub params: Arc<SamplingParams>,
    /// What the answers are held to, if they are.
    pub grammar: Option<Arc<CompiledGrammar>>,
    /// How many continuations are told.
    pub num_choices: u32,
    /// How they are found.
    pub search: Search,
    /// What to report.
    pub output: OutputOptions,
    /// Lower runs first, among those of the same holder.
    pub priority: i32,
    /// Whose it is.
    pub share: Arc<Share>,
    /// What the cache holds of it is shared under this name only.
    pub cache_salt: Option<Arc<str>>,
    /// Drawn at random: ids of tool calls follow from it.
    pub call_id_seed: u64,
}

/// A request that is prepared, and all that was generated for it.
pub struct Generation {
    args: GenerationArgs,
    /// What is sampled: the continuations that are told, and those among which they are chosen.
    choices: Vec<Choice>,
    /// Of a beam search that is not over; its results become the choices.
    beams: Option<Beams>,
    /// Of continuations among which some are chosen: what they say, until all have ended.
    untold: Vec<Event>,
    /// Scores of the prompt, where asked for and once known.
    prompt_scores: Option<Vec<TokenScore>>,
    /// Tokens of the prompt that were in the cache when it was first given a place.
    num_cached_tokens: Option<u64>,
    is_started: bool,
    /// What came before `Started` could be told, because the prompt was still being scored.
    held_back: Vec<Event>,
}

/// A choice that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedChoice {
    /// Why.
    pub reason: FinishReason,
    /// Tokens that were generated for it.
    pub num_tokens: usize,
}

/// What news meant.
#[derive(Debug, Default)]
pub struct Effects {
    /// What the client is told.
    pub events: Vec<Event>,
    /// Sequences that ended by their text, which the batcher does not know.
    pub cancel: Vec<SequenceId>,
    /// How a search goes on, once each of its sequences has told its latest token.
    pub branches: Vec<Branch>,
    /// Tokens that were generated.
    pub num_tokens: usize,
    /// Why choices ended.
    pub ended: Vec<EndedChoice>,
    /// The request cannot go on, and this is its last word.
    pub failure: Option<Failure>,
}

impl Generation {
    /// Nothing is generated yet.
    pub fn new(mut args: GenerationArgs) -> Self {
        if args.params.max_tokens == 0 {
            // There is nothing to choose among.
            args.search = Search::Sample;
        }
        let num_candidates = match args.search {
            Search::BestOf { num_candidates } => num_candidates.max(args.num_choices),
            Search::Sample | Search::Beam { .. } => args.num_choices,
        };
        let mut choices = Vec::new();
        for index in 0..num_candidates {
            // Calls of two choices must not share their ids.
            args.prompt.output.call_id_seed = args.call_id_seed.wrapping_add(u64::from(index));
            choices.push(Choice::new(&args));
        }
        let beams = match args.search {
            Search::Beam { length_penalty } => Some(Beams::new(args.num_choices, length_penalty)),
            Search::Sample | Search::BestOf { .. } => None,
        };
        Self {
            args,
            choices,
            beams,
            untold: Vec::new(),
            prompt_scores: None,
            num_cached_tokens: None,
            is_started: false,
            held_back: Vec::new(),
        }
    }

    /// What is to be admitted to a batcher now: every choice that has not ended, with the tokens it already has.
    pub fn sequences(&self) -> Vec<Sequence> {
        if let Some(beams) = &self.beams {
            let open = beams.open();
            return open.map(|(number, output)| self.sequence(number, output.to_vec())).collect();
        }
        let open = self.choices.iter().enumerate().filter(|(_, choice)| !choice.is_ended);
        open.map(|(index, choice)| self.sequence(index as u32, choice.output.clone())).collect()
    }

    /// A sequence of this request, by the number of its choice or beam.
    fn sequence(&self, number: u32, output: Vec<u32>) -> Sequence {
        Sequence {
            id: self.sequence_id(number),
            prompt: self.args.prompt.token_ids.clone(),
            output,
            params: self.args.params.clone(),
            grammar: self.args.grammar.clone(),
            priority: self.args.priority,
            share: self.args.share.clone(),
            // The prompt is the same for all of them: the first scores it, once.
            prompt_logprobs: self.scores_prompt_with(number),
            cache_salt: self.args.cache_salt.clone(),
            holds: self.beams.is_some(),
        }
    }

    /// Whether every choice has ended.
    pub fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.is_ended)
    }

    /// Completes a request that nothing has to be computed for, because it asks for no token and no score: its client wants to
    /// know the prompt. `None` if there is something to compute.
    pub fn complete_uncomputed(&mut self) -> Option<Effects> {
        if self.args.params.max_tokens > 0 || self.wants_prompt_scores() {
            return None;
        }
        let all =
            (0..self.choices.len() as u32).map(|index| News::Complete { sequence: self.sequence_id(index) });
        let news = all.collect();
        Some(self.take(news))
    }

    /// Tokens of the prompt.
    pub fn num_prompt_tokens(&self) -> usize {
        self.args.prompt.token_ids.len()
    }

    /// How large the answer has become. `usage` is its own.
    pub fn size(&self, usage: &Usage) -> AnswerSize {
        let longest = self.choices.iter().map(|choice| choice.output.len() as u64).max();
        AnswerSize {
            num_prompt_tokens: usage.prompt_tokens,
            num_tokens: usage.completion_tokens,
            num_tokens_of_longest: longest.unwrap_or(0),
            num_choices: self.args.num_choices,
            max_tokens: self.args.params.max_tokens,
        }
    }

    /// Notes how much of the prompt was in the cache. A batcher that replaces a crashed one is not asked again: what it has
    /// was computed for this request.
    pub fn note_cached(&mut self, num_tokens: u64) {
        self.num_cached_tokens.get_or_insert(num_tokens);
    }

    /// Takes in what a step brought.
    pub fn take(&mut self, news: Vec<News>) -> Effects {
        let was_complete = self.is_complete();
        let mut effects = Effects::default();
        for news in news {
            match news {
                News::PromptScored { scores, .. } => self.prompt_scores = Some(scores),
                News::Sampled { sequence, token, .. } if self.beams.is_some() => {
                    self.take_likeliest(sequence, token, &mut effects);
                }
                News::Sampled { sequence, token, end } => self.take_token(sequence, token, end, &mut effects),
                News::Complete { sequence } => self.take_end(sequence, SequenceEnd::Length, &mut effects),
                News::Failed { why, .. } => {
                    effects.failure = Some(Failure::new(ErrorKind::InvalidRequest, why));
                    return effects;
                }
            }
        }
        if matches!(self.args.search, Search::BestOf { .. }) {
            self.untold.append(&mut effects.events);
            if self.is_complete() && !was_complete {
                let untold = std::mem::take(&mut self.untold);
                effects.events = best_choices(untold, &self.choices, self.args.num_choices);
            }
        }
        self.tell_started_first(&mut effects);
        if self.is_complete() && !was_complete {
            effects.events.push(Event::Finished(Finished { usage: self.usage() }));
        }
        effects
    }

    /// The likeliest tokens behind a beam. Once those behind every beam are known, the search takes its step.
    fn take_likeliest(&mut self, id: SequenceId, token: SampledToken, effects: &mut Effects) {
        let beams = self.beams.as_mut().expect("a search is under way");
        let Some(score) = token.score.filter(|_| beams.is_waiting_for(id.choice)) else { return };
        match beams.take(id.choice, score, &self.args) {
            beams::Progress::Waiting => {}
            beams::Progress::GoesOn(parents) => {
                let open = self.beams.iter().flat_map(Beams::open);
                let branches = open.zip(parents).map(|((number, output), parent)| Branch {
                    parent: self.sequence_id(parent),
                    child: self.sequence(number, output.to_vec()),
                });
                effects.branches = branches.collect();
            }
            beams::Progress::Over(results) => {
                self.beams = None;
                for (number, result) in (0..).zip(results) {
                    self.take_result(number, result, effects);
                }
            }
        }
    }

    /// Tells what a beam has found as if it had just come.
    fn take_result(&mut self, number: u32, result: beams::Found, effects: &mut Effects) {
        let id = self.sequence_id(number);
        let num_tokens = result.beam.token_ids.len();
        for (place, (token_id, score)) in
            result.beam.token_ids.into_iter().zip(result.beam.scores).enumerate()
        {
            let end = result.end.filter(|_| place + 1 == num_tokens);
            self.take_token(id, SampledToken { token_id, score: Some(score) }, end, effects);
        }
        // One that a stop string ended has been ended by it just now.
        self.take_end(id, result.end.unwrap_or(SequenceEnd::Eos), effects);
    }

    fn take_token(
        &mut self,
        id: SequenceId,
        token: SampledToken,
        end: Option<SequenceEnd>,
        effects: &mut Effects,
    ) {
        let index = id.choice as usize;
        // A step that was in flight when a stop string ended the choice may still speak of it.
        let Some(choice) = self.choices.get_mut(index).filter(|choice| !choice.is_ended) else { return };
        effects.num_tokens += 1;
        choice.take(&token);
        // A token that ends the answer is not part of its text, unless it was asked to be.
        let is_silent = match end {
            Some(SequenceEnd::Eos) => true,
            Some(SequenceEnd::StopToken(_)) => !self.args.params.include_stop_str_in_output,
            Some(SequenceEnd::Length | SequenceEnd::Complete | SequenceEnd::Repetition) | None => false,
        };
        if !is_silent {
            if self.args.output.logprobs.is_some() {
                let logprob = self.args.processor.token_logprob(token.token_id, token.score.as_ref());
                choice.untold_logprobs.push(logprob);
            }
            let step = choice.stream.push(token.token_id);
            let is_last = step.stopped.is_some();
            choice.tell(id.choice, step.deltas, is_last, &mut effects.events);
            if let Some(text) = step.stopped {
                if end.is_none() {
                    effects.cancel.push(id);
                }
                let reason = self.end_by_itself(index);
                return self.end(index, reason, Some(StopCause::Text(text)), effects);
            }
        }
        if let Some(end) = end {
            self.take_end(id, end, effects);
        }
    }

    fn take_end(&mut self, id: SequenceId, end: SequenceEnd, effects: &mut Effects) {
        let index = id.choice as usize;
        let Some(choice) = self.choices.get_mut(index).filter(|choice| !choice.is_ended) else { return };
        let rest = choice.stream.finish();
        choice.tell(id.choice, rest, true, &mut effects.events);
        let by_itself = self.end_by_itself(index);
        let (reason, stop) = match end {
            SequenceEnd::Eos | SequenceEnd::Complete => (by_itself, None),
            SequenceEnd::StopToken(token_id) => (by_itself, Some(StopCause::Token(token_id))),
            SequenceEnd::Length => (FinishReason::Length, None),
            SequenceEnd::Repetition => (FinishReason::Stop, Some(StopCause::Repetition)),
        };
        self.end(index, reason, stop, effects);
    }

    /// Why a choice ended that no limit cut. A call that the request forced is an ordinary end, as with OpenAI.
    fn end_by_itself(&self, index: usize) -> FinishReason {
        let is_forced = self.args.prompt.output.is_call_forced;
        if self.choices[index].stream.has_tool_calls() && !is_forced {
            FinishReason::ToolCalls
        } else {
            FinishReason::Stop
        }
    }

    fn end(&mut self, index: usize, reason: FinishReason, stop: Option<StopCause>, effects: &mut Effects) {
        let choice = &mut self.choices[index];
        choice.is_ended = true;
        let num_tokens = choice.output.len();
        effects.events.push(Event::Ended { choice: index as u32, reason, stop });
        effects.ended.push(EndedChoice { reason, num_tokens });
    }

    /// `Started` comes before everything else, and waits for the prompt's scores where they are asked for.
    fn tell_started_first(&mut self, effects: &mut Effects) {
        if self.is_started {
            return;
        }
        let waits_for_scores = self.wants_prompt_scores() && self.prompt_scores.is_none();
        if waits_for_scores
            || (effects.events.is_empty() && effects.num_tokens == 0 && self.prompt_scores.is_none())
        {
            self.held_back.append(&mut effects.events);
            return;
        }
        self.is_started = true;
        let later = std::mem::take(&mut effects.events);
        effects.events.push(Event::Started(self.started()));
        effects.events.append(&mut self.held_back);
        effects.events.extend(later);
    }

    fn started(&self) -> Started {
        let prompt = &self.args.prompt;
        let logprob = |(position, &token_id): (usize, &u32)| {
            let scores = self.prompt_scores.as_deref().unwrap_or_default();
            let score = position.checked_sub(1).and_then(|before| scores.get(before));
            self.args.processor.token_logprob(token_id, score)
        };
        Started {
            model: self.args.model.clone(),
            prompt_token_ids: prompt.token_ids.to_vec(),
            prompt_logprobs: self
                .wants_prompt_scores()
                .then(|| prompt.token_ids.iter().enumerate().map(logprob).collect()),
            prompt_text: (self.args.output.echo || self.args.output.prompt_text).then(|| prompt.text.clone()),
        }
    }

    fn wants_prompt_scores(&self) -> bool {
        self.num_prompt_top().is_some()
    }

    /// With how many of the likeliest tokens the prompt is scored, if it is.
    fn num_prompt_top(&self) -> Option<u32> {
        let OutputOptions { echo, logprobs, prompt_logprobs, .. } = &self.args.output;
        logprobs.filter(|_| *echo).max(*prompt_logprobs)
    }

    fn scores_prompt_with(&self, number: u32) -> Option<u32> {
        self.num_prompt_top().filter(|_| number == 0 && self.prompt_scores.is_none())
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.args.prompt.token_ids.len() as u64,
            completion_tokens: self.choices.iter().map(|choice| choice.output.len() as u64).sum(),
            cached_tokens: self.num_cached_tokens.unwrap_or(0),
            reasoning_tokens: self.choices.iter().map(|choice| choice.stream.num_reasoning_tokens()).sum(),
        }
    }

    fn sequence_id(&self, number: u32) -> SequenceId {
        SequenceId { request: self.args.key, choice: number }
    }
}
