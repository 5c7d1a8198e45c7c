//! The settings as people write them: sections and keys of the file, and the defaults. Nothing is checked here beyond the
//! form of each value; `settings.rs` makes of it what the program uses.
//!
//! Every field is written by serde, unset ones as a word of their own (`auto`, an empty text), so that the defaults alone
//! list every key there is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings_units::{
    AUTO, Auto, ByteSize, Device, JsonTable, KernelChoice, KvCacheType, Limit, LogFormat, OtlpProtocol,
    Reasoning, ReasoningField, Span, SpeculationMode, TextList, WeightQuantization, WeightType,
};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSettings {
    /// The HTTP server.
    pub server: RawServer,
    /// Which models, and how they read and write.
    pub models: RawModels,
    /// How they are run.
    pub engine: RawEngine,
    /// How what they say next is guessed.
    pub speculation: RawSpeculation,
    /// Where their files come from.
    pub hub: RawHub,
    /// What is kept between requests.
    pub store: RawStore,
    /// What is logged.
    pub log: RawLog,
    /// Where traces go.
    pub telemetry: RawTelemetry,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawServer {
    /// Name or address to listen at.
    pub host: String,
    /// Port to listen at; 0 takes any free one.
    pub port: u16,
    /// Keys that clients must show one of; none asks for none.
    pub api_keys: TextList,
    /// A file that holds such keys, one a line.
    pub api_key_file: String,
    /// Answer browsers.
    pub enable_cors: bool,
    /// Of these origins; none is of every one.
    pub allowed_origins: TextList,
    /// Under which names reasoning is told.
    pub reasoning_field: ReasoningField,
    /// Threads that speak HTTP.
    pub http_workers: Auto<usize>,
    /// Largest request body.
    pub max_body: ByteSize,
    /// Time between two signs of life on a stream that has nothing to say.
    pub keep_alive: Span,
    /// Time for which a stream is held back in case its first event is a failure.
    pub stream_open_after: Span,
    /// Most likely tokens that a request may ask for with log-probabilities; -1 sets no limit.
    pub max_logprobs: i64,
    /// Requests may bring a chat template of their own.
    pub trust_request_chat_template: bool,
    /// Refuse fields of a request that are not known.
    pub strict_fields: bool,
    /// Name the model with its revision even to clients that named none.
    pub echo_revision: bool,
    /// `/metrics` needs no key.
    pub metrics_public: bool,
    /// How long the head of a request may take.
    pub header_timeout: Span,
    /// How long a body may stand still.
    pub body_timeout: Span,
    /// Bytes of a body that must come in each second.
    pub min_body_rate: ByteSize,
    /// Time that requests in flight have to finish when the server stops.
    pub drain_timeout: Span,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 8000,
            api_keys: TextList::default(),
            api_key_file: String::new(),
            enable_cors: false,
            allowed_origins: TextList::default(),
            reasoning_field: ReasoningField::Both,
            http_workers: Auto(None),
            max_body: ByteSize(32 << 20),
            keep_alive: Span(Duration::from_secs(1)),
            stream_open_after: Span(Duration::from_millis(200)),
            max_logprobs: 20,
            trust_request_chat_template: false,
            strict_fields: false,
            echo_revision: false,
            metrics_public: false,
            header_timeout: Span(Duration::from_secs(10)),
            body_timeout: Span(Duration::from_secs(30)),
            min_body_rate: ByteSize(4096),
            drain_timeout: Span(Duration::from_secs(30)),
        }
    }
}

/// `[models]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawModels {
    /// The one model that is served; empty serves whichever is asked for.
    pub model: String,
    /// Other names for that model.
    pub served_model_name: TextList,
    /// Other names for models: a table from name to model.
    pub aliases: JsonTable,
    /// Models that are loaded at the start and kept.
    pub preload: TextList,
    /// Idle time after which a model is unloaded.
    pub model_timeout: Limit,
    /// Time for which a failed load is remembered.
    pub load_failure_ttl: Span,
    /// How long a load may go without any progress.
    pub load_stall_timeout: Span,
    /// Precision of the weights.
    pub dtype: WeightType,
    /// What weights are quantised to as they are loaded.
    pub quantization: WeightQuantization,
    /// Where to run.
    pub device: Device,
    /// Longest context in tokens.
    pub max_model_len: Auto<usize>,
    /// Seed of requests that bring none.
    pub default_seed: Auto<u64>,
    /// Defaults for sampling, over the models' own.
    pub sampling_defaults: JsonTable,
    /// Whether to ask for reasoning.
    pub reasoning: Reasoning,
    /// What reads tool calls; `auto` is what a model's template shows.
    pub tool_call_parser: String,
    /// A chat template in place of the models' own: its text, or the path of a file.
    pub chat_template: String,
    /// Variables for the chat template.
    pub chat_template_kwargs: JsonTable,
}

impl Default for RawModels {
    fn default() -> Self {
        Self {
            model: String::new(),
            served_model_name: TextList::default(),
            aliases: JsonTable::default(),
            preload: TextList::default(),
            model_timeout: Limit(Some(Duration::from_secs(300))),
            load_failure_ttl: Span(Duration::from_secs(10)),
            load_stall_timeout: Span(Duration::from_secs(600)),
            dtype: WeightType::Auto,
            quantization: WeightQuantization::None,
            device: Device::Auto,
            max_model_len: Auto(None),
            default_seed: Auto(None),
            sampling_defaults: JsonTable::default(),
            reasoning: Reasoning::Auto,
            tool_call_parser: AUTO.into(),
            chat_template: String::new(),
            chat_template_kwargs: JsonTable::default(),
        }
    }
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawEngine {
    /// Most requests of one model that generate at once.
    pub max_running: usize,
    /// Most requests of one model that wait.
    pub max_queued: usize,
    /// Longest that a request may take.
    pub request_timeout: Limit,
    /// Most tokens computed in one step.
    pub max_batch_tokens: usize,
    /// How long a step in which somebody decodes should take at most.
    pub max_inter_token: Limit,
    /// Memory for the KV cache of one model.
    pub kv_cache_memory: Auto<ByteSize>,
    /// What the KV cache keeps of keys and values.
    pub kv_cache_dtype: KvCacheType,
    /// Most memory that the process should have resident.
    pub memory_limit: Auto<ByteSize>,
    /// Share of the free memory that `kv_cache_memory = "auto"` takes.
    pub max_memory_percent: f64,
    /// Tokens in a block of the KV cache.
    pub block_size: usize,
    /// Blocks of KV cache of one model, in place of an amount of memory.
    pub num_blocks: Auto<usize>,
    /// What computes.
    pub kernels: KernelChoice,
    /// Threads that compute.
    pub threads: Auto<usize>,
    /// Share what requests that begin alike have in common.
    pub prefix_caching: bool,
    /// Events that may wait for a slow reader.
    pub stream_capacity: usize,
    /// Crashes within `restart_window` after which a model is given up.
    pub max_restarts: usize,
    /// See `max_restarts`.
    pub restart_window: Span,
    /// How long something may take at least before it is taken to hang.
    pub hang_timeout: Span,
}

impl Default for RawEngine {
    fn default() -> Self {
        Self {
            max_running: 64,
            max_queued: 256,
            request_timeout: Limit(None),
            max_batch_tokens: 512,
            max_inter_token: Limit(Some(Duration::from_millis(200))),
            kv_cache_memory: Auto(None),
            kv_cache_dtype: KvCacheType::Auto,
            memory_limit: Auto(None),
            max_memory_percent: 0.3,
            block_size: 16,
            num_blocks: Auto(None),
            kernels: KernelChoice::Auto,
            threads: Auto(None),
            prefix_caching: true,
            stream_capacity: 64,
            max_restarts: 5,
            restart_window: Span(Duration::from_secs(60)),
            hang_timeout: Span(Duration::from_secs(60)),
        }
    }
}

/// `[speculation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSpeculation {
    /// Where guesses come from.
    pub mode: SpeculationMode,
    /// Most tokens of a sequence that are guessed in one step.
    pub max_draft_tokens: usize,
    /// Fewest of the latest tokens that must have come before.
    pub ngram_min: usize,
    /// Most of them that are compared.
    pub ngram_max: usize,
    /// A smaller model that guesses for the one that is served.
    pub draft_model: String,
    /// Such models for several: a table from model to draft model.
    pub draft_models: JsonTable,
}

impl Default for RawSpeculation {
    fn default() -> Self {
        Self {
            mode: SpeculationMode::Ngram,
            max_draft_tokens: 16,
            ngram_min: 2,
            ngram_max: 5,
            draft_model: String::new(),
            draft_models: JsonTable::default(),
        }
    }
}

/// `[hub]`; what is left empty is taken from the `HF_…` environment variables.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawHub {
    /// Folder of the cache.
    pub cache_dir: String,
    /// Address of the Hub.
    pub endpoint: String,
    /// Token shown to the Hub.
    pub token: String,
    /// Never use the network.
    pub offline: Auto<bool>,
}

impl Default for Auto<bool> {
    fn default() -> Self {
        Self(None)
    }
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawStore {
    /// Keep responses.
    pub enabled: bool,
    /// Folder of what is kept; empty takes the user's data folder.
    pub data_dir: String,
    /// How long a response is kept.
    pub response_ttl: Limit,
}

impl Default for RawStore {
    fn default() -> Self {
        Self {
            enabled: true,
            data_dir: String::new(),
            response_ttl: Limit(Some(Duration::from_secs(30 * 24 * 3600))),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    /// Lowest level that is logged, or filter directives.
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawTelemetry {
    /// Address of the collector; empty sends nothing.
    pub otlp_endpoint: String,
    /// How it is spoken to.
    pub otlp_protocol: OtlpProtocol,
    /// Headers for it: a table from name to value.
    pub otlp_headers: JsonTable,
    /// The part of traces that is sent, of those that begin here.
    pub sample_ratio: f64,
    /// The name of this server among others.
    pub service_name: String,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            otlp_protocol: OtlpProtocol::Grpc,
            otlp_headers: JsonTable::default(),
            sample_ratio: 1.0,
            service_name: "candlewick".into(),
        }
    }
}
