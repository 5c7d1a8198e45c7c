//! Who owns what and who restarts whom.
//!
//! ```text
//! root                         one-for-one; holds no work of its own
//! └── models                   canonical id → subtree; start on demand, pin, idle unload
//!     └── model <id>           supervisor of one model; load progress; keeps the weights across batcher restarts
//!         ├── loader           lives while loading: resolve → download → tokenizer → config → weights
//!         ├── batcher          owns KV cache and scheduler; its stepper thread runs the forward pass
//!         └── request …        one per request in flight; turns news into events; owns the channel to the HTTP body
//! ```

use std::sync::Arc;
use std::time::Duration;

use candlewick_engine::text::TextOptions;
use candlewick_engine::{LoadOptions, ModelFactory, ModelSource};
use candlewick_protocol::{
    Event, Failure, GenerationRequest, LoadEvent, ModelCard, ModelRef, ServerStatus,
};
use tokio::sync::mpsc;

/// What the tree is made of: filled in by the program's root, so that no arrow points back to it.
pub struct TreeParts {
    /// Where models come from, asked in this order.
    pub sources: Vec<Arc<dyn ModelSource>>,
    /// What makes models of files.
    pub factory: Arc<dyn ModelFactory>,
    /// Limits and times.
    pub settings: TreeSettings,
}

/// Limits and times of the tree.
#[derive(Debug, Clone)]
pub struct TreeSettings {
    /// The model every request is for; others are refused.
    pub pinned: Option<ModelRef>,
    /// Unload a model that was idle this long; `None` never does. The pinned model is never unloaded for idleness.
    pub model_timeout: Option<Duration>,
    /// Most requests per model that are generating.
    pub max_running: usize,
    /// Most requests per model that wait, for the load or for a place; one more is refused.
    pub max_queued: usize,
    /// Longest context in tokens, if shorter than the model's.
    pub max_model_len: Option<usize>,
    /// Most tokens computed in one step.
    pub max_step_tokens: usize,
    /// Tokens in a block of the KV cache.
    pub block_size: usize,
    /// Bytes of KV cache per model.
    pub kv_cache_bytes: u64,
    /// Blocks of KV cache per model, in place of `kv_cache_bytes`.
    pub num_blocks: Option<usize>,
    /// Events that may wait for a slow reader before its sequence is paused.
    pub stream_capacity: usize,
    /// Seed for requests without one; `None` draws one for each.
    pub default_seed: Option<u64>,
    /// Precision of weights.
    pub load: LoadOptions,
    /// Chat template and its variables.
    pub text: TextOptions,
    /// Batcher restarts within `restart_window` after which a model is given up.
    pub max_restarts: usize,
    /// See `max_restarts`.
    pub restart_window: Duration,
    /// How long a failed load is remembered, so that waiting requests do not retry it all at once.
    pub load_failure_ttl: Duration,
}

/// The events of one request. Dropping it cancels the request.
pub struct EventStream {
    /// The bounded channel that the request's actor feeds.
    pub events: mpsc::Receiver<Event>,
}

/// All that `api` sees of the actors. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {}

impl Gateway {
    /// Grows the tree. Returns at once; the pinned model, if any, begins to load.
    pub async fn start(_parts: TreeParts) -> Result<Self, Failure> {
        todo!()
    }

    /// Admits a request, or refuses it at once: unknown or wrongly pinned model, queue full (`Overloaded` with
    /// `retry_after`), draining.
    pub async fn submit(&self, _request: GenerationRequest) -> Result<EventStream, Failure> {
        todo!()
    }

    /// Loads a model, or joins the load under way. The channel follows the grammar of [`LoadEvent`]; dropping it does not
    /// stop the load.
    pub fn load(&self, _model: ModelRef) -> mpsc::Receiver<LoadEvent> {
        todo!()
    }

    /// Unloads a model. Busy ones are a `Conflict` unless `force`, which ends their requests with an error.
    pub async fn unload(&self, _model: &ModelRef, _force: bool) -> Result<(), Failure> {
        todo!()
    }

    /// Unloads every model, the pinned one included; requests in flight end with an error.
    pub async fn reset(&self) {
        todo!()
    }

    /// The model that requests without a name are for.
    pub fn pinned(&self) -> Option<&ModelRef> {
        todo!()
    }

    /// Every model at hand, loaded or not, in order of id.
    pub async fn list(&self) -> Vec<ModelCard> {
        todo!()
    }

    /// How the server is.
    pub async fn status(&self) -> ServerStatus {
        todo!()
    }

    /// Metrics in Prometheus' text format 0.0.4.
    pub fn metrics_text(&self) -> String {
        todo!()
    }

    /// Requests in flight, over all models.
    pub fn num_in_flight(&self) -> usize {
        todo!()
    }

    /// Stops admitting, waits until requests are done or `grace` is over, ends the rest with a failure, stops the tree.
    pub async fn shutdown(&self, _grace: Duration) {
        todo!()
    }
}
