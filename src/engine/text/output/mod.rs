//! From tokens to what clients are told: detokenizer → stop strings → reasoning → tool calls.
//!
//! Each stage takes text in pieces of any size and hands on what is certain. None looks at where the pieces were cut, so
//! an answer told in pieces and an answer told at once are the same to the byte.
//!
//! How models mark reasoning and calls is a file for each family; [`choice`] says which file reads which model. The marks
//! of those that were chosen reach the parser also where they are special tokens and special tokens are skipped, and are
//! told only where they turn out to mark nothing.

mod calls;
mod choice;
mod deepseek;
mod fields;
mod gemma;
mod glm;
mod harmony;
mod hermes;
mod json_call;
mod json_scan;
mod json_text;
mod literal;
mod llama;
mod mistral;
mod number;
mod phi;
mod pythonic;
mod qwen_xml;
mod reader;
mod reasoning;
mod response;
mod schema;
#[cfg(test)]
mod tests;
mod trial;

use std::sync::Arc;

use candlewick_protocol::Delta;
use serde_json::Value;

pub use self::choice::tool_call_parsers;
pub(crate) use self::choice::{ReasoningMarks, ReasoningSyntax, Signs, ToolSyntax};
pub(crate) use self::reasoning::Tags;
pub(crate) use self::response::ResponseTemplate;
pub use self::trial::{read_with_parser, read_with_template};

use self::calls::Calls;
use self::reader::{Parser, Reader};
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
    /// The request's tools, as the template is given them: by their schemas values are typed that a model writes as
    /// plain text.
    pub tools: Arc<[Value]>,
    /// Names of the tools that may be called, if the request lets not all of them be called; a call of another is text.
    pub allowed_tools: Option<Arc<[String]>>,
    /// Of a model with a response template: what of the prompt belongs to the message that is answered.
    pub prompt_tail: Option<Arc<str>>,
    /// The request forced the call of one function: as with OpenAI, making it is an ordinary end of the answer.
    pub is_call_forced: bool,
}

/// What one token brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutputStep {
    /// What can be told now, in order. Text that might still become a stop string or a tag is held back.
    pub deltas: Vec<Delta>,
    /// The stop string that is complete now: the choice ends here.
    pub stopped: Option<String>,
}

/// Turns one choice's tokens into pieces, one token at a time: text that never splits a character, stop strings matched
/// across token borders and cut, reasoning and tool calls told apart.
pub struct OutputStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    /// `None`: all of it is text.
    parser: Option<Parser>,
    num_reasoning_tokens: u64,
    /// Tokens that are still to come before stop strings count.
    num_unstoppable: u32,
    is_stopped: bool,
}

impl OutputStream {
    /// For one choice. The processor is shared.
    pub fn new(processor: Arc<TextProcessor>, prompt: &PreparedPrompt, params: &SamplingParams) -> Self {
        let format = &prompt.output;
        let reasoning = processor.reasoning_syntax.filter(|_| format.parse_reasoning);
        let tools = format.parse_tool_calls.then(|| processor.tool_syntax.unwrap_or(ToolSyntax::FALLBACK));
        let mut marks = reasoning.map_or_else(Vec::new, ReasoningSyntax::marks);
        marks.extend(tools.into_iter().flat_map(ToolSyntax::marks));
        let mut shown: Vec<u32> = marks.into_iter().filter_map(|mark| processor.tokenizer.id(mark)).collect();
        let mut parser = parser(reasoning, tools, format);
        if let (Some(template), Some(tail)) = (&processor.response_template, &format.prompt_tail) {
            shown.clone_from(&processor.response_marks);
            parser = Some(response_parser(template, tail, format));
        }
        Self {
            detokenizer: Detokenizer::new(processor, params, shown),
            stop: StopMatcher::new(&params.stop, params.include_stop_str_in_output),
            parser,
            num_reasoning_tokens: 0,
            num_unstoppable: params.min_tokens,
            is_stopped: false,
        }
    }

    /// Takes the next token. Nothing more is told after a stop string; in the first `min_tokens` none is looked for.
    pub fn push(&mut self, token_id: u32) -> OutputStep {
        if self.is_stopped {
            return OutputStep::default();
        }
        let was_reasoning = self.is_reasoning();
        let text = self.detokenizer.push(token_id);
        let (text, stopped) = match self.num_unstoppable {
            0 => self.stop.push(text),
            _ => (text, None),
        };
        self.num_unstoppable = self.num_unstoppable.saturating_sub(1);
        let mut deltas = Deltas::default();
        self.read(&text, &mut deltas);
        if stopped.is_some() {
            self.is_stopped = true;
            if let Some(parser) = &mut self.parser {
                deltas.extend(parser.finish());
            }
        }
        if was_reasoning && self.is_reasoning() {
            self.num_reasoning_tokens += 1;
        }
        OutputStep { deltas: deltas.0, stopped }
    }

    /// There are no more tokens: what was held back is told. To be called once.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Deltas::default();
        if self.is_stopped {
            return deltas.0;
        }
        let text = self.detokenizer.finish();
        let (text, _) = self.stop.push(text);
        self.read(&text, &mut deltas);
        let text = self.stop.finish();
        self.read(&text, &mut deltas);
        if let Some(parser) = &mut self.parser {
            deltas.extend(parser.finish());
        }
        deltas.0
    }

    /// Whether a tool was called: a call is told as soon as its name is known, and complete at the latest when the
    /// output ends.
    pub fn has_tool_calls(&self) -> bool {
        self.parser.as_ref().is_some_and(|parser| parser.num_calls() > 0)
    }

    /// Tokens so far that were reasoning; the tags around it are not counted.
    pub fn num_reasoning_tokens(&self) -> u64 {
        self.num_reasoning_tokens
    }

    fn is_reasoning(&self) -> bool {
        self.parser.as_ref().is_some_and(Parser::is_reasoning)
    }

    fn read(&mut self, text: &str, deltas: &mut Deltas) {
        if text.is_empty() {
            return;
        }
        match &mut self.parser {
            Some(parser) => deltas.extend(parser.push(text)),
            None => deltas.push(Delta::Text(text.into())),
        }
    }
}

/// What reads a choice's text, if anything has to.
fn parser(
    reasoning: Option<ReasoningSyntax>,
    tools: Option<ToolSyntax>,
    format: &OutputFormat,
) -> Option<Parser> {
    if reasoning.is_none() && tools.is_none() {
        return None;
    }
    let calls = Calls::new(format.call_id_seed, format.only_first_tool_call);
    let starts_inside = format.starts_in_reasoning;
    Some(Parser::new(calls, format, async move |reader: Reader| {
        read_output(&reader, reasoning, tools, starts_inside).await;
    }))
}

/// What reads a choice's text as a response template says.
fn response_parser(template: &Arc<ResponseTemplate>, tail: &str, format: &OutputFormat) -> Parser {
    let calls = Calls::new(format.call_id_seed, format.only_first_tool_call);
    let (template, has_tools) = (Arc::clone(template), format.parse_tool_calls);
    let mut parser = Parser::new(calls, format, async move |reader: Reader| {
        response::read(&reader, &template, has_tools).await;
    });
    parser.read_prompt(tail);
    parser
}

async fn read_output(
    reader: &Reader,
    reasoning: Option<ReasoningSyntax>,
    tools: Option<ToolSyntax>,
    starts_inside: bool,
) {
    match reasoning {
        Some(ReasoningSyntax::Harmony) => {
            return harmony::read(reader, tools == Some(ToolSyntax::Harmony)).await;
        }
        Some(ReasoningSyntax::Tags(tags)) => reasoning::read(reader, tags, starts_inside).await,
        None => {}
    }
    match tools {
        Some(ToolSyntax::Hermes) => hermes::read(reader).await,
        Some(ToolSyntax::QwenXml) => qwen_xml::read(reader).await,
        Some(ToolSyntax::LlamaJson) => llama::read(reader).await,
        Some(ToolSyntax::Pythonic) => pythonic::read(reader).await,
        Some(ToolSyntax::Mistral) => mistral::read(reader).await,
        Some(ToolSyntax::Gemma) => gemma::read(reader).await,
        Some(ToolSyntax::Harmony) => harmony::read(reader, true).await,
        Some(ToolSyntax::DeepSeek) => deepseek::read(reader).await,
        Some(ToolSyntax::Glm) => glm::read(reader).await,
        Some(ToolSyntax::Phi) => phi::read(reader).await,
        None => reader.rest().await,
    }
}

/// Deltas in order: none is empty, and neighbours of one kind are one.
#[derive(Debug, Default)]
struct Deltas(Vec<Delta>);

impl Deltas {
    fn extend(&mut self, more: Self) {
        more.0.into_iter().for_each(|delta| self.push(delta));
    }

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
