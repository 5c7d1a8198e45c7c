//! The seam to encoders: texts as token ids go in, vectors or scores of labels come out.
//!
//! Beside generation's ([`Model`](crate::Model)), and simpler: there is no cache and nothing goes on from one pass to the
//! next. [`EncodeQueue`] decides which texts go together; [`SentenceLayout`] is what a repository says of how its tokens'
//! vectors become one.

mod job;
mod layout;
mod queue;

use std::fmt;
use std::sync::Arc;

use candlewick_protocol::{LabelActivation, RequestKey};

use crate::StepError;

pub use job::{EncodeJob, EncodeModel};
pub use layout::{DenseStep, Matryoshka, PoolMode, Pooling, SentenceLayout, SentenceStep, Similarity};
pub use queue::EncodeQueue;

/// One text of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TextId {
    /// The request it belongs to.
    pub request: RequestKey,
    /// Which of the request's texts it is.
    pub index: u32,
}

impl fmt::Display for TextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.request, self.index)
    }
}

/// A text, or a pair of them, as an encoder sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderInput {
    /// Its tokens, at least one.
    pub token_ids: Vec<u32>,
    /// The type of each (first text, second text); empty if they are all the first.
    pub type_ids: Vec<u32>,
    /// Tokens at the beginning that are an instruction, which some poolings leave out.
    pub num_prompt_tokens: usize,
}

/// What is wanted of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeTask {
    /// One vector for all of it.
    Embed {
        /// Keep so many elements from the front, and bring what is left to unit length if the model does so.
        dimensions: Option<usize>,
        /// Bring it to unit length or leave it as pooled, whatever the model says.
        normalize: Option<bool>,
    },
    /// A vector for each of its tokens, as they come out of the last layer.
    EmbedTokens {
        /// Keep so many elements of each.
        dimensions: Option<usize>,
        /// Bring each to unit length.
        normalize: bool,
    },
    /// A score for each label: of the text, or of each token where the model labels tokens. As they come out of the last
    /// layer.
    Classify,
}

/// What an encoder does in one pass.
#[derive(Debug, Clone, Default)]
pub struct EncodePlan {
    /// Texts, packed one after the other.
    pub texts: Vec<PlannedText>,
}

impl EncodePlan {
    /// Tokens of all texts.
    pub fn num_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.input.token_ids.len()).sum()
    }
}

/// A text of a plan.
#[derive(Debug, Clone)]
pub struct PlannedText {
    /// Whose text it is.
    pub id: TextId,
    /// Its tokens.
    pub input: Arc<EncoderInput>,
    /// What is wanted.
    pub task: EncodeTask,
}

/// What came of a text: `(rows, width)`, one row unless it is of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Row after row.
    pub values: Vec<f32>,
    /// Elements of a row.
    pub width: usize,
}

/// An encoder at work. It goes to a thread of its own and comes back with what it made.
///
/// Contract: what is computed for a text does not depend on the other texts of the plan.
pub trait Encoder: Send {
    /// Computes one pass; the answers are in the order of the plan's texts. After an error the encoder is dropped.
    fn encode(&mut self, plan: &EncodePlan) -> Result<Vec<Encoded>, StepError>;
}

/// What is known of an encoder once it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderInfo {
    /// What it makes of texts.
    pub ability: EncoderAbility,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// How the repository says that texts are given to it.
    pub layout: SentenceLayout,
}

/// What an encoder makes of texts.
#[derive(Debug, Clone, PartialEq)]
pub enum EncoderAbility {
    /// A vector of each.
    Embed {
        /// Its elements.
        dimensions: usize,
        /// Whether shorter ones mean something.
        matryoshka: Matryoshka,
    },
    /// A score of each label, for the text.
    Classify {
        /// Labels by index.
        labels: Vec<String>,
        /// How scores become what is told, if nobody asks for another way.
        activation: LabelActivation,
    },
    /// A score of each label, for each token.
    ClassifyTokens {
        /// Labels by index.
        labels: Vec<String>,
    },
}

impl fmt::Display for EncoderAbility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed { dimensions, .. } => {
                write!(f, "it makes vectors of {dimensions} elements of texts (/v1/embeddings)")
            }
            Self::Classify { labels, .. } if labels.len() == 1 => {
                f.write_str("it scores how well one text answers another")
            }
            Self::Classify { labels, .. } => write!(f, "it gives texts one of {} labels", labels.len()),
            Self::ClassifyTokens { labels } => {
                write!(f, "it gives the tokens of texts one of {} labels", labels.len())
            }
        }
    }
}
