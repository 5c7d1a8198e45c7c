//! What the rooms are told of the settings: each in its own words, with the files that settings name read.

use std::path::{Path, PathBuf};

use candlewick_actors::TreeSettings;
use candlewick_api::{ApiKey, ApiSettings, Cors, ReasoningFields};
use candlewick_engine::LoadOptions;
use candlewick_engine::text::TextOptions;
use candlewick_protocol::Failpoints;

use crate::chat_template::ChatTemplateError;
use crate::settings::{KvCacheSize, ReasoningField, ServerSettings, Settings};

/// Why a file that the settings name cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RoomSettingsError {
    /// The chat template.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// The file of API keys.
    #[error("cannot read the API keys of {}: {why}", path.display())]
    ApiKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What HTTP is told. Reads the file of keys.
pub fn api_settings(settings: ServerSettings) -> Result<ApiSettings, RoomSettingsError> {
    let of_settings = settings.api_keys.iter().map(|line| line.parse().expect("it was checked"));
    let mut keys: Vec<ApiKey> = of_settings.collect();
    if let Some(path) = settings.api_key_file {
        keys.extend(read_keys(&path)?);
    }
    Ok(ApiSettings {
        api_keys: keys,
        cors: match (settings.enable_cors, settings.allowed_origins) {
            (false, _) => Cors::Off,
            (true, origins) if origins.is_empty() => Cors::AnyOrigin,
            (true, origins) => Cors::Origins(origins),
        },
        reasoning_fields: match settings.reasoning_field {
            ReasoningField::Both => ReasoningFields::Both,
            ReasoningField::Reasoning => ReasoningFields::Reasoning,
            ReasoningField::ReasoningContent => ReasoningFields::ReasoningContent,
        },
        metrics_public: settings.metrics_public,
        body_limit_bytes: settings.max_body_bytes,
        header_timeout: settings.header_timeout,
        body_timeout: settings.body_timeout,
        min_body_rate: settings.min_body_rate,
        keep_alive: settings.keep_alive,
        stream_open_after: settings.stream_open_after,
        max_logprobs: settings.max_logprobs,
        trust_request_chat_template: settings.trust_request_chat_template,
        strict_fields: settings.strict_fields,
        echo_revision: settings.echo_revision,
    })
}

/// The keys of a file, one a line. A file without any would leave the server open to everybody.
fn read_keys(path: &Path) -> Result<Vec<ApiKey>, RoomSettingsError> {
    let refuse = |why: String| RoomSettingsError::ApiKeys { path: path.into(), why };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let mut keys = Vec::<ApiKey>::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if !line.is_empty() && !line.starts_with('#') {
            keys.push(line.parse().map_err(|why| refuse(format!("line {number}: {why}")))?);
        }
    }
    if keys.is_empty() { Err(refuse("there is no key in it".into())) } else { Ok(keys) }
}

/// What the actors are told. Reads the chat template.
pub fn tree_settings(settings: &Settings, available_bytes: u64) -> Result<TreeSettings, RoomSettingsError> {
    let (models, engine) = (&settings.models, &settings.engine);
    let share = |share: f64| (available_bytes as f64 * share) as u64;
    let (kv_cache_bytes, num_blocks) = match engine.kv_cache {
        KvCacheSize::Bytes(bytes) => (bytes, None),
        KvCacheSize::ShareOfFree(part) => (share(part), None),
        KvCacheSize::Blocks(count) => (available_bytes, Some(count)),
    };
    let chat_template = match &models.chat_template {
        None => None,
        Some(template) => Some(template.read()?),
    };
    if let Some(line) = models.quantization.explain() {
        tracing::info!("{line}");
    }
    Ok(TreeSettings {
        pinned: models.pinned.clone(),
        preload: models.preload.clone(),
        aliases: models.aliases.clone(),
        sampling: models.sampling.clone(),
        model_timeout: models.model_timeout,
        max_running: engine.max_running,
        max_queued: engine.max_queued,
        request_timeout: engine.request_timeout,
        max_model_len: models.max_model_len,
        max_step_tokens: engine.max_step_tokens,
        max_inter_token: engine.max_inter_token,
        speculation: engine.speculation,
        drafts: engine.drafts.clone(),
        block_size: engine.block_size,
        kv_cache_bytes,
        num_blocks,
        prefix_caching: engine.prefix_caching,
        stream_capacity: engine.stream_capacity,
        default_seed: models.default_seed,
        load: LoadOptions {
            dtype: models.dtype,
            quantization: models.quantization.scheme(),
            kv_cache: engine.kv_cache_dtype.dtype(),
            kernels: engine.kernels.kernels(),
        },
        text: TextOptions {
            chat_template,
            template_kwargs: models.template_kwargs.clone(),
            tool_call_parser: models.tool_call_parser.clone(),
            // Each model is given those of its tree as it is loaded.
            failpoints: Failpoints::default(),
        },
        max_restarts: engine.max_restarts,
        restart_window: engine.restart_window,
        hang_timeout: engine.hang_timeout,
        load_stall_timeout: models.load_stall_timeout,
        load_failure_ttl: models.load_failure_ttl,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{FlagValue, Sources};

    fn settings(flags: &[(&'static str, &str)]) -> Settings {
        let flags = flags.iter().map(|(name, value)| FlagValue::new(name, *value)).collect();
        Settings::load(&Sources { flags, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_kv_cache_has_one_size() {
        let size = |flags: &[(&'static str, &str)]| {
            let tree = tree_settings(&settings(flags), 1000).expect("good");
            (tree.kv_cache_bytes, tree.num_blocks)
        };
        assert_eq!(size(&[]), (300, None));
        assert_eq!(size(&[("cb-max-memory-percent", "0.5")]), (500, None));
        assert_eq!(size(&[("kv-cache-memory", "7")]), (7, None));
        assert_eq!(size(&[("cb-num-blocks", "9")]).1, Some(9));
    }

    #[test]
    fn a_chat_template_may_be_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, "{{ bos_token }}").expect("written");
        let name = path.to_str().expect("plain");
        let tree = tree_settings(&settings(&[("chat-template", name)]), 0).expect("good");
        assert_eq!(tree.text.chat_template.as_deref(), Some("{{ bos_token }}"));
        std::fs::remove_file(&path).expect("removed");
        let error =
            tree_settings(&settings(&[("chat-template", name)]), 0).expect_err("it is gone").to_string();
        assert!(error.contains(name), "{error}");
    }
}
