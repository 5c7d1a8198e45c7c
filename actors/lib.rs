//! Who owns what and who restarts whom.
//!
//! ```text
//! root                         one-for-one; holds no work of its own
//! ├── settings                 watches the settings; has them checked; tells everybody what is new
//! ├── models                   canonical id → subtree; start on demand, pin, idle unload
//! │   └── model <id>           supervisor of one model; load progress; keeps the weights across batcher restarts
//! │       ├── loader           lives while loading: resolve → download → tokenizer → config → weights
//! │       ├── batcher          owns KV cache and scheduler, or the texts to encode; its stepper thread runs the forward pass
//! │       ├── request …        one per generation in flight; turns news into events; owns the channel to the HTTP body
//! │       └── encoding …       one per request to encode texts; gathers what comes of them into one answer
//! ├── jobs                     background responses: from events to the archive, whoever listens
//! └── memory watch             measures what is left, and gives up what can be given up
//! ```
//!
//! [`Gateway`] is all that other rooms see; no actor crosses it. Beside the actors stand the pure parts that decide:
//! admission, restarts, quarantine, progress, capacity, pressure, generation. What outlives an actor is shared by all of them in
//! one `Tree`. What is promised about order, cancellation and crashes is in `docs/runtime-semantics.md`.

mod admission;
mod archive;
mod batcher;
mod board;
mod capacity;
mod census;
mod deadline;
mod draft;
mod encoding;
mod gateway;
mod generation;
mod job_log;
mod jobs;
mod loader;
mod lost;
mod memory;
mod memory_watch;
mod metrics;
mod model;
mod observe;
mod outlet;
mod outlook;
mod prepare;
mod pressure;
mod progress;
mod pulse;
mod quarantine;
mod registry;
mod request;
mod responses;
mod restart;
mod root;
mod settings;
mod step_record;
mod step_times;
mod stepper;
mod submission;
mod trace;
mod tree;
mod vitals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use candlewick_engine::text::TextOptions;
use candlewick_engine::{LoadOptions, ModelFactory, ModelSource, SpeculationLimits};
use candlewick_protocol::{Event, Failpoints, ModelRef, SamplingOptions};
use tokio::sync::mpsc;

pub use archive::{Archive, ArchiveError, ArchiveSettings};
pub use gateway::Gateway;
pub use job_log::{Follower, JobLog, JobLogWriter};
pub use memory::{Memory, MemoryUse};
pub use settings::{Glance, ReloadOutcome, Reloaded, SettingsSource};
pub use trace::SPANS;

/// What the tree is made of: filled in by the program's root, so that no arrow points back to it.
pub struct TreeParts {
    /// Where models come from, asked in this order.
    pub sources: Vec<Arc<dyn ModelSource>>,
    /// What makes models of files.
    pub factory: Arc<dyn ModelFactory>,
    /// Limits and times.
    pub settings: TreeSettings,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
    /// Where responses are kept; without it nothing is stored and nothing runs in the background.
    pub archive: Option<Archive>,
    /// What the system says of memory; without it any load is tried.
    pub memory: Option<Arc<dyn Memory>>,
    /// Where changed settings come from; without it they stay as they are.
    pub settings_source: Option<Arc<dyn SettingsSource>>,
}

/// Limits and times of the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeSettings {
    /// The model every request is for; others are refused.
    pub pinned: Option<ModelRef>,
    /// Models that are loaded before anybody asks, and never unloaded for idleness.
    pub preload: Vec<ModelRef>,
    /// Other names for models: canonical id of the name → the model that requests for it are for.
    pub aliases: BTreeMap<String, ModelRef>,
    /// Defaults for sampling, over the models' own and under a request's.
    pub sampling: SamplingOptions,
    /// Unload a model that was idle this long; `None` never does. The pinned model is never unloaded for idleness.
    pub model_timeout: Option<Duration>,
    /// Most sequences per model that are generating; a request has one for each of its choices.
    pub max_running: usize,
    /// Most sequences per model that wait, for the load or for a place; one more is refused.
    pub max_queued: usize,
    /// Longest that a request may take, from when it comes in; `None` lets it take what it takes.
    pub request_timeout: Option<Duration>,
    /// Longest context in tokens, if shorter than the model's.
    pub max_model_len: Option<usize>,
    /// Most tokens computed in one step.
    pub max_step_tokens: usize,
    /// How long a step in which somebody decodes should take at most; `None` if it does not matter.
    pub max_inter_token: Option<Duration>,
    /// How what sequences say next is guessed, if it is.
    pub speculation: Option<SpeculationLimits>,
    /// Canonical id of a model → the smaller one that guesses for it, where anything is guessed.
    pub drafts: BTreeMap<String, ModelRef>,
    /// Tokens in a block of the KV cache.
    pub block_size: usize,
    /// Bytes of KV cache per model.
    pub kv_cache_bytes: u64,
    /// Blocks of KV cache per model, in place of `kv_cache_bytes`.
    pub num_blocks: Option<usize>,
    /// Whether requests that begin alike share what is computed of that beginning.
    pub prefix_caching: bool,
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
    /// How long a message, the preparation of a prompt or a step may take at least before it is taken to hang. Large prompts and
    /// slow steps have more.
    pub hang_timeout: Duration,
    /// How long a load may go without any progress.
    pub load_stall_timeout: Duration,
    /// How long a failed load is remembered, so that waiting requests do not retry it all at once.
    pub load_failure_ttl: Duration,
}

/// The events of one request. Dropping it cancels the request.
pub struct EventStream {
    /// The bounded channel that the request's actor feeds.
    pub events: mpsc::Receiver<Event>,
}

#[cfg(test)]
fn settings_for_tests() -> TreeSettings {
    TreeSettings {
        pinned: None,
        preload: Vec::new(),
        aliases: BTreeMap::new(),
        sampling: SamplingOptions::default(),
        model_timeout: None,
        max_running: 4,
        max_queued: 16,
        request_timeout: None,
        max_model_len: None,
        max_step_tokens: 64,
        max_inter_token: None,
        speculation: None,
        drafts: BTreeMap::new(),
        block_size: 4,
        kv_cache_bytes: 1 << 20,
        num_blocks: None,
        prefix_caching: true,
        stream_capacity: 16,
        default_seed: Some(0),
        load: LoadOptions::default(),
        text: TextOptions::default(),
        max_restarts: 8,
        restart_window: Duration::from_secs(60),
        hang_timeout: Duration::from_secs(60),
        load_stall_timeout: Duration::from_secs(60),
        load_failure_ttl: Duration::from_secs(5),
    }
}
