//! Which parser reads a model's output: by name, or by what its repository shows.

use super::reasoning::{self, Tags};
use super::{deepseek, gemma, glm, harmony, hermes, llama, mistral, phi, pythonic, qwen_xml};
use crate::LoadError;

/// The markup in which a model calls tools. One variant and one parser for each family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolSyntax {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.
    QwenXml,
    /// `{"name": …, "parameters": {…}}`, or behind `<|python_tag|>`.
    LlamaJson,
    /// `[NAME(KEY=VALUE)]`.
    Pythonic,
    /// `[TOOL_CALLS]` and an array, or a name and `[ARGS]`.
    Mistral,
    /// `<|tool_call>call:NAME{KEY:VALUE}<tool_call|>`.
    Gemma,
    /// Messages to `functions.NAME`.
    Harmony,
    /// `<｜tool▁call▁begin｜>` … `<｜tool▁call▁end｜>`.
    DeepSeek,
    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`.
    Glm,
    /// `<|tool_call|>[…]<|/tool_call|>`, or `functools[…]`.
    Phi,
}

/// How a model's reasoning is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReasoningSyntax {
    /// Tags at the start of the output.
    Tags(Tags),
    /// A channel of its own.
    Harmony,
}

/// How the end of reasoning is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReasoningMarks {
    /// Opens it.
    pub(crate) open: &'static str,
    /// Closes it.
    pub(crate) close: &'static str,
    /// Closes it and begins the answer.
    pub(crate) to_answer: &'static str,
}

/// The names by which parsers are chosen: those of vLLM.
const NAMES: &[(&str, ToolSyntax)] = &[
    ("hermes", ToolSyntax::Hermes),
    ("qwen3_xml", ToolSyntax::QwenXml),
    ("qwen3_coder", ToolSyntax::QwenXml),
    ("llama3_json", ToolSyntax::LlamaJson),
    ("llama4_json", ToolSyntax::LlamaJson),
    ("pythonic", ToolSyntax::Pythonic),
    ("llama4_pythonic", ToolSyntax::Pythonic),
    ("lfm2", ToolSyntax::Pythonic),
    ("mistral", ToolSyntax::Mistral),
    ("gemma4", ToolSyntax::Gemma),
    ("openai", ToolSyntax::Harmony),
    ("harmony", ToolSyntax::Harmony),
    ("deepseek_v3", ToolSyntax::DeepSeek),
    ("deepseek_v31", ToolSyntax::DeepSeek),
    ("glm45", ToolSyntax::Glm),
    ("glm47", ToolSyntax::Glm),
    ("phi4_mini_json", ToolSyntax::Phi),
    ("granite", ToolSyntax::Phi),
];

/// What a chat template mentions and what that means, the most telling first: Qwen's XML and GLM's markup stand within
/// Hermes's mark.
const TEMPLATES: &[(&str, ToolSyntax)] = &[
    (harmony::CHANNEL, ToolSyntax::Harmony),
    (qwen_xml::FUNCTION, ToolSyntax::QwenXml),
    (glm::KEY, ToolSyntax::Glm),
    ("<｜tool▁calls▁begin｜>", ToolSyntax::DeepSeek),
    (gemma::OPEN, ToolSyntax::Gemma),
    ("[TOOL_CALLS]", ToolSyntax::Mistral),
    ("<|tool_call|>", ToolSyntax::Phi),
    ("functools", ToolSyntax::Phi),
    ("<|tool|>", ToolSyntax::Phi),
    (hermes::OPEN, ToolSyntax::Hermes),
    ("<|python_start|>", ToolSyntax::Pythonic),
    ("<|tool_call_start|>", ToolSyntax::Pythonic),
    ("<|tool_list_start|>", ToolSyntax::Pythonic),
    ("func_name1(", ToolSyntax::Pythonic),
    ("<|python_tag|>", ToolSyntax::LlamaJson),
    ("\"parameters\": dictionary", ToolSyntax::LlamaJson),
];

/// The `model_type` of a `config.json`, by how it begins, where the template is silent: those for which
/// transformers has a response template of its own, and families that call tools in one way.
const MODEL_TYPES: &[(&str, ToolSyntax)] = &[
    ("gpt_oss", ToolSyntax::Harmony),
    ("qwen3_5", ToolSyntax::QwenXml),
    ("qwen2", ToolSyntax::Hermes),
    ("qwen3", ToolSyntax::Hermes),
    ("gemma4", ToolSyntax::Gemma),
    ("glm4_moe", ToolSyntax::Glm),
    ("deepseek_v3", ToolSyntax::DeepSeek),
    ("llama4", ToolSyntax::Pythonic),
];

/// Tokens of the vocabulary that only such models have, where nothing else tells.
const TOKENS: &[(&str, ToolSyntax)] = &[
    (hermes::OPEN, ToolSyntax::Hermes),
    ("<｜tool▁calls▁begin｜>", ToolSyntax::DeepSeek),
    (gemma::OPEN, ToolSyntax::Gemma),
    ("[TOOL_CALLS]", ToolSyntax::Mistral),
    ("<|tool_call|>", ToolSyntax::Phi),
    ("<|python_tag|>", ToolSyntax::LlamaJson),
];

/// What a repository shows of how its model writes.
pub(crate) struct Signs<'a> {
    /// Of `config.json`.
    pub(crate) model_type: Option<&'a str>,
    /// Whether a chat template mentions a text, or the response template that transformers would parse answers with.
    pub(crate) in_template: &'a dyn Fn(&str) -> bool,
    /// Whether the vocabulary has a token.
    pub(crate) in_vocabulary: &'a dyn Fn(&str) -> bool,
}

/// The names by which parsers of tool calls are chosen.
pub fn tool_call_parsers() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

impl ToolSyntax {
    /// For a model without a markup of its own, where a call is forced.
    pub(crate) const FALLBACK: Self = Self::LlamaJson;

    /// By name.
    ///
    /// # Errors
    /// A name that is not known is [`LoadError::Unsupported`]; the message lists those that are.
    pub(crate) fn named(name: &str) -> Result<Self, LoadError> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, syntax)| *syntax).ok_or_else(|| {
            let names: Vec<&str> = tool_call_parsers().collect();
            LoadError::Unsupported(format!(
                "there is no tool-call parser `{name}`; there are {}",
                names.join(", ")
            ))
        })
    }

    /// By what the repository shows: the template's words, then the model's type, then the vocabulary.
    pub(crate) fn of(signs: &Signs<'_>) -> Option<Self> {
        let of_template = TEMPLATES.iter().find(|(text, _)| (signs.in_template)(text));
        let of_type = || {
            let kind = signs.model_type?;
            MODEL_TYPES.iter().find(|(start, _)| kind.starts_with(start))
        };
        let of_token = || TOKENS.iter().find(|(token, _)| (signs.in_vocabulary)(token));
        of_template.or_else(of_type).or_else(of_token).map(|(_, syntax)| *syntax)
    }

    /// Tokens that the parser has to see even where special tokens are skipped.
    pub(super) fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[hermes::OPEN, hermes::CLOSE],
            Self::QwenXml => qwen_xml::MARKS,
            Self::LlamaJson => llama::MARKS,
            Self::Pythonic => pythonic::MARKS,
            Self::Mistral => mistral::MARKS,
            Self::Gemma => gemma::MARKS,
            Self::Harmony => harmony::MARKS,
            Self::DeepSeek => deepseek::MARKS,
            Self::Glm => glm::MARKS,
            Self::Phi => phi::MARKS,
        }
    }
}

impl ReasoningSyntax {
    /// The marks around reasoning.
    pub(crate) fn around(self) -> ReasoningMarks {
        match self {
            Self::Tags(Tags { open, close, .. }) => ReasoningMarks { open, close, to_answer: close },
            Self::Harmony => harmony::REASONING,
        }
    }

    /// By what the repository shows.
    pub(crate) fn of(signs: &Signs<'_>) -> Option<Self> {
        let knows = |text: &str| (signs.in_vocabulary)(text) || (signs.in_template)(text);
        if knows(harmony::CHANNEL) && knows(harmony::MESSAGE) {
            return Some(Self::Harmony);
        }
        let tags = reasoning::KNOWN.iter().find(|tags| knows(tags.token) || knows(tags.close))?;
        Some(Self::Tags(*tags))
    }

    /// Tokens that the parser has to see even where special tokens are skipped.
    pub(super) fn marks(self) -> Vec<&'static str> {
        match self {
            Self::Harmony => harmony::MARKS.into(),
            Self::Tags(tags) => vec![tags.token, tags.close],
        }
    }
}
