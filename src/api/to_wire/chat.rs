//! Chat answers: whole from what was collected, or chunk by chunk from the events.

use candlewick_protocol::{Delta, FinishReason, Piece, Started, StopCause, Usage};

use super::head::{Head, fingerprint, finish_reason, stop_reason, usage};
use super::logprobs::{chat_logprobs, prompt_logprobs};
use crate::collect::{Collected, CollectedChoice};
use crate::sse::Chunks;
use crate::wire::chat::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatMessage, FunctionCall,
    FunctionDelta, ToolCall, ToolCallDelta,
};

const SERVICE_TIER: &str = "default";

/// A whole answer.
pub fn chat_completion(head: &Head, collected: Collected) -> ChatCompletion {
    let Collected { started, choices, usage: counts } = collected;
    let options = &head.options;
    ChatCompletion {
        id: head.id.clone(),
        object: "chat.completion",
        created: head.created,
        model: head.model(&started.model),
        service_tier: options.echo_service_tier.then_some(SERVICE_TIER),
        system_fingerprint: fingerprint(&started.model),
        choices: choices.into_iter().map(|choice| chat_choice(head, choice)).collect(),
        usage: usage(&counts),
        prompt_logprobs: options
            .prompt_logprobs
            .map(|num_top| prompt_logprobs(started.prompt_logprobs.as_deref().unwrap_or_default(), num_top)),
        prompt_text: started.prompt_text.filter(|_| options.return_prompt_text),
        prompt_token_ids: options.return_token_ids.then_some(started.prompt_token_ids),
    }
}

fn chat_choice(head: &Head, choice: CollectedChoice) -> ChatChoice {
    let options = &head.options;
    let reasoning = Some(choice.reasoning).filter(|text| !text.is_empty());
    let (reasoning, reasoning_content) = options.reasoning_fields.of(reasoning);
    let content = options.echo_text.clone().unwrap_or_default() + &choice.text;
    let mut tool_calls: Vec<ToolCall> = choice
        .calls
        .into_iter()
        .map(|call| ToolCall {
            id: call.id,
            class: "function",
            function: FunctionCall { name: call.name, arguments: call.arguments },
        })
        .collect();
    let content = (!content.is_empty() || tool_calls.is_empty()).then_some(content);
    let function_call = if options.calls_are_function_calls { tool_calls.pop() } else { None };
    ChatChoice {
        index: choice.index,
        message: ChatMessage {
            role: "assistant",
            content,
            refusal: None,
            annotations: [],
            reasoning,
            reasoning_content,
            tool_calls,
            function_call: function_call.map(|call| call.function),
        },
        logprobs: choice.logprobs.map(|tokens| chat_logprobs(&tokens, options.tokens_as_token_ids)),
        finish_reason: chat_finish_reason(head, choice.reason),
        stop_reason: stop_reason(choice.stop),
        token_ids: options.return_token_ids.then_some(choice.token_ids),
    }
}

/// Makes chunks of a chat answer.
pub struct ChatChunks {
    head: Head,
    num_choices: u32,
    logprobs: bool,
    /// Filled in by `started`; no chunk is made before.
    model: String,
    fingerprint: String,
    /// So far, for `continuous_usage_stats`.
    counts: Usage,
    num_ended: usize,
    /// With `continuous_usage_stats`, the end of the last choice until the final counts are known: no piece tells a token
    /// that ends an answer without a text.
    held: Option<ChatChunkChoice>,
}

impl ChatChunks {
    /// Chunks for that many choices.
    pub fn new(head: Head, num_choices: u32, logprobs: bool) -> Self {
        Self {
            head,
            num_choices,
            logprobs,
            model: String::new(),
            fingerprint: String::new(),
            counts: Usage::default(),
            num_ended: 0,
            held: None,
        }
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>) -> ChatChunk {
        let options = self.head.options.stream.unwrap_or_default();
        let usage = match (options.continuous_usage_stats, options.include_usage) {
            (true, _) => Some(Some(usage(&self.counts))),
            (false, true) => Some(None),
            (false, false) => None,
        };
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.model.clone(),
            service_tier: self.head.options.echo_service_tier.then_some(SERVICE_TIER),
            system_fingerprint: self.fingerprint.clone(),
            choices,
            usage,
            prompt_token_ids: None,
            prompt_text: None,
        }
    }

    fn call_delta(&self, index: u32, begin: Option<(String, String)>, arguments: String) -> ChatDelta {
        let class = begin.is_some().then_some("function");
        let (id, name) = begin.unzip();
        let function = FunctionDelta { name, arguments };
        if self.head.options.calls_are_function_calls {
            return ChatDelta { function_call: Some(function), ..ChatDelta::default() };
        }
        ChatDelta { tool_calls: vec![ToolCallDelta { index, id, class, function }], ..ChatDelta::default() }
    }

    fn choice(&self, index: u32, delta: ChatDelta) -> ChatChunkChoice {
        ChatChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        }
    }
}

impl Chunks for ChatChunks {
    type Chunk = ChatChunk;

    fn started(&mut self, _source: usize, started: Started) -> Vec<ChatChunk> {
        self.model = self.head.model(&started.model);
        self.fingerprint = fingerprint(&started.model);
        self.counts.prompt_tokens = started.prompt_token_ids.len() as u64;
        let mut chunks = Vec::new();
        for index in 0..self.num_choices {
            let delta =
                ChatDelta { role: Some("assistant"), content: Some(String::new()), ..ChatDelta::default() };
            chunks.push(self.chunk(vec![self.choice(index, delta)]));
            if let Some(text) = &self.head.options.echo_text {
                let delta = ChatDelta { content: Some(text.clone()), ..ChatDelta::default() };
                chunks.push(self.chunk(vec![self.choice(index, delta)]));
            }
        }
        chunks[0].prompt_text = started.prompt_text.filter(|_| self.head.options.return_prompt_text);
        if self.head.options.return_token_ids {
            chunks[0].prompt_token_ids = Some(started.prompt_token_ids);
        }
        chunks
    }

    fn piece(&mut self, _source: usize, piece: Piece) -> Vec<ChatChunk> {
        self.counts.completion_tokens += piece.token_ids.len() as u64;
        let hidden = self.head.options.hide_reasoning;
        let adds_text = !piece.delta.is_empty();
        let delta = match piece.delta {
            Delta::Reasoning(_) if hidden => return Vec::new(),
            Delta::Text(text) => ChatDelta { content: Some(text), ..ChatDelta::default() },
            Delta::Reasoning(text) => {
                let (reasoning, reasoning_content) = self.head.options.reasoning_fields.of(Some(text));
                ChatDelta { reasoning, reasoning_content, ..ChatDelta::default() }
            }
            Delta::ToolCall { index, id, name } => self.call_delta(index, Some((id, name)), String::new()),
            Delta::ToolArguments { index, fragment } => self.call_delta(index, None, fragment),
        };
        let return_token_ids = self.head.options.return_token_ids;
        let adds_ids = return_token_ids && !piece.token_ids.is_empty();
        if !adds_text && !adds_ids && piece.logprobs.is_empty() {
            return Vec::new();
        }
        let mut choice = self.choice(piece.choice, delta);
        if self.logprobs {
            choice.logprobs = Some(chat_logprobs(&piece.logprobs, self.head.options.tokens_as_token_ids));
        }
        choice.token_ids = return_token_ids.then_some(piece.token_ids);
        vec![self.chunk(vec![choice])]
    }

    fn ended(
        &mut self,
        _source: usize,
        choice: u32,
        reason: FinishReason,
        stop: Option<StopCause>,
    ) -> Vec<ChatChunk> {
        let mut last = self.choice(choice, ChatDelta::default());
        last.finish_reason = Some(chat_finish_reason(&self.head, reason));
        last.stop_reason = Some(stop_reason(stop));
        self.num_ended += 1;
        let is_last = self.num_ended == self.num_choices as usize;
        if is_last && self.head.options.stream.unwrap_or_default().continuous_usage_stats {
            self.held = Some(last);
            return Vec::new();
        }
        vec![self.chunk(vec![last])]
    }

    fn finished(&mut self, counts: Usage) -> Vec<ChatChunk> {
        self.counts = counts;
        let held = self.held.take();
        let mut chunks: Vec<ChatChunk> = held.into_iter().map(|last| self.chunk(vec![last])).collect();
        if self.head.options.stream.unwrap_or_default().include_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk.usage = Some(Some(usage(&counts)));
            chunks.push(chunk);
        }
        chunks
    }
}

fn chat_finish_reason(head: &Head, reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::ToolCalls if head.options.calls_are_function_calls => "function_call",
        reason => finish_reason(reason),
    }
}
