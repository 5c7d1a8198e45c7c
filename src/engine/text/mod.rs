//! Between token ids and text: tokenizer, chat template, incremental detokenisation, stop strings, output parsers.
//!
//! [`TextProcessor`] is made once for a model and shared; [`OutputStream`] is made for each choice and owns what that
//! choice's text depends on. Nothing here knows how tokens are computed.

mod constraints;
mod detokenizer;
mod encoder_input;
mod infill;
pub(crate) mod output;
pub(crate) mod pieces;
mod prompt;
mod question;
mod shorten;
mod stop;
mod template;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tokenizer;

use std::sync::Arc;

use candlewick_protocol::{Failpoints, TokenLogprob, TopLogprob};
use serde_json::{Map, Value};

pub use self::encoder_input::{SecondText, TextLimit};
pub use self::output::{
    OutputFormat, OutputStep, OutputStream, read_with_parser, read_with_template, tool_call_parsers,
};
pub use self::template::{TemplateFault, check_chat_template, render_chat_template};

use self::infill::Infill;
use self::output::{ReasoningSyntax, ResponseTemplate, Signs, ToolSyntax};
use self::template::ChatTemplates;
use self::tokenizer::ModelTokenizer;
use crate::grammar::Grammars;
use crate::{GenerationDefaults, LoadError, ModelFiles, TokenScore};

/// All that a model needs to read and write text. Made once at load, shared by its requests.
pub struct TextProcessor {
    tokenizer: Arc<ModelTokenizer>,
    pub(crate) grammars: Arc<Grammars>,
    /// What the repository says, whatever the options say over it.
    shipped: Arc<Shipped>,
    options: TextOptions,
    templates: Option<Arc<ChatTemplates>>,
    generation_defaults: GenerationDefaults,
    infill: Option<Infill>,
    /// How the model marks reasoning, if it is known to reason.
    pub(crate) reasoning_syntax: Option<ReasoningSyntax>,
    /// How the model calls tools, if it is known to.
    pub(crate) tool_syntax: Option<ToolSyntax>,
    /// How the repository says that answers are read, if it does; then they are read so.
    response_template: Option<Arc<ResponseTemplate>>,
    /// Special tokens that the response template reads.
    response_marks: Vec<u32>,
    failpoints: Failpoints,
}

/// What a repository says about text.
struct Shipped {
    model_type: Option<String>,
    templates: Option<Arc<ChatTemplates>>,
    response_template: Option<Value>,
}

/// How to make a text processor, beside what the repository says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextOptions {
    /// A chat template in place of the repository's: its text.
    pub chat_template: Option<String>,
    /// Defaults for the template's variables, under the request's.
    pub template_kwargs: Map<String, Value>,
    /// Which parser reads tool calls, by the name that vLLM gives it, in place of the one that the model's template
    /// and type show.
    pub tool_call_parser: Option<String>,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
}

/// A prompt as the model sees it, and what its output will need.
#[derive(Debug, Clone)]
pub struct PreparedPrompt {
    /// Token ids, at least one.
    pub token_ids: Arc<[u32]>,
    /// The prompt's text, for `echo`.
    pub text: String,
    /// How the output begins: what parsers must know of the prompt (an opened `<think>`, whether tools may be called).
    pub output: OutputFormat,
}

impl TextProcessor {
    /// Reads tokenizer, template and generation defaults. Blocks.
    ///
    /// # Errors
    /// A repository without `tokenizer.json` is [`LoadError::Unsupported`], and so is a tool-call parser that is not
    /// known; files that cannot be read are
    /// [`LoadError::Corrupt`] or [`LoadError::Io`]. A chat template of the repository that cannot be parsed is no error
    /// here: it fails the chats, and the model can still be given plain prompts.
    pub fn load(files: &ModelFiles, options: &TextOptions) -> Result<Self, LoadError> {
        let config = files.json("config.json")?.unwrap_or(Value::Null);
        let model_type = config["model_type"].as_str();
        let tokenizer = ModelTokenizer::load(files, model_type)?;
        let templates = match &options.chat_template {
            // What would not be used is no reason to refuse the model.
            Some(_) => ChatTemplates::load(files).ok().flatten(),
            None => ChatTemplates::load(files)?,
        };
        let shipped = Arc::new(Shipped {
            model_type: model_type.map(String::from),
            templates: templates.map(Arc::new),
            response_template: response_template(files)?,
        });
        let generation_config = files.json("generation_config.json")?;
        let mut generation_defaults = GenerationDefaults::from_json(generation_config.as_ref(), &config);
        if generation_defaults.eos_token_ids.is_empty() {
            generation_defaults.eos_token_ids.extend(tokenizer.named_id("eos_token"));
        }
        let tokenizer = Arc::new(tokenizer);
        let grammars = Arc::new(Grammars::new(tokenizer.clone()));
        Self::of(tokenizer, grammars, shipped, generation_defaults, options.clone())
    }

    /// The same by other options. Blocks, for a moment: the tokenizer is shared.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn with_options(&self, options: TextOptions) -> Result<Self, LoadError> {
        let defaults = self.generation_defaults.clone();
        Self::of(self.tokenizer.clone(), self.grammars.clone(), self.shipped.clone(), defaults, options)
    }

    /// The options that it was made by.
    pub fn options(&self) -> &TextOptions {
        &self.options
    }

    fn of(
        tokenizer: Arc<ModelTokenizer>,
        grammars: Arc<Grammars>,
        shipped: Arc<Shipped>,
        generation_defaults: GenerationDefaults,
        options: TextOptions,
    ) -> Result<Self, LoadError> {
        let templates = match &options.chat_template {
            Some(source) => Some(Arc::new(ChatTemplates::of_option(source)?)),
            None => shipped.templates.clone(),
        };
        // Without the backslashes of its patterns.
        let response_words =
            shipped.response_template.as_ref().map(|template| template.to_string().replace('\\', ""));
        let response_words = response_words.unwrap_or_default();
        let signs = Signs {
            model_type: shipped.model_type.as_deref(),
            in_template: &|text| {
                response_words.contains(text)
                    || templates.as_ref().is_some_and(|templates| templates.mention(text))
            },
            in_vocabulary: &|token| tokenizer.id(token).is_some(),
        };
        let tool_syntax = match &options.tool_call_parser {
            Some(name) => Some(ToolSyntax::named(name)?),
            None => ToolSyntax::of(&signs),
        };
        let reasoning_syntax = ReasoningSyntax::of(&signs);
        let response_template = match (&shipped.response_template, &options.tool_call_parser) {
            (Some(template), None) => match ResponseTemplate::new(template) {
                Ok(template) => Some(Arc::new(template)),
                Err(why) => {
                    tracing::warn!(
                        why,
                        "the response template cannot be used: answers are read by the model's marks"
                    );
                    None
                }
            },
            _ => None,
        };
        Ok(Self {
            response_marks: tokenizer.special_ids(|token| response_words.contains(token)),
            response_template,
            infill: Infill::of(&tokenizer),
            reasoning_syntax,
            tool_syntax,
            generation_defaults,
            grammars,
            tokenizer,
            templates,
            failpoints: options.failpoints.clone(),
            shipped,
            options,
        })
    }

    /// Defaults under a request's sampling options.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation_defaults
    }

    /// Number of token ids that the tokenizer knows, added ones included: every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// How the vocabulary of another model differs from this one, if it does. Tokens that only one has behind those of the other
    /// are no difference: tables of one family are filled up to different sizes. Blocks for a moment.
    pub fn vocabulary_difference(&self, other: &Self) -> Option<String> {
        let id = self.tokenizer.first_difference(&other.tokenizer)?;
        let spelled = |tokenizer: &ModelTokenizer| {
            tokenizer.token(id).map_or("nothing".to_owned(), |token| format!("{token:?}"))
        };
        Some(format!(
            "token {id} is {} there, and {} here",
            spelled(&other.tokenizer),
            spelled(&self.tokenizer)
        ))
    }

    /// A token's text and bytes beside its score, as clients are told.
    pub fn token_logprob(&self, token_id: u32, score: Option<&TokenScore>) -> TokenLogprob {
        let (text, bytes) = self.token_text(token_id);
        let top = score.map(|score| score.top.as_slice()).unwrap_or_default();
        TokenLogprob {
            token_id,
            text,
            bytes,
            logprob: score.map(|score| score.logprob),
            rank: score.map(|score| score.rank),
            top: top
                .iter()
                .map(|(token_id, logprob)| {
                    let (text, bytes) = self.token_text(*token_id);
                    TopLogprob { token_id: *token_id, text, bytes, logprob: *logprob }
                })
                .collect(),
        }
    }

    fn token_text(&self, token_id: u32) -> (String, Vec<u8>) {
        let bytes = self.tokenizer.token_bytes(token_id);
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    }
}

/// The response template that a tokenizer ships, if it does.
fn response_template(files: &ModelFiles) -> Result<Option<Value>, LoadError> {
    let mut config = files.json("tokenizer_config.json")?.unwrap_or_default();
    Ok(Some(config["response_template"].take()).filter(|template| !template.is_null()))
}
