//! What the text of an answer is held to: a form that every token must keep to, guaranteed by a grammar.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A form for the answer, and where the request asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    /// The form.
    pub form: OutputForm,
    /// The request field that holds it, as a dotted path: what is told where it cannot be kept to.
    pub param: String,
}

/// A form of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputForm {
    /// JSON that a schema describes.
    Json {
        /// The JSON Schema.
        schema: Value,
        /// How it is laid out.
        layout: JsonLayout,
    },
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar, in the notation of Lark or in the EBNF of GGML.
    Grammar(String),
    /// Free text, in which a trigger begins a structure that is then kept to.
    StructuralTag {
        /// What begins a structure, each the beginning of the structures that it triggers.
        triggers: Vec<String>,
        /// The structures.
        structures: Vec<TaggedStructure>,
    },
}

/// A piece of JSON between two marks, in free text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaggedStructure {
    /// The mark before it.
    pub begin: String,
    /// The JSON Schema of what stands between.
    pub schema: Value,
    /// The mark behind it.
    pub end: String,
}

/// How JSON is laid out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonLayout {
    /// White space may stand wherever JSON allows it, within bounds.
    #[default]
    Free,
    /// No white space outside of strings.
    Compact,
    /// White space that this regular expression matches may stand wherever JSON allows it.
    Pattern(String),
}

impl OutputForm {
    /// JSON of this schema, laid out freely.
    pub fn json(schema: Value) -> Self {
        Self::Json { schema, layout: JsonLayout::Free }
    }

    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::json(serde_json::json!({"type": "object"}))
    }
}
