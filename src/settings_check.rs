//! From settings as they are written to settings that the program runs by: what makes no sense is refused, each with the
//! place it was set at, and everything at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candlewick_api::ApiKey;
use candlewick_engine::text::{check_chat_template, tool_call_parsers};
use candlewick_engine::{DType, SpeculationLimits};
use candlewick_protocol::{ModelRef, SamplingOptions};
use serde_json::{Map, Value};

use crate::settings::{
    ChatTemplate, EngineSettings, HubOverrides, KvCacheSize, LogSettings, ModelSettings, ServerSettings,
    Settings, StoreSettings, TelemetrySettings,
};
use crate::settings_layers::{API_KEYS, Layered, Place, Problem, SettingsError, Sources};
use crate::settings_raw::{
    RawEngine, RawHub, RawLog, RawModels, RawServer, RawSettings, RawSpeculation, RawStore, RawTelemetry,
};
use crate::settings_units::{AUTO, Reasoning, Span, SpeculationMode, WeightType};

/// Least time for the head of a request: HTTP counts it in steps of half a second.
const HEADER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Reads all layers and checks what they say together.
pub fn load(sources: &Sources) -> Result<(Settings, Layered), SettingsError> {
    let (layered, problems) = Layered::read_all(sources);
    let mut check = Check { layered: &layered, problems };
    let paths =
        Paths { working_dir: &sources.working_dir, home: sources.env.get("HOME").map(String::as_str) };
    let RawSettings { server, models, engine, speculation, hub, store, log, telemetry } = layered.raw.clone();
    let models = check.models(models, &paths);
    let settings = Settings {
        server: check.server(server, &paths),
        engine: check.engine(engine, speculation, models.pinned.as_ref()),
        models,
        hub: check.hub(hub, &paths, &sources.env),
        store: store_settings(store, &paths, &sources.env),
        log: check.log(log),
        telemetry: check.telemetry(telemetry, &sources.env),
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
        for key in &raw.api_keys.0 {
            if let Err(why) = key.parse::<ApiKey>() {
                self.refuse(API_KEYS, why.to_string());
            }
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
        if raw.header_timeout.0 < HEADER_TIMEOUT_MIN {
            let least = Span(HEADER_TIMEOUT_MIN);
            self.refuse(
                "server.header_timeout",
                format!("{} is too short; {least} is the least", raw.header_timeout),
            );
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
            header_timeout: raw.header_timeout.0,
            body_timeout: raw.body_timeout.0,
            min_body_rate: raw.min_body_rate.0,
            drain_timeout: raw.drain_timeout.0,
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
        let aliases = self.aliases(&raw, pinned.as_ref());
        let preload = raw.preload.0.iter().filter(|name| !name.trim().is_empty());
        let preload = preload.filter_map(|name| self.model_name("models.preload", name)).collect();
        let mut template_kwargs = Map::new();
        if raw.reasoning != Reasoning::Auto {
            template_kwargs.insert("enable_thinking".into(), Value::Bool(raw.reasoning == Reasoning::On));
        }
        // The particular word beats the general one.
        template_kwargs.extend(raw.chat_template_kwargs.0);
        ModelSettings {
            pinned,
            aliases,
            preload,
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
            sampling: self.sampling(&raw.sampling_defaults.0),
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

    fn model_name(&mut self, key: &str, name: &str) -> Option<ModelRef> {
        name.trim().parse().map_err(|why| self.refuse(key, format!("`{name}`: {why}"))).ok()
    }

    /// Every other name, with the model that it is for.
    fn aliases(&mut self, raw: &RawModels, pinned: Option<&ModelRef>) -> BTreeMap<String, ModelRef> {
        const SERVED: &str = "models.served_model_name";
        const ALIASES: &str = "models.aliases";
        let mut aliases = BTreeMap::new();
        for name in raw.served_model_name.0.iter().filter(|name| !name.trim().is_empty()) {
            match pinned {
                Some(pinned) => {
                    let alias =
                        self.model_name(SERVED, name).map(|alias| (alias.canonical(), pinned.clone()));
                    aliases.extend(alias);
                }
                None => self.refuse(
                    SERVED,
                    "it names the one model that is served, and none is pinned; `aliases` names any model",
                ),
            }
        }
        aliases.extend(self.model_table(ALIASES, &raw.aliases.0));
        let chained = aliases.iter().find(|(_, model)| aliases.contains_key(&model.canonical()));
        if let Some((alias, model)) = chained.map(|(alias, model)| (alias.clone(), model.clone())) {
            self.refuse(
                ALIASES,
                format!("`{alias}` stands for `{model}`, which is no model but another name"),
            );
        }
        aliases
    }

    fn sampling(&mut self, defaults: &Map<String, Value>) -> SamplingOptions {
        let text = Value::Object(defaults.clone()).to_string();
        SamplingOptions::from_generation_config(&text).unwrap_or_else(|failure| {
            let why = failure.message.replace("of generation_config", "of these defaults");
            self.refuse("models.sampling_defaults", why);
            SamplingOptions::default()
        })
    }

    fn engine(
        &mut self,
        raw: RawEngine,
        speculation: RawSpeculation,
        pinned: Option<&ModelRef>,
    ) -> EngineSettings {
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
            request_timeout: raw.request_timeout.0,
            max_step_tokens: self.count("engine.max_batch_tokens", raw.max_batch_tokens),
            max_inter_token: raw.max_inter_token.0,
            drafts: self.drafts(&speculation, pinned),
            speculation: self.speculation(&speculation),
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

    /// Every model that another guesses for, with that other.
    fn drafts(&mut self, raw: &RawSpeculation, pinned: Option<&ModelRef>) -> BTreeMap<String, ModelRef> {
        const ONE: &str = "speculation.draft_model";
        let mut drafts = self.model_table("speculation.draft_models", &raw.draft_models.0);
        if !raw.draft_model.trim().is_empty() {
            match pinned {
                Some(pinned) => {
                    let draft = self.model_name(ONE, &raw.draft_model);
                    drafts.extend(draft.map(|draft| (pinned.canonical(), draft)));
                }
                None => self.refuse(
                    ONE,
                    "it guesses for the one model that is served, and none is; `draft_models` names models and theirs",
                ),
            }
        }
        drafts
    }

    /// A table from the names of models, as keys of their canonical ids, to models.
    fn model_table(&mut self, key: &str, table: &Map<String, Value>) -> BTreeMap<String, ModelRef> {
        let mut models = BTreeMap::new();
        for (name, model) in table {
            let Some(model) = model.as_str() else {
                self.refuse(key, format!("`{name}` must be the name of a model, not {model}"));
                continue;
            };
            if let (Some(name), Some(model)) = (self.model_name(key, name), self.model_name(key, model)) {
                models.insert(name.canonical(), model);
            }
        }
        models
    }

    fn speculation(&mut self, raw: &RawSpeculation) -> Option<SpeculationLimits> {
        let &RawSpeculation { mode, max_draft_tokens, ngram_min, ngram_max, .. } = raw;
        let limits = SpeculationLimits {
            max_draft_tokens: self.count("speculation.max_draft_tokens", max_draft_tokens),
            ngram_min: self.count("speculation.ngram_min", ngram_min),
            ngram_max,
        };
        if ngram_max < ngram_min {
            let why = format!("{ngram_max} is less than `ngram_min`, which is {ngram_min}");
            self.refuse("speculation.ngram_max", why);
        }
        (mode == SpeculationMode::Ngram).then_some(limits)
    }

    /// Addresses are logged and shown; a password in one would be too.
    fn no_credentials(&mut self, key: &str, address: &str, instead: &str) {
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            let why = format!(
                "there is a user or a password in the address, which would be seen in logs; use {instead}"
            );
            self.refuse(key, why);
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
        let theirs = env.get("HF_ENDPOINT").filter(|_| raw.endpoint.is_empty());
        self.no_credentials("hub.endpoint", theirs.unwrap_or(&raw.endpoint), "HF_TOKEN");
        HubOverrides {
            cache_dir: some(raw.cache_dir).map(|folder| paths.absolute(&folder)),
            endpoint: some(raw.endpoint),
            token: some(raw.token),
            offline: raw.offline.0,
            env: env.clone(),
        }
    }

    /// What is left empty is what other programs that send traces are told in the environment.
    fn telemetry(&mut self, raw: RawTelemetry, env: &BTreeMap<String, String>) -> Option<TelemetrySettings> {
        if !(0.0..=1.0).contains(&raw.sample_ratio) {
            let why = format!("{} is no part of a whole; it lies between 0 and 1", raw.sample_ratio);
            self.refuse("telemetry.sample_ratio", why);
        }
        let mut headers = Vec::new();
        for (name, value) in &raw.otlp_headers.0 {
            match value.as_str() {
                Some(value) => headers.push((name.clone(), value.to_owned())),
                None => {
                    self.refuse("telemetry.otlp_headers", format!("the value of `{name}` must be a text"))
                }
            }
        }
        let named = env.get("OTEL_EXPORTER_OTLP_ENDPOINT").map(String::as_str).unwrap_or_default();
        let endpoint = if raw.otlp_endpoint.trim().is_empty() { named } else { &raw.otlp_endpoint };
        let endpoint = endpoint.trim();
        if endpoint.is_empty() {
            return None;
        }
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let why = format!("`{endpoint}` is no address; one is written like `http://localhost:4317`");
            self.refuse("telemetry.otlp_endpoint", why);
        }
        self.no_credentials(
            "telemetry.otlp_endpoint",
            endpoint,
            "an `authorization` among `telemetry.otlp_headers`",
        );
        Some(TelemetrySettings {
            endpoint: endpoint.into(),
            protocol: raw.otlp_protocol,
            headers,
            sample_ratio: raw.sample_ratio,
            service_name: raw.service_name,
        })
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
