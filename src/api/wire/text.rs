//! Answers of `/tokenize` and `/detokenize`.

use serde::Serialize;

/// What `/tokenize` answers, in vLLM's shape.
#[derive(Debug, Clone, Serialize)]
pub struct Tokenized {
    /// How many tokens there are.
    pub count: usize,
    /// Longest context of the model.
    pub max_model_len: u64,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// How the vocabulary spells them, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// One token of what `/tokenize` answers in TEI's shape.
#[derive(Debug, Clone, Serialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// What stands there.
    pub text: String,
    /// Whether the tokenizer added it.
    pub special: bool,
    /// Where it begins, in characters; null for one that was added.
    pub start: Option<usize>,
    /// Where it ends.
    pub stop: Option<usize>,
}

/// What `/detokenize` answers.
#[derive(Debug, Clone, Serialize)]
pub struct Detokenized {
    /// The text.
    pub prompt: String,
}
