//! Layers of settings: defaults, then a file, then the environment, then flags. Each value remembers its place, so that
//! an error can point at it; a key that does not exist is refused with the nearest that does.
//!
//! Nothing here touches the disk or the environment: what was read is handed in as [`Sources`], so that a reload is the
//! same function called again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, FileFormat, Source, Value, ValueKind};
use toml::de::DeTable;

use crate::settings_raw::RawSettings;

/// What environment variables of ours begin with.
pub const ENV_PREFIX: &str = "CANDLEWICK_";

/// The one key whose empty value is a mistake wherever it is written.
pub const API_KEYS: &str = "server.api_keys";

/// Names that are short for a key: as a flag (`--max-running`) and in the environment (`CANDLEWICK_MAX_RUNNING`).
pub const SHORT_NAMES: &[(&str, &str)] = &[
    ("model", "models.model"),
    ("served-model-name", "models.served_model_name"),
    ("preload", "models.preload"),
    ("drain-timeout", "server.drain_timeout"),
    ("host", "server.host"),
    ("port", "server.port"),
    ("api-key", API_KEYS),
    ("api-key-file", "server.api_key_file"),
    ("enable-cors", "server.enable_cors"),
    ("allowed-origins", "server.allowed_origins"),
    ("reasoning-field", "server.reasoning_field"),
    ("max-logprobs", "server.max_logprobs"),
    ("trust-request-chat-template", "server.trust_request_chat_template"),
    ("strict-fields", "server.strict_fields"),
    ("dtype", "models.dtype"),
    ("quantization", "models.quantization"),
    ("device", "models.device"),
    ("model-timeout", "models.model_timeout"),
    ("max-model-len", "models.max_model_len"),
    ("default-seed", "models.default_seed"),
    ("reasoning", "models.reasoning"),
    ("tool-call-parser", "models.tool_call_parser"),
    ("chat-template", "models.chat_template"),
    ("chat-template-kwargs", "models.chat_template_kwargs"),
    ("max-running", "engine.max_running"),
    ("max-queued", "engine.max_queued"),
    ("request-timeout", "engine.request_timeout"),
    ("kv-cache-memory", "engine.kv_cache_memory"),
    ("kv-cache-dtype", "engine.kv_cache_dtype"),
    ("memory-limit", "engine.memory_limit"),
    ("kernels", "engine.kernels"),
    ("threads", "engine.threads"),
    ("cb-block-size", "engine.block_size"),
    ("cb-num-blocks", "engine.num_blocks"),
    ("cb-max-batch-tokens", "engine.max_batch_tokens"),
    ("max-inter-token", "engine.max_inter_token"),
    ("speculation", "speculation.mode"),
    ("max-draft-tokens", "speculation.max_draft_tokens"),
    ("draft-model", "speculation.draft_model"),
    ("cb-max-memory-percent", "engine.max_memory_percent"),
    ("cache-dir", "hub.cache_dir"),
    ("store", "store.enabled"),
    ("data-dir", "store.data_dir"),
    ("log-level", "log.level"),
    ("log-format", "log.format"),
    ("otlp-endpoint", "telemetry.otlp_endpoint"),
    ("otlp-protocol", "telemetry.otlp_protocol"),
];

/// Everything that settings are made of, as it was read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<SettingsFile>,
    /// The environment, whole: the Hub's variables are in it too.
    pub env: BTreeMap<String, String>,
    /// What was said on the command line.
    pub flags: Vec<FlagValue>,
    /// The folder that relative paths start from.
    pub working_dir: PathBuf,
}

/// A settings file, read.
#[derive(Debug, Clone)]
pub struct SettingsFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// A value from the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagValue {
    /// One of [`SHORT_NAMES`].
    pub name: &'static str,
    /// What follows it.
    pub value: Value,
}

impl FlagValue {
    /// A flag and what follows it.
    pub fn new(name: &'static str, value: impl Into<ValueKind>) -> Self {
        Self { name, value: Value::new(None, value) }
    }
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// In the file, at a line (the first is 1).
    File(PathBuf, usize),
    /// By an environment variable.
    Env(String),
    /// On the command line.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag("model") => f.write_str("argument MODEL"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// All that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<Problem>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}: {}", problem.place, problem.why)?;
        }
        Ok(())
    }
}

/// The settings as written, and where each came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Layered {
    /// The last word on every key.
    pub raw: RawSettings,
    places: BTreeMap<String, Place>,
}

impl Layered {
    /// Where a key (`server.port`) was set last.
    pub fn place(&self, key: &str) -> &Place {
        self.places.get(key).unwrap_or(&Place::Default)
    }

    /// Every key with what it was set to last, as it is written; sorted by key.
    pub fn values(&self) -> BTreeMap<String, serde_json::Value> {
        let raw = serde_json::to_value(&self.raw).expect("settings are plain data");
        let sections = raw.as_object().into_iter().flatten();
        let values = sections.flat_map(|(section, values)| {
            let values = values.as_object().into_iter().flatten();
            values.map(move |(name, value)| (format!("{section}.{name}"), value.clone()))
        });
        values.collect()
    }

    /// Reads all layers.
    pub fn read(sources: &Sources) -> Result<Self, SettingsError> {
        let (layered, problems) = Self::read_all(sources);
        if problems.is_empty() { Ok(layered) } else { Err(SettingsError(problems)) }
    }

    /// Reads all layers, and tells what is wrong with them. What is wrong is left out, so that the rest can be checked
    /// further, and everything be told at once.
    pub fn read_all(sources: &Sources) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let keys = known_keys();
        let mut given = match sources.file.as_ref().map(|file| file_values(file, &keys)) {
            Some(Ok(values)) => values,
            Some(Err(problem)) => {
                problems.push(problem);
                Vec::new()
            }
            None => Vec::new(),
        };
        given.extend(env_values(&sources.env, &mut problems));
        given.extend(sources.flags.iter().map(flag_value));
        given.retain(|given| match wrong_with(given, &keys) {
            Some(why) => {
                problems.push(Problem { place: given.place.clone(), why });
                false
            }
            None => true,
        });
        let raw = deserialize(&given).unwrap_or_else(|why| {
            let why = format!("the layers do not fit together: {why}");
            problems.push(Problem { place: Place::Default, why });
            RawSettings::default()
        });
        (Self { raw, places: given.into_iter().map(|given| (given.key, given.place)).collect() }, problems)
    }
}

/// What is wrong with a value by itself: its key, or its form.
fn wrong_with(given: &Given, keys: &[String]) -> Option<String> {
    if !keys.contains(&given.key) {
        return Some(unknown_key(given, keys));
    }
    let why = deserialize(std::slice::from_ref(given)).err()?;
    Some(format!("`{}`: {}", given.key, reason(&why)))
}

/// Every key there is, as `section.key`, sorted.
pub fn known_keys() -> Vec<String> {
    let defaults = serde_json::to_value(RawSettings::default()).expect("settings are plain data");
    let sections = defaults.as_object().expect("settings are a table of sections");
    let mut keys: Vec<String> = sections
        .iter()
        .flat_map(|(section, values)| {
            let values = values.as_object().expect("a section is a table of values");
            values.keys().map(move |key| format!("{section}.{key}"))
        })
        .collect();
    keys.sort();
    keys
}

/// A value, the key it is for, and where it was found.
#[derive(Debug, Clone)]
struct Given {
    key: String,
    value: Value,
    place: Place,
}

/// Values as a source of the `config` crate.
#[derive(Debug, Clone)]
struct Layer(Vec<Given>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        Ok(self.0.iter().map(|given| (given.key.clone(), given.value.clone())).collect())
    }
}

/// Reads values over the defaults; of two for one key the later holds.
fn deserialize(given: &[Given]) -> Result<RawSettings, config::ConfigError> {
    // One source for each value: within a source the `config` crate keeps no order, and a table would be merged.
    let layers = given.iter().map(|given| Layer(vec![given.clone()]));
    layers.fold(Config::builder(), |builder, layer| builder.add_source(layer)).build()?.try_deserialize()
}

/// What is wrong, without the path: the place is said already.
fn reason(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => reason(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            let unexpected = unexpected.to_string();
            let found = found(&unexpected);
            // The text of a variable that could not be read as an unsigned number may yet be a number.
            let is_negative = found.trim_matches(['`', '"']).parse::<i64>().is_ok_and(|number| number < 0);
            let expected = if is_negative && *expected == "an integer" { "an unsigned" } else { expected };
            format!("{found} is not {}", wanted(expected))
        }
        other => other.to_string(),
    }
}

/// A value of the wrong type, without the name that the `config` crate has for its type.
fn found(unexpected: &str) -> &str {
    match (unexpected.find(['`', '"']), unexpected) {
        (Some(start), _) => &unexpected[start..],
        (None, "sequence") => "a list",
        (None, "map") => "a table",
        (None, other) => other,
    }
}

/// A type in the words of people, of the `config` crate's own.
fn wanted(expected: &str) -> &str {
    match expected {
        "an unsigned 16 bit integer" => "a whole number from 0 to 65535",
        "an unsigned 32 bit integer" => "a whole number from 0 to 4294967295",
        _ if expected.starts_with("an unsigned") => "a whole number of at least 0",
        "an integer" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a floating point" => "a number",
        "a string" => "a text",
        other => other,
    }
}

fn flag_value(flag: &FlagValue) -> Given {
    let (_, key) = SHORT_NAMES
        .iter()
        .find(|(name, _)| *name == flag.name)
        .expect("flags that set something are listed in SHORT_NAMES");
    Given { key: (*key).into(), value: flag.value.clone(), place: Place::Flag(flag.name) }
}

/// Reads the file twice over: by `toml` for the lines, by `config` for the values.
fn file_values(file: &SettingsFile, keys: &[String]) -> Result<Vec<Given>, Problem> {
    let line_of = |offset: usize| file.text[..offset].matches('\n').count() + 1;
    let table = DeTable::parse(&file.text).map_err(|error| Problem {
        place: Place::File(file.path.clone(), error.span().map_or(1, |span| line_of(span.start))),
        why: format!("not valid TOML: {}", error.message()),
    })?;
    let mut lines = BTreeMap::new();
    for (section, value) in table.get_ref() {
        lines.insert(section.get_ref().to_string(), line_of(section.span().start));
        for (key, _) in value.get_ref().as_table().into_iter().flatten() {
            lines.insert(format!("{}.{}", section.get_ref(), key.get_ref()), line_of(key.span().start));
        }
    }
    let place = |key: &str| Place::File(file.path.clone(), lines.get(key).copied().unwrap_or(1));
    let sections = config::File::from_str(&file.text, FileFormat::Toml)
        .collect()
        .map_err(|error| Problem { place: place(""), why: error.to_string() })?;
    let mut given = Vec::new();
    for (section, value) in sections {
        match value.kind {
            // A section that holds nothing does no harm, unless its name was meant for another.
            ValueKind::Table(values) if values.is_empty() && !sections_of(keys).contains(&section) => {
                let value = ValueKind::Table(values).into();
                given.push(Given { place: place(&section), key: format!("{section}."), value });
            }
            ValueKind::Table(values) => given.extend(values.into_iter().map(|(key, value)| {
                let key = format!("{section}.{key}");
                Given { place: place(&key), key, value }
            })),
            _ => given.push(Given { place: place(&section), key: section, value }),
        }
    }
    // The map has no order of its own; people read errors from top to bottom.
    given.sort_by_key(|given| match given.place {
        Place::File(_, line) => line,
        _ => 0,
    });
    Ok(given)
}

fn env_values(env: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        if rest == "CONFIG" || is_service_link(rest, text) {
            continue;
        }
        let key = match rest.split_once("__") {
            Some((section, key)) => format!("{}.{}", section.to_lowercase(), key.to_lowercase()),
            None => match SHORT_NAMES.iter().find(|(short, _)| env_name(short) == *rest) {
                Some((_, key)) => (*key).into(),
                None => {
                    problems.push(unknown_variable(name, rest));
                    continue;
                }
            },
        };
        // `PORT= candlewick …` says nothing about the port. An empty key is the exception: it is a secret that got lost
        // on its way here, and without it the server would be open.
        if text.trim().is_empty() && key != API_KEYS {
            continue;
        }
        given.push(Given { key, value: Value::new(None, text.as_str()), place: Place::Env(name.clone()) });
    }
    // Where both names of one key are set, the exact one holds.
    given.sort_by_key(|given| matches!(&given.place, Place::Env(name) if name.contains("__")));
    given
}

fn env_name(short: &str) -> String {
    short.replace('-', "_").to_uppercase()
}

/// Kubernetes sets such variables in every pod beside a service that is called `candlewick`.
fn is_service_link(rest: &str, text: &str) -> bool {
    rest.starts_with("SERVICE_") || rest.starts_with("PORT_") || (rest == "PORT" && text.contains("://"))
}

fn unknown_variable(name: &str, rest: &str) -> Problem {
    let shorts: Vec<String> = SHORT_NAMES.iter().map(|(short, _)| env_name(short)).collect();
    let hint = nearest(rest, &shorts).map_or_else(
        || format!("a key of a section is set as {ENV_PREFIX}SECTION__KEY"),
        |short| format!("did you mean {ENV_PREFIX}{short}?"),
    );
    Problem { place: Place::Env(name.into()), why: format!("there is no such setting; {hint}") }
}

fn unknown_key(given: &Given, keys: &[String]) -> String {
    let sections = sections_of(keys);
    if sections.contains(&given.key) {
        return format!("`{0}` is a section, not a value; write `[{0}]` and its keys below", given.key);
    }
    let hint = nearest(&given.key, keys).map(|key| format!("; did you mean `{key}`?"));
    match given.key.split_once('.') {
        // A name for the key that is nothing like any says nothing of what was meant; the section's may.
        Some((section, key))
            if (hint.is_none() || key.is_empty()) && !sections.iter().any(|known| known == section) =>
        {
            let hint = match nearest(section, &sections) {
                Some(section) => format!("did you mean `[{section}]`?"),
                None => format!("there are {}", sections.join(", ")),
            };
            format!("there is no section `[{section}]`; {hint}")
        }
        _ => format!("there is no setting `{}`{}", given.key, hint.unwrap_or_default()),
    }
}

/// The sections that keys are in, each once.
fn sections_of(keys: &[String]) -> Vec<String> {
    let mut sections: Vec<String> =
        keys.iter().filter_map(|key| Some(key.split_once('.')?.0.to_owned())).collect();
    sections.dedup();
    sections
}

/// The candidate that a misspelt name most likely means. The last segments count by themselves too: a good key in the
/// wrong section is near.
pub fn nearest<'a>(name: &str, candidates: &'a [String]) -> Option<&'a str> {
    const NEAR_ENOUGH: f64 = 0.55;
    let leaf = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, candidate);
        let leaves = strsim::normalized_damerau_levenshtein(&leaf(name), &leaf(candidate));
        whole.max(leaves - 0.01)
    };
    let best = candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= NEAR_ENOUGH).then_some(best.as_str())
}

/// Where a settings file is looked for when none is named: first in the folder we are in, then in the user's.
pub fn default_files(working_dir: &Path, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let user = match (env.get("XDG_CONFIG_HOME"), env.get("HOME")) {
        (Some(folder), _) if !folder.is_empty() => Some(PathBuf::from(folder)),
        (_, Some(home)) if !home.is_empty() => Some(Path::new(home).join(".config")),
        _ => None,
    };
    let here = working_dir.join("config/candlewick.toml");
    std::iter::once(here).chain(user.map(|folder| folder.join("candlewick/candlewick.toml"))).collect()
}
