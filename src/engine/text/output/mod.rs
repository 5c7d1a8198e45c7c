//! From tokens to what clients are told: detokenizer → stop strings → reasoning → tool calls.
//!
//! Each stage takes text in pieces of any size and hands on what is certain. None looks at where the pieces were cut, so
//! an answer told in pieces and an answer told at once are the same to the byte.

mod hermes;
mod json_scan;
mod reasoning;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candlewick_protocol::Delta;

use self::hermes::HermesParser;
use self::reasoning::{ReasoningParser, Segment};
use super::detokenizer::Detokenizer;
use super::stop::StopMatcher;
use super::{PreparedPrompt, TextProcessor};
use crate::SamplingParams;

/// How a model's output is to be read.
#[derive(Debug, Clone, Default)]
pub struct OutputFormat {
    /// Reasoning marks to look for; `false` leaves the text as it is (completions).
    pub parse_reasoning: bool,
    /// The prompt ends inside an open reasoning block.
    pub starts_in_reasoning: bool,
    /// Look for tool calls.
    pub parse_tool_calls: bool,
    /// Tell only the first tool call: the request forbids parallel ones.
    pub only_first_tool_call: bool,
    /// Ids of tool calls are derived from this and from the call's index, so that a choice that is read again after a
    /// crash names its calls as before. To be drawn at random for each choice of each request.
    pub call_id_seed: u64,
}

/// What one token brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutputStep {
    /// What can be told now, in order. Text that might still become a stop string or a tag is held back.
    pub deltas: Vec<Delta>,
    /// The stop string that is complete now: the choice ends here.
    pub stopped: Option<String>,
}

/// The markup in which a model calls tools. One variant and one parser for each family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolSyntax {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, SmolLM 3.
    Hermes,
}

impl ToolSyntax {
    /// The text that opens a call, by which a model's template or vocabulary shows that it knows this syntax.
    pub(crate) const fn opening(self) -> &'static str {
        match self {
            Self::Hermes => hermes::OPEN,
        }
    }

    /// Tokens that the parser has to see even where special tokens are skipped.
    fn tags(self) -> [&'static str; 2] {
        match self {
            Self::Hermes => [hermes::OPEN, hermes::CLOSE],
        }
    }
}

/// The tag before reasoning.
pub(crate) const THINK_OPEN: &str = reasoning::OPEN;

/// The tag after reasoning.
pub(crate) const THINK_CLOSE: &str = reasoning::CLOSE;

/// Turns one choice's tokens into pieces, one token at a time: text that never splits a character, stop strings matched
/// across token borders and cut, reasoning and tool calls told apart.
pub struct OutputStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    reasoning: Option<ReasoningParser>,
    tools: Option<HermesParser>,
    num_reasoning_tokens: u64,
    is_stopped: bool,
}

impl OutputStream {
    /// For one choice. The processor is shared.
    pub fn new(processor: Arc<TextProcessor>, prompt: &PreparedPrompt, params: &SamplingParams) -> Self {
        let format = &prompt.output;
        let syntax = processor.tool_syntax.filter(|_| format.parse_tool_calls);
        let mut tags = Vec::new();
        if format.parse_reasoning {
            tags.extend([THINK_OPEN, THINK_CLOSE]);
        }
        tags.extend(syntax.into_iter().flat_map(ToolSyntax::tags));
        let shown = tags.into_iter().filter_map(|tag| processor.tokenizer.id(tag)).collect();
        Self {
            detokenizer: Detokenizer::new(processor, params.skip_special_tokens, shown),
            stop: StopMatcher::new(&params.stop, params.include_stop_str_in_output),
            reasoning: format.parse_reasoning.then(|| ReasoningParser::new(format.starts_in_reasoning)),
            tools: syntax.map(|ToolSyntax::Hermes| {
                HermesParser::new(format.call_id_seed, format.only_first_tool_call)
            }),
            num_reasoning_tokens: 0,
            is_stopped: false,
        }
    }

    /// Takes the next token. Nothing more is told after a stop string.
    pub fn push(&mut self, token_id: u32) -> OutputStep {
        if self.is_stopped {
            return OutputStep::default();
        }
        let was_reasoning = self.is_reasoning();
        let text = self.detokenizer.push(token_id);
        let (text, stopped) = self.stop.push(text);
        let mut deltas = Deltas::default();
        self.read(&text, &mut deltas);
        self.is_stopped = stopped.is_some();
        if was_reasoning && self.is_reasoning() {
            self.num_reasoning_tokens += 1;
        }
        OutputStep { deltas: deltas.0, stopped }
    }

    /// There are no more tokens: what was held back is told. To be called once.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Deltas::default();
        if !self.is_stopped {
            let text = self.detokenizer.finish();
            let (text, _) = self.stop.push(text);
            self.read(&text, &mut deltas);
            let text = self.stop.finish();
            self.read(&text, &mut deltas);
        }
        if let Some(segment) = self.reasoning.as_mut().and_then(ReasoningParser::finish) {
            self.tell(segment, &mut deltas);
        }
        if let Some(tools) = &mut self.tools {
            tools.finish(&mut deltas);
        }
        deltas.0
    }

    /// Whether a tool was called: a call is told as soon as its name is known, and complete at the latest when the
    /// output ends.
    pub fn has_tool_calls(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| tools.num_calls() > 0)
    }

    /// Tokens so far that were reasoning; the tags around it are not counted.
    pub fn num_reasoning_tokens(&self) -> u64 {
        self.num_reasoning_tokens
    }

    fn is_reasoning(&self) -> bool {
        self.reasoning.as_ref().is_some_and(ReasoningParser::is_inside)
    }

    fn read(&mut self, text: &str, deltas: &mut Deltas) {
        if text.is_empty() {
            return;
        }
        match &mut self.reasoning {
            Some(reasoning) => {
                for segment in reasoning.push(text) {
                    self.tell(segment, deltas);
                }
            }
            None => self.tell(Segment::Answer(text.to_owned()), deltas),
        }
    }

    fn tell(&mut self, segment: Segment, deltas: &mut Deltas) {
        match (segment, &mut self.tools) {
            (Segment::Reasoning(text), _) => deltas.push(Delta::Reasoning(text)),
            (Segment::Answer(text), Some(tools)) => tools.push(&text, deltas),
            (Segment::Answer(text), None) => deltas.push(Delta::Text(text)),
        }
    }
}

/// Deltas in order: none is empty, and neighbours of one kind are one.
#[derive(Debug, Default)]
struct Deltas(Vec<Delta>);

impl Deltas {
    fn push(&mut self, delta: Delta) {
        if delta.is_empty() {
            return;
        }
        match (self.0.last_mut(), delta) {
            (Some(Delta::Text(old)), Delta::Text(new))
            | (Some(Delta::Reasoning(old)), Delta::Reasoning(new)) => old.push_str(&new),
            (
                Some(Delta::ToolArguments { index, fragment }),
                Delta::ToolArguments { index: same, fragment: new },
            ) if *index == same => {
                fragment.push_str(&new);
            }
            (_, delta) => self.0.push(delta),
        }
    }
}

/// How many bytes at the end of `text` may be the beginning of `tag`, short of all of it.
fn partial_tag(text: &str, tag: &str) -> usize {
    let longest = tag.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|len| text.as_bytes().ends_with(&tag.as_bytes()[..*len])).unwrap_or(0)
}
