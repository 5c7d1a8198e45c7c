//! Text completions: whole from what was collected, or chunk by chunk from the events of all prompts.

use candlewick_protocol::{Delta, FinishReason, Piece, Started, StopCause, TokenLogprob, Usage};

use super::head::{Head, fingerprint, stop_reason, usage};
use super::logprobs::{completion_logprobs, echoed, prompt_logprobs};
use crate::collect::{Collected, CollectedChoice};
use crate::sse::Chunks;
use crate::wire::completions::{Completion, CompletionChoice, CompletionLogprobs};

/// There are no tool calls on this route, whatever the model side saw in the text.
fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => "stop",
        FinishReason::Length => "length",
    }
}

/// A whole answer to all prompts, in their order.
pub fn completion(head: &Head, prompts: Vec<Collected>, num_choices: u32) -> Completion {
    let canonical = prompts.first().map(|prompt| prompt.started.model.clone()).unwrap_or_default();
    let mut counts = Usage::default();
    let mut choices = Vec::new();
    for (prompt, collected) in prompts.into_iter().enumerate() {
        counts += collected.usage;
        for choice in collected.choices {
            choices.push(whole_choice(head, base_index(prompt, num_choices), &collected.started, choice));
        }
    }
    Completion {
        id: head.id.clone(),
        object: "text_completion",
        created: head.created,
        model: head.model(&canonical),
        system_fingerprint: fingerprint(&canonical),
        choices,
        usage: Some(Some(usage(&counts))),
    }
}

/// Index of the first choice of a prompt.
fn base_index(prompt: usize, num_choices: u32) -> u32 {
    u32::try_from(prompt).expect("prompts are counted when they are read") * num_choices
}

fn whole_choice(head: &Head, base: u32, started: &Started, choice: CollectedChoice) -> CompletionChoice {
    let options = &head.options;
    let logprobs = choice.logprobs.map(|tokens| {
        let prompt = started.prompt_logprobs.as_deref().filter(|_| options.echo_prompt);
        let prompt = echoed(prompt.unwrap_or_default(), options.num_top);
        let all: Vec<TokenLogprob> = prompt.into_iter().chain(tokens).collect();
        completion_logprobs(&all, &mut 0, options.tokens_as_token_ids)
    });
    let prompt_text = started.prompt_text.as_ref();
    CompletionChoice {
        text: prompt_text.filter(|_| options.echo_prompt).cloned().unwrap_or_default() + &choice.text,
        index: base + choice.index,
        logprobs,
        finish_reason: Some(finish_reason(choice.reason)),
        stop_reason: stop_reason(choice.stop),
        prompt_token_ids: options.return_token_ids.then(|| started.prompt_token_ids.clone()),
        prompt_logprobs: options
            .prompt_logprobs
            .map(|num_top| prompt_logprobs(started.prompt_logprobs.as_deref().unwrap_or_default(), num_top)),
        prompt_text: prompt_text.filter(|_| options.return_prompt_text).cloned(),
        token_ids: options.return_token_ids.then_some(choice.token_ids),
    }
}

/// Makes chunks of the completions of several prompts.
pub struct CompletionChunks {
    head: Head,
    num_choices: u32,
    logprobs: bool,
    /// Canonical id of the model, as each prompt reports it.
    canonical: String,
    /// Where the next token of each choice begins in its text, in characters; by index.
    offsets: Vec<usize>,
    /// So far, for `continuous_usage_stats`.
    counts: Usage,
    num_ended: usize,
    /// With `continuous_usage_stats`, the end of the last choice until the final counts are known: no piece tells a token
    /// that ends an answer without a text.
    held: Option<CompletionChoice>,
}

impl CompletionChunks {
    /// Chunks for that many prompts with that many choices each.
    pub fn new(head: Head, num_prompts: usize, num_choices: u32, logprobs: bool) -> Self {
        let offsets = vec![0; num_prompts * num_choices as usize];
        Self {
            head,
            num_choices,
            logprobs,
            canonical: String::new(),
            offsets,
            counts: Usage::default(),
            num_ended: 0,
            held: None,
        }
    }

    fn chunk(&self, choices: Vec<CompletionChoice>) -> Completion {
        let options = self.head.options.stream.unwrap_or_default();
        let usage = match (options.continuous_usage_stats, options.include_usage) {
            (true, _) => Some(Some(usage(&self.counts))),
            (false, true) => Some(None),
            (false, false) => None,
        };
        Completion {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model(&self.canonical),
            system_fingerprint: fingerprint(&self.canonical),
            choices,
            usage,
        }
    }

    fn choice(&self, index: u32, text: String, logprobs: Option<CompletionLogprobs>) -> CompletionChoice {
        CompletionChoice {
            text,
            index,
            logprobs,
            finish_reason: None,
            stop_reason: None,
            prompt_token_ids: None,
            prompt_logprobs: None,
            prompt_text: None,
            token_ids: None,
        }
    }

    fn lists(&mut self, index: u32, tokens: &[TokenLogprob]) -> Option<CompletionLogprobs> {
        let as_ids = self.head.options.tokens_as_token_ids;
        self.logprobs.then(|| completion_logprobs(tokens, &mut self.offsets[index as usize], as_ids))
    }
}

impl Chunks for CompletionChunks {
    type Chunk = Completion;

    fn started(&mut self, source: usize, started: Started) -> Vec<Completion> {
        self.canonical = started.model;
        self.counts.prompt_tokens += started.prompt_token_ids.len() as u64;
        let options = &self.head.options;
        let (with_ids, with_text) = (options.return_token_ids, options.return_prompt_text);
        let is_echoed = options.echo_prompt;
        if !is_echoed && !with_ids && !with_text {
            return Vec::new();
        }
        let base = base_index(source, self.num_choices);
        let tokens = started.prompt_logprobs.filter(|_| is_echoed).unwrap_or_default();
        let tokens = echoed(&tokens, self.head.options.num_top);
        let prompt_text = started.prompt_text;
        let text = prompt_text.as_ref().filter(|_| is_echoed).cloned().unwrap_or_default();
        let chunks = (base..base + self.num_choices).map(|index| {
            let logprobs = self.lists(index, &tokens);
            let mut choice = self.choice(index, text.clone(), logprobs);
            choice.prompt_token_ids = with_ids.then(|| started.prompt_token_ids.clone());
            choice.prompt_text = prompt_text.clone().filter(|_| with_text);
            self.chunk(vec![choice])
        });
        chunks.collect()
    }

    fn piece(&mut self, source: usize, piece: Piece) -> Vec<Completion> {
        self.counts.completion_tokens += piece.token_ids.len() as u64;
        let text = match piece.delta {
            Delta::Text(text) | Delta::Reasoning(text) => text,
            Delta::ToolCall { .. } | Delta::ToolArguments { .. } => String::new(),
        };
        let with_ids = self.head.options.return_token_ids && !piece.token_ids.is_empty();
        if text.is_empty() && piece.logprobs.is_empty() && !with_ids {
            return Vec::new();
        }
        let index = base_index(source, self.num_choices) + piece.choice;
        let logprobs = self.lists(index, &piece.logprobs);
        let mut choice = self.choice(index, text, logprobs);
        choice.token_ids = self.head.options.return_token_ids.then_some(piece.token_ids);
        vec![self.chunk(vec![choice])]
    }

    fn ended(
        &mut self,
        source: usize,
        choice: u32,
        reason: FinishReason,
        stop: Option<StopCause>,
    ) -> Vec<Completion> {
        let mut last = self.choice(base_index(source, self.num_choices) + choice, String::new(), None);
        last.finish_reason = Some(finish_reason(reason));
        last.stop_reason = stop_reason(stop);
        self.num_ended += 1;
        let is_last = self.num_ended == self.offsets.len();
        if is_last && self.head.options.stream.unwrap_or_default().continuous_usage_stats {
            self.held = Some(last);
            return Vec::new();
        }
        vec![self.chunk(vec![last])]
    }

    fn finished(&mut self, counts: Usage) -> Vec<Completion> {
        self.counts = counts;
        let held = self.held.take();
        let mut chunks: Vec<Completion> = held.into_iter().map(|last| self.chunk(vec![last])).collect();
        if self.head.options.stream.unwrap_or_default().include_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk.usage = Some(Some(usage(&counts)));
            chunks.push(chunk);
        }
        chunks
    }
}
