//! `/v1/models` and what loads and unloads them.

use serde::Serialize;

/// `list` of models.
#[derive(Debug, Clone, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models, by id.
    pub data: Vec<Model>,
}

/// A model.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// The name to use in requests.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When it was last modified, in seconds since 1970.
    pub created: u64,
    /// The part of its name before the `/`.
    pub owned_by: String,
    /// The model that answers: itself, or what it is another name for.
    pub root: String,
    /// The base model of an adapter.
    pub parent: Option<String>,
    /// Longest context in tokens, once known.
    pub max_model_len: Option<u64>,
    /// The same, under the name that inference providers use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// `loaded`, `loading`, `available` or `failed`.
    pub status: &'static str,
    /// The commit, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Kept for clients that read it.
    pub permission: [(); 0],
}

/// Answer of `/v1/models/load`.
#[derive(Debug, Clone, Serialize)]
pub struct Loaded {
    /// The model as the client named it.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// `loaded` or `loading`.
    pub status: &'static str,
    /// How long this call waited for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_time_ms: Option<u64>,
}

/// Answer of `/v1/models/unload`.
#[derive(Debug, Clone, Serialize)]
pub struct Unloaded {
    /// The model as the client named it.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// `unloaded`.
    pub status: &'static str,
}

/// One frame of `/load_model`, key for key as `transformers serve` sends it.
#[derive(Debug, Clone, Serialize)]
pub struct LoadFrame {
    /// `loading`, `ready` or `error`.
    pub status: &'static str,
    /// Canonical id of the model.
    pub model: String,
    /// Of `loading`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<&'static str>,
    /// Of `loading`, in the stages that are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<LoadProgress>,
    /// Of `ready`: it was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<bool>,
    /// Of `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a stage has come: bytes of a download, tensors of weights.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LoadProgress {
    /// Done so far.
    pub current: u64,
    /// All there is, once known.
    pub total: Option<u64>,
}
