//! Loading a model, seen from outside: stages, progress, what is there.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// The stages of a load, in their order. A stage may be skipped: nothing is downloaded that is already here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// Finding the snapshot; tokenizer and chat template.
    Processor,
    /// The model's configuration: is this a family we have?
    Config,
    /// Fetching the weights, in bytes.
    Download,
    /// Reading the weights into memory, in tensors.
    Weights,
}

/// What a progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressUnit {
    /// Bytes of a download.
    Bytes,
    /// Tensors of a checkpoint.
    Tensors,
}

/// How far a stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done so far.
    pub current: u64,
    /// All there is to do, once that is known.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: ProgressUnit,
}

/// What a subscriber of a load is told.
///
/// Grammar: `Loading* (Ready | Failed)`. A late subscriber first gets the stages already passed, one event each at their
/// final value. A model that is already there answers with `Ready { cached: true }` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadEvent {
    /// The load has come this far.
    Loading {
        /// Canonical id of the model.
        model: String,
        /// Where in the load we are.
        stage: LoadStage,
        /// How far within the stage; `None` for stages that are not counted.
        progress: Option<Progress>,
    },
    /// The model answers requests.
    Ready {
        /// Canonical id of the model.
        model: String,
        /// It was loaded before this subscriber asked.
        cached: bool,
    },
    /// The load has failed.
    Failed {
        /// Canonical id of the model.
        model: String,
        /// Why.
        failure: Failure,
    },
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelStatus {
    /// In memory, answering.
    Loaded,
    /// On its way into memory.
    Loading,
    /// On disk; the first request loads it.
    Available,
    /// It crashed too often and was given up.
    Failed,
}

/// A model as `/v1/models` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The id to use in requests: `repo`, or `repo@revision` for anything but `main`, with `:file` for a GGUF file.
    pub id: String,
    /// The model that answers to it, where the id is another name for one.
    pub alias_of: Option<String>,
    /// When the model was last modified, in seconds since 1970.
    pub created: u64,
    /// The part of the repository's name before the `/`; empty if there is none.
    pub owned_by: String,
    /// Where it stands.
    pub status: ModelStatus,
    /// Longest context in tokens, once known.
    pub max_model_len: Option<u64>,
    /// The commit or other immutable name of the snapshot, if known.
    pub revision: Option<String>,
}

/// How the server is, for `/ready` and people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Whether requests are welcome: the pinned model, if any, is loaded, and the server is not draining.
    pub ready: bool,
    /// Why not, if not.
    pub reason: Option<String>,
    /// Models in memory or on their way, by canonical id.
    pub models: Vec<(String, ModelStatus)>,
}
