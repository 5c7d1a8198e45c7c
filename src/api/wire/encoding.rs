//! Answers of the routes that encode texts.

use serde::Serialize;

/// `list` of what came of each text: `/v1/embeddings`, `/pooling`, `/classify` and `/score`.
#[derive(Debug, Clone, Serialize)]
pub struct EncodedList<T> {
    /// Of the request.
    pub id: String,
    /// `list`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// One for each text, in their order.
    pub data: Vec<T>,
    /// The model as the client named it.
    pub model: String,
    /// Token counts.
    pub usage: EncodeUsage,
}

/// Token counts. Nothing is generated.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct EncodeUsage {
    /// Tokens of all texts.
    pub prompt_tokens: u64,
    /// The same.
    pub total_tokens: u64,
}

/// The vector of one text.
#[derive(Debug, Clone, Serialize)]
pub struct Embedding {
    /// `embedding`.
    pub object: &'static str,
    /// Which text.
    pub index: usize,
    /// Its elements.
    pub embedding: Numbers,
}

/// What was pooled of one text.
#[derive(Debug, Clone, Serialize)]
pub struct Pooled {
    /// `pooling`.
    pub object: &'static str,
    /// Which text.
    pub index: usize,
    /// The numbers.
    pub data: Numbers,
}

/// Numbers in one of three forms.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Numbers {
    /// A list.
    Row(Vec<f32>),
    /// A list of lists: one for each token.
    Rows(Vec<Vec<f32>>),
    /// Base64 of 32 bits each.
    Base64(String),
}

/// What one text is.
#[derive(Debug, Clone, Serialize)]
pub struct Classified {
    /// Which text.
    pub index: usize,
    /// The likeliest label.
    pub label: String,
    /// How likely each is, by index.
    pub probs: Vec<f32>,
    /// Labels there are.
    pub num_classes: usize,
}

/// How well one pair matches.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// Which pair.
    pub index: usize,
    /// `score`.
    pub object: &'static str,
    /// The higher, the better.
    pub score: f32,
}

/// A label and how likely it is, in text-embeddings-inference's shape.
#[derive(Debug, Clone, Serialize)]
pub struct LabelScore {
    /// How likely.
    pub score: f32,
    /// The label.
    pub label: String,
}

/// A text and how well it answers, in text-embeddings-inference's shape.
#[derive(Debug, Clone, Serialize)]
pub struct TextScore {
    /// Which of those that were sent.
    pub index: usize,
    /// The higher, the better.
    pub score: f32,
    /// What it says, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Documents, best first.
#[derive(Debug, Clone, Serialize)]
pub struct Ranking {
    /// Of the request.
    pub id: String,
    /// The model as the client named it.
    pub model: String,
    /// Token counts.
    pub usage: EncodeUsage,
    /// The best.
    pub results: Vec<Ranked>,
    /// What Cohere's clients read; only on `/v2/rerank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<RankingMeta>,
}

/// One document.
#[derive(Debug, Clone, Serialize)]
pub struct Ranked {
    /// Which of those that were sent.
    pub index: usize,
    /// What it says, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Document>,
    /// The higher, the better.
    pub relevance_score: f32,
}

/// A document as it was sent.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Its text.
    pub text: String,
}

/// `meta` of Cohere.
#[derive(Debug, Clone, Serialize)]
pub struct RankingMeta {
    /// Of the API.
    pub api_version: ApiVersion,
    /// What Cohere would ask money for.
    pub billed_units: BilledUnits,
}

/// `meta.api_version`.
#[derive(Debug, Clone, Serialize)]
pub struct ApiVersion {
    /// `2`.
    pub version: &'static str,
}

/// `meta.billed_units`.
#[derive(Debug, Clone, Serialize)]
pub struct BilledUnits {
    /// One search.
    pub search_units: u64,
}
