//! The settings that the program runs by: every value checked, every unit resolved, every path absolute.
//!
//! [`Settings::load`] is a pure function of what was read ([`Sources`]): no file, no environment variable and no clock is
//! looked at here, so that a changed file can be tried beside the settings in use.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use candlewick_engine::{DType, SpeculationLimits};
use candlewick_protocol::{ModelRef, SamplingOptions};
use serde_json::{Map, Value};

pub use crate::settings_layers::{FlagValue, Place, Problem, SettingsError, SettingsFile, Sources};
pub use crate::settings_units::{
    KernelChoice, KvCacheType, LogFormat, OtlpProtocol, ReasoningField, WeightQuantization,
};

use crate::settings_check;
use crate::settings_layers::Layered;

/// What the program runs by.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The HTTP server.
    pub server: ServerSettings,
    /// Which models, and how they read and write.
    pub models: ModelSettings,
    /// How they are run.
    pub engine: EngineSettings,
    /// Where their files come from.
    pub hub: HubOverrides,
    /// What is kept between requests; `None` keeps nothing.
    pub store: Option<StoreSettings>,
    /// What is logged.
    pub log: LogSettings,
    /// Where traces go; `None` makes none.
    pub telemetry: Option<TelemetrySettings>,
}

/// The HTTP server.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Name or address to listen at.
    pub host: String,
    /// Port to listen at; 0 takes any free one.
    pub port: u16,
    /// Keys that clients must show one of; none asks for none.
    pub api_keys: Vec<String>,
    /// A file that holds more of them, one a line.
    pub api_key_file: Option<PathBuf>,
    /// Answer browsers, of `allowed_origins` or of every origin.
    pub enable_cors: bool,
    /// The origins whose pages are answered; none is every one.
    pub allowed_origins: Vec<String>,
    /// Under which names reasoning is told.
    pub reasoning_field: ReasoningField,
    /// Threads that speak HTTP.
    pub num_http_workers: usize,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Time between two signs of life on a stream that has nothing to say.
    pub keep_alive: Duration,
    /// Time for which a stream is held back in case its first event is a failure.
    pub stream_open_after: Duration,
    /// Most likely tokens that a request may ask for with log-probabilities.
    pub max_logprobs: u32,
    /// Requests may bring a chat template of their own.
    pub trust_request_chat_template: bool,
    /// Refuse fields of a request that are not known.
    pub strict_fields: bool,
    /// Name the model with its revision even to clients that named none.
    pub echo_revision: bool,
    /// `/metrics` needs no key.
    pub metrics_public: bool,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// How long a request's body may stand still.
    pub body_timeout: Duration,
    /// Bytes of a body that must have come for each second beyond that; 0 asks for none.
    pub min_body_rate: u64,
    /// Time that requests in flight have to finish when the server stops.
    pub drain_timeout: Duration,
}

/// Which models are served, and how they read and write.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSettings {
    /// The one model that is served; `None` serves whichever is asked for.
    pub pinned: Option<ModelRef>,
    /// Other names for models: canonical id of the name → the model.
    pub aliases: BTreeMap<String, ModelRef>,
    /// Models that are loaded at the start and kept.
    pub preload: Vec<ModelRef>,
    /// Idle time after which a model is unloaded; `None` never does.
    pub model_timeout: Option<Duration>,
    /// Time for which a failed load is remembered.
    pub load_failure_ttl: Duration,
    /// How long a load may go without any progress.
    pub load_stall_timeout: Duration,
    /// Precision of the weights.
    pub dtype: DType,
    /// What weights are quantised to as they are loaded.
    pub quantization: WeightQuantization,
    /// Longest context in tokens, if shorter than the model's.
    pub max_model_len: Option<usize>,
    /// What reads tool calls; `None` is what a model's template shows.
    pub tool_call_parser: Option<String>,
    /// Seed of requests that bring none; `None` draws one for each.
    pub default_seed: Option<u64>,
    /// Defaults for sampling, over the models' own and under a request's.
    pub sampling: SamplingOptions,
    /// A chat template in place of the models' own.
    pub chat_template: Option<ChatTemplate>,
    /// Variables for the chat template.
    pub template_kwargs: Map<String, Value>,
}

/// A chat template in place of the models' own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatTemplate {
    /// Its text.
    Inline(String),
    /// The file that holds it.
    File(PathBuf),
}

/// How models are run.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSettings {
    /// Most requests of one model that generate at once.
    pub max_running: usize,
    /// Most requests of one model that wait.
    pub max_queued: usize,
    /// Longest that a request may take; `None` lets it take what it takes.
    pub request_timeout: Option<Duration>,
    /// Most tokens computed in one step.
    pub max_step_tokens: usize,
    /// How long a step in which somebody decodes should take at most; `None` if it does not matter.
    pub max_inter_token: Option<Duration>,
    /// How what a sequence says next is guessed, if it is.
    pub speculation: Option<SpeculationLimits>,
    /// Canonical id of a model → the smaller one that guesses for it.
    pub drafts: BTreeMap<String, ModelRef>,
    /// Memory for the KV cache of one model.
    pub kv_cache: KvCacheSize,
    /// What the KV cache keeps of keys and values.
    pub kv_cache_dtype: KvCacheType,
    /// Most memory that the process should have resident; `None` goes by the container and the machine.
    pub memory_limit_bytes: Option<u64>,
    /// Tokens in a block of the KV cache.
    pub block_size: usize,
    /// What computes.
    pub kernels: KernelChoice,
    /// Threads that compute; `None` takes as many as there are cores.
    pub num_threads: Option<usize>,
    /// Share what requests that begin alike have in common.
    pub prefix_caching: bool,
    /// Events that may wait for a slow reader.
    pub stream_capacity: usize,
    /// Crashes within `restart_window` after which a model is given up.
    pub max_restarts: usize,
    /// See `max_restarts`.
    pub restart_window: Duration,
    /// How long something may take at least before it is taken to hang.
    pub hang_timeout: Duration,
}

/// How large the KV cache of one model is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KvCacheSize {
    /// So many bytes.
    Bytes(u64),
    /// So many blocks.
    Blocks(usize),
    /// This share of the memory that is free when the server starts.
    ShareOfFree(f64),
}

/// What is said about the Hub in our own settings; what is not is taken from the `HF_…` environment variables.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HubOverrides {
    /// Folder of the cache.
    pub cache_dir: Option<PathBuf>,
    /// Address of the Hub.
    pub endpoint: Option<String>,
    /// Token shown to the Hub.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: Option<bool>,
    /// The environment as it was read, for the variables that Hugging Face's own tools know.
    pub env: BTreeMap<String, String>,
}

/// What is kept between requests, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// The data folder.
    pub data_dir: PathBuf,
    /// Somebody chose the folder, so that doing without is not what they want.
    pub is_chosen: bool,
    /// How long a response is kept; `None` keeps it for ever.
    pub response_ttl: Option<Duration>,
}

/// Without the keys: settings end up in logs.
impl fmt::Debug for ServerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("num_api_keys", &self.api_keys.len())
            .finish_non_exhaustive()
    }
}

/// Without token and environment: settings end up in logs.
impl fmt::Debug for HubOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOverrides")
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Filter directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
}

/// Where traces go.
#[derive(Clone, PartialEq)]
pub struct TelemetrySettings {
    /// Address of the collector.
    pub endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Headers for it.
    pub headers: Vec<(String, String)>,
    /// The part of traces that is sent, of those that begin here.
    pub sample_ratio: f64,
    /// The name of this server among others.
    pub service_name: String,
}

/// Without the headers, which hold keys: settings end up in logs.
impl fmt::Debug for TelemetrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetrySettings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads all layers and checks what they say together.
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        Self::load_layered(sources).map(|(settings, _)| settings)
    }

    /// The settings of a program that nothing was said to.
    pub fn defaults() -> Self {
        Self::load(&Sources::default()).expect("the defaults pass their own checks")
    }

    /// As [`load`](Self::load), with the values as they were written. The error tells all that is wrong, line by line.
    pub fn load_layered(sources: &Sources) -> Result<(Self, Layered), SettingsError> {
        settings_check::load(sources)
    }
}
