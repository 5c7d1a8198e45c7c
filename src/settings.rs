//! The settings that the program runs by: every value checked, every unit resolved, every path absolute.
//!
//! [`Settings::load`] is a pure function of what was read ([`Sources`]): no file, no environment variable and no clock is
//! looked at here, so that a changed file can be tried beside the settings in use.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candlewick_engine::DType;
use candlewick_engine::text::{check_chat_template, tool_call_parsers};
use candlewick_protocol::ModelRef;
use serde_json::{Map, Value};

pub use crate::settings_layers::{FlagValue, Place, Problem, SettingsError, SettingsFile, Sources};
pub use crate::settings_units::{KernelChoice, KvCacheType, LogFormat, ReasoningField, WeightQuantization};

use crate::settings_layers::{API_KEYS, Layered};
use crate::settings_raw::{RawEngine, RawHub, RawLog, RawModels, RawServer, RawSettings, RawStore};
use crate::settings_units::{AUTO, Reasoning, Span, WeightType};

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
    /// Time that requests in flight have to finish when the server stops.
    pub shutdown_grace: Duration,
}

/// Which models are served, and how they read and write.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSettings {
    /// The one model that is served; `None` serves whichever is asked for.
    pub pinned: Option<ModelRef>,
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
    /// Most tokens computed in one step.
    pub max_step_tokens: usize,
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
        let (layered, problems) = Layered::read_all(sources);
        let mut check = Check { layered: &layered, problems };
        let paths =
            Paths { working_dir: &sources.working_dir, home: sources.env.get("HOME").map(String::as_str) };
        let RawSettings { server, models, engine, hub, store, log } = layered.raw.clone();
        let settings = Self {
            server: check.server(server, &paths),
            models: check.models(models, &paths),
            engine: check.engine(engine),
            hub: check.hub(hub, &paths, &sources.env),
            store: store_settings(store, &paths, &sources.env),
            log: check.log(log),
        };
        let mut problems = check.problems;
        if problems.is_empty() {
            return Ok((settings, layered));
        }
        // People read from top to bottom: the file, then what is around it.
        problems.sort_by_key(|problem| match problem.place {
            Place::File(_, line) => (0, line),
            Place::Env(_) => (1, 0),
            Place::Flag(_) => (2, 0),
            Place::Default => (3, 0),
        });
        Err(SettingsError(problems))
    }
}

/// What relative paths and `~` stand for.
struct Paths<'a> {
    working_dir: &'a Path,
    home: Option<&'a str>,
}

impl Paths<'_> {
    fn absolute(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), self.home) {
            (Some(below), Some(home)) => Path::new(home).join(below),
            _ => self.working_dir.join(text),
        }
    }
}

/// Where there is no folder for a user's data (a service without a home), nothing is kept unless one is chosen.
fn store_settings(raw: RawStore, paths: &Paths<'_>, env: &BTreeMap<String, String>) -> Option<StoreSettings> {
    let named = |name: &str| env.get(name).filter(|path| !path.is_empty());
    let users = || match (named("XDG_DATA_HOME"), named("HOME")) {
        // Relative ones are to be ignored, says the XDG specification.
        (Some(data), _) if Path::new(data).is_absolute() => Some(Path::new(data).join("candlewick")),
        (_, Some(home)) => Some(Path::new(home).join(".local/share/candlewick")),
        _ => None,
    };
    let is_chosen = !raw.data_dir.is_empty();
    let data_dir = if is_chosen { Some(paths.absolute(&raw.data_dir)) } else { users() };
    let data_dir = data_dir.filter(|_| raw.enabled)?;
    Some(StoreSettings { data_dir, is_chosen, response_ttl: raw.response_ttl.0 })
}

/// Gathers what is wrong, each with the place it was set at.
struct Check<'a> {
    layered: &'a Layered,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn refuse(&mut self, key: &str, why: impl Into<String>) {
        let why = format!("`{key}`: {}", why.into());
        self.problems.push(Problem { place: self.layered.place(key).clone(), why });
    }

    /// A count that must be at least one.
    fn count(&mut self, key: &str, count: usize) -> usize {
        if count == 0 {
            self.refuse(key, "0 is too few; 1 is the least");
        }
        count
    }

    fn some_time(&mut self, key: &str, Span(time): Span) -> Duration {
        if time.is_zero() {
            self.refuse(key, "no time is too little; write a time like `60s`");
        }
        time
    }

    fn max_logprobs(&mut self, max: i64) -> u32 {
        if max < -1 {
            self.refuse("server.max_logprobs", format!("{max} is no count; -1 sets no limit"));
        }
        // Beyond every vocabulary.
        u32::try_from(max).unwrap_or(u32::MAX)
    }

    fn server(&mut self, raw: RawServer, paths: &Paths<'_>) -> ServerSettings {
        if raw.host.trim().is_empty() {
            self.refuse(
                "server.host",
                "there is no host; `localhost` listens to this machine, `0.0.0.0` to all",
            );
        }
        if raw.api_keys.0.iter().any(|key| key.trim().is_empty()) {
            self.refuse(
                API_KEYS,
                "a key is empty, and the server would not be protected by it; write a key, or leave the setting out to \
                 ask for none",
            );
        }
        for origin in &raw.allowed_origins.0 {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                self.refuse(
                    "server.allowed_origins",
                    format!("`{origin}` is no origin; one is written like `https://example.org` or `http://localhost:3000`"),
                );
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ServerSettings {
            host: raw.host.trim().into(),
            port: raw.port,
            api_keys: raw.api_keys.0,
            api_key_file: Some(raw.api_key_file.trim())
                .filter(|path| !path.is_empty())
                .map(|path| paths.absolute(path)),
            // Who names origins wants them answered.
            enable_cors: raw.enable_cors || !raw.allowed_origins.0.is_empty(),
            allowed_origins: raw.allowed_origins.0,
            reasoning_field: raw.reasoning_field,
            num_http_workers: self.count("server.http_workers", raw.http_workers.0.unwrap_or(cores.min(4))),
            max_body_bytes: self
                .count("server.max_body", usize::try_from(raw.max_body.0).unwrap_or(usize::MAX)),
            keep_alive: raw.keep_alive.0,
            stream_open_after: raw.stream_open_after.0,
            max_logprobs: self.max_logprobs(raw.max_logprobs),
            trust_request_chat_template: raw.trust_request_chat_template,
            strict_fields: raw.strict_fields,
            echo_revision: raw.echo_revision,
            metrics_public: raw.metrics_public,
            shutdown_grace: raw.shutdown_grace.0,
        }
    }

    fn models(&mut self, raw: RawModels, paths: &Paths<'_>) -> ModelSettings {
        let pinned = match raw.model.trim() {
            "" => {
                // In the file an empty name means none; whoever gives an argument means something by it.
                if matches!(self.layered.place("models.model"), Place::Flag(_)) {
                    self.refuse(
                        "models.model",
                        "the name is empty; write one like `org/name` or `./folder`, or leave the argument out to serve \
                         whichever model is asked for",
                    );
                }
                None
            }
            name => name.parse().map_err(|why| self.refuse("models.model", format!("`{name}`: {why}"))).ok(),
        };
        let mut template_kwargs = Map::new();
        if raw.reasoning != Reasoning::Auto {
            template_kwargs.insert("enable_thinking".into(), Value::Bool(raw.reasoning == Reasoning::On));
        }
        // The particular word beats the general one.
        template_kwargs.extend(raw.chat_template_kwargs.0);
        ModelSettings {
            pinned,
            model_timeout: raw.model_timeout.0,
            load_failure_ttl: raw.load_failure_ttl.0,
            load_stall_timeout: self.some_time("models.load_stall_timeout", raw.load_stall_timeout),
            dtype: match raw.dtype {
                WeightType::Auto => DType::Auto,
                WeightType::Float32 => DType::F32,
                WeightType::Float16 => DType::F16,
                WeightType::Bfloat16 => DType::Bf16,
            },
            quantization: raw.quantization,
            max_model_len: raw.max_model_len.0.map(|len| self.count("models.max_model_len", len)),
            default_seed: raw.default_seed.0,
            chat_template: match raw.chat_template.as_str() {
                "" => None,
                text if text.contains("{{") || text.contains("{%") => {
                    if let Err(fault) = check_chat_template(text) {
                        self.refuse("models.chat_template", format!("not a Jinja template: {fault}"));
                    }
                    Some(ChatTemplate::Inline(text.into()))
                }
                path => Some(ChatTemplate::File(paths.absolute(path))),
            },
            tool_call_parser: match raw.tool_call_parser.trim() {
                "" | AUTO => None,
                name => {
                    if !tool_call_parsers().any(|known| known == name) {
                        let names: Vec<&str> = tool_call_parsers().collect();
                        let why = format!("there is no parser `{name}`; there are {}", names.join(", "));
                        self.refuse("models.tool_call_parser", why);
                    }
                    Some(name.to_owned())
                }
            },
            template_kwargs,
        }
    }

    fn engine(&mut self, raw: RawEngine) -> EngineSettings {
        let share = raw.max_memory_percent;
        if !(share > 0.0 && share <= 1.0) {
            self.refuse(
                "engine.max_memory_percent",
                format!("{share} is no share of the free memory; it lies above 0 and at most at 1 (0.3 is 30 percent)"),
            );
        }
        if raw.kv_cache_memory.0.is_some() && raw.num_blocks.0.is_some() {
            self.refuse(
                "engine.num_blocks",
                "the KV cache has one size; set `num_blocks` or `kv_cache_memory`, not both",
            );
        }
        let kv_cache = match (raw.num_blocks.0, raw.kv_cache_memory.0) {
            (Some(blocks), _) => KvCacheSize::Blocks(self.count("engine.num_blocks", blocks)),
            (None, Some(size)) => KvCacheSize::Bytes(size.0),
            (None, None) => KvCacheSize::ShareOfFree(share),
        };
        if kv_cache == KvCacheSize::Bytes(0) {
            self.refuse(
                "engine.kv_cache_memory",
                "a KV cache needs memory; write a size like `1GiB`, or `auto`",
            );
        }
        EngineSettings {
            max_running: self.count("engine.max_running", raw.max_running),
            max_queued: raw.max_queued,
            max_step_tokens: self.count("engine.max_batch_tokens", raw.max_batch_tokens),
            kv_cache,
            kv_cache_dtype: raw.kv_cache_dtype,
            memory_limit_bytes: raw.memory_limit.0.map(|size| size.0),
            block_size: self.count("engine.block_size", raw.block_size),
            kernels: raw.kernels,
            num_threads: raw.threads.0.map(|threads| self.count("engine.threads", threads)),
            prefix_caching: raw.prefix_caching,
            stream_capacity: self.count("engine.stream_capacity", raw.stream_capacity),
            max_restarts: raw.max_restarts,
            restart_window: raw.restart_window.0,
            hang_timeout: self.some_time("engine.hang_timeout", raw.hang_timeout),
        }
    }

    fn hub(&mut self, raw: RawHub, paths: &Paths<'_>, env: &BTreeMap<String, String>) -> HubOverrides {
        let some = |text: String| (!text.is_empty()).then_some(text);
        if !raw.endpoint.is_empty()
            && !raw.endpoint.starts_with("http://")
            && !raw.endpoint.starts_with("https://")
        {
            self.refuse(
                "hub.endpoint",
                format!("`{}` is no address; it begins with `https://`", raw.endpoint),
            );
        }
        HubOverrides {
            cache_dir: some(raw.cache_dir).map(|folder| paths.absolute(&folder)),
            endpoint: some(raw.endpoint),
            token: some(raw.token),
            offline: raw.offline.0,
            env: env.clone(),
        }
    }

    fn log(&mut self, raw: RawLog) -> LogSettings {
        let filter = match raw.level.trim().to_ascii_lowercase().as_str() {
            "warning" => "warn".into(),
            "critical" => "error".into(),
            level @ ("off" | "error" | "warn" | "info" | "debug" | "trace") => level.into(),
            _ => raw.level.trim().to_owned(),
        };
        // A lone word that is no level would be taken for the name of a crate, and everything else fall silent.
        let is_level = matches!(filter.as_str(), "off" | "error" | "warn" | "info" | "debug" | "trace");
        let is_filter = filter.contains('=') && tracing_subscriber::EnvFilter::try_new(&filter).is_ok();
        if !is_level && !is_filter {
            self.refuse(
                "log.level",
                format!(
                    "`{filter}` is no level; use `off`, `error`, `warning`, `info`, `debug` or `trace`, or directives like \
                     `info,candlewick_actors=debug`"
                ),
            );
        }
        LogSettings { filter, format: raw.format }
    }
}
