//! Questions about text that a model's tokenizer answers, with no token generated.

use serde::{Deserialize, Serialize};

use crate::{ModelRef, Prompt};

/// A question to a model's tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextRequest {
    /// The model; `None` means the pinned one.
    pub model: Option<ModelRef>,
    /// What is asked.
    pub task: TextTask,
}

/// What a tokenizer can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TextTask {
    /// The tokens of a prompt, as a generation would see it.
    Encode {
        /// The prompt: a text or a conversation.
        prompt: Prompt,
        /// Whether the tokenizer's own special tokens are added.
        add_special_tokens: bool,
    },
    /// The tokens of texts, and where each stands in its text.
    Locate {
        /// The texts.
        texts: Vec<String>,
        /// Whether the tokenizer's own special tokens are added.
        add_special_tokens: bool,
    },
    /// The text of each list of tokens.
    Decode {
        /// The lists.
        lists: Vec<Vec<u32>>,
        /// Whether special tokens are left out.
        skip_special_tokens: bool,
        /// The field that holds the lists, and whether it is a list of them: what is told where an id is wrong.
        param: String,
    },
}

/// What a tokenizer answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextAnswer {
    /// Longest context of the model, in tokens.
    pub max_model_len: u64,
    /// The answer proper.
    pub output: TextOutput,
}

/// The answer to one [`TextTask`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TextOutput {
    /// To `Encode`: ids, and the tokens as the vocabulary spells them.
    Encoded(Vec<(u32, String)>),
    /// To `Locate`, in the order of the texts.
    Located(Vec<Vec<LocatedToken>>),
    /// To `Decode`, in the order of the lists.
    Decoded(Vec<String>),
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedToken {
    /// Its id.
    pub id: u32,
    /// What stands there; of a token that the tokenizer added, its spelling.
    pub text: String,
    /// Whether the tokenizer added it.
    pub special: bool,
    /// Where it begins and ends, in characters of the text; `None` for one that was added.
    pub span: Option<(usize, usize)>,
}
