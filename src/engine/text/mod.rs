//! Between token ids and text: tokenizer, chat template, incremental detokenisation, stop strings, output parsers.

use std::sync::Arc;

use candlewick_protocol::{Delta, Failure, Prompt, TokenLogprob};
use serde_json::{Map, Value};

use crate::{GenerationDefaults, LoadError, ModelFiles, SamplingParams, TokenScore};

/// All that a model needs to read and write text. Made once at load, shared by its requests.
pub struct TextProcessor {}

/// How to make a text processor, beside what the repository says.
#[derive(Debug, Clone, Default)]
pub struct TextOptions {
    /// A chat template in place of the repository's: its text.
    pub chat_template: Option<String>,
    /// Defaults for the template's variables, under the request's.
    pub template_kwargs: Map<String, Value>,
}

/// A prompt as the model sees it, and what its output will need.
pub struct PreparedPrompt {
    /// Token ids, at least one.
    pub token_ids: Arc<[u32]>,
    /// The prompt's text, for `echo`.
    pub text: String,
    /// How the output begins: what parsers must know of the prompt (an opened `<think>`, whether tools may be called).
    pub output: OutputFormat,
}

/// How a model's output is to be read.
#[derive(Debug, Clone, Default)]
pub struct OutputFormat {
    /// Reasoning marks to look for; `None` leaves the text as it is (completions).
    pub parse_reasoning: bool,
    /// The prompt ends inside an open reasoning block.
    pub starts_in_reasoning: bool,
    /// Look for tool calls.
    pub parse_tool_calls: bool,
}

/// Turns one choice's tokens into pieces, one token at a time: text that never splits a character, stop strings matched
/// across token borders and cut, reasoning and tool calls told apart.
pub struct OutputStream {}

/// What one token brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutputStep {
    /// What can be told now, in order. Text that might still become a stop string or a tag is held back.
    pub deltas: Vec<Delta>,
    /// The stop string that is complete now: the choice ends here.
    pub stopped: Option<String>,
}

impl TextProcessor {
    /// Reads tokenizer, template and generation defaults. Blocks.
    pub fn load(_files: &ModelFiles, _options: &TextOptions) -> Result<Self, LoadError> {
        todo!()
    }

    /// Defaults under a request's sampling options.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        todo!()
    }

    /// Number of token ids that the tokenizer knows, added ones included.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }

    /// Renders and tokenises a prompt. Blocks for as long as the text is long; the failure names the field at fault.
    pub fn prepare(&self, _prompt: &Prompt) -> Result<PreparedPrompt, Failure> {
        todo!()
    }

    /// A token's text and bytes beside its score, as clients are told.
    pub fn token_logprob(&self, _token_id: u32, _score: Option<&TokenScore>) -> TokenLogprob {
        todo!()
    }
}

impl OutputStream {
    /// For one choice. The processor is shared.
    pub fn new(_processor: Arc<TextProcessor>, _prompt: &PreparedPrompt, _params: &SamplingParams) -> Self {
        todo!()
    }

    /// Takes the next token.
    pub fn push(&mut self, _token_id: u32) -> OutputStep {
        todo!()
    }

    /// There are no more tokens: what was held back is told.
    pub fn finish(&mut self) -> Vec<Delta> {
        todo!()
    }

    /// Whether a tool call was completed.
    pub fn has_tool_calls(&self) -> bool {
        todo!()
    }

    /// Tokens so far that were reasoning.
    pub fn num_reasoning_tokens(&self) -> u64 {
        todo!()
    }
}
