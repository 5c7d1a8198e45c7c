//! What a change of each setting takes to be felt by a server that runs: the one table of it.

use std::fmt;

/// What a change takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it holds at once, for what is in flight too where that has a meaning.
    Live,
    /// It holds for requests that come after it.
    NextRequest,
    /// It holds for models that are loaded after it.
    ReloadModel,
    /// It waits until the server is started again.
    Restart,
}

impl Effect {
    /// As people are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NextRequest => "next request",
            Self::ReloadModel => "reload model",
            Self::Restart => "restart",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

use Effect::{Live, NextRequest, ReloadModel, Restart};

/// Every key.
const EFFECTS: &[(&str, Effect)] = &[
    ("server.host", Restart),
    ("server.port", Restart),
    ("server.api_keys", Live),
    ("server.api_key_file", Live),
    ("server.enable_cors", Live),
    ("server.allowed_origins", Live),
    ("server.reasoning_field", NextRequest),
    ("server.http_workers", Restart),
    ("server.max_body", NextRequest),
    ("server.header_timeout", Restart),
    ("server.body_timeout", NextRequest),
    ("server.min_body_rate", NextRequest),
    ("server.keep_alive", NextRequest),
    ("server.stream_open_after", NextRequest),
    ("server.max_logprobs", NextRequest),
    ("server.trust_request_chat_template", NextRequest),
    ("server.strict_fields", NextRequest),
    ("server.echo_revision", NextRequest),
    ("server.metrics_public", Live),
    ("server.drain_timeout", Live),
    ("models.model", Live),
    ("models.served_model_name", NextRequest),
    ("models.aliases", NextRequest),
    ("models.preload", Live),
    ("models.model_timeout", Live),
    ("models.load_failure_ttl", Live),
    ("models.load_stall_timeout", Live),
    ("models.dtype", ReloadModel),
    ("models.quantization", ReloadModel),
    ("models.device", Restart),
    ("models.max_model_len", ReloadModel),
    ("models.default_seed", NextRequest),
    ("models.sampling_defaults", NextRequest),
    ("models.reasoning", NextRequest),
    ("models.tool_call_parser", NextRequest),
    ("models.chat_template", NextRequest),
    ("models.chat_template_kwargs", NextRequest),
    ("engine.max_running", Live),
    ("engine.max_queued", Live),
    ("engine.request_timeout", NextRequest),
    ("engine.max_batch_tokens", Live),
    ("engine.max_inter_token", Live),
    ("engine.kv_cache_memory", ReloadModel),
    ("engine.kv_cache_dtype", ReloadModel),
    ("engine.max_memory_percent", ReloadModel),
    ("engine.memory_limit", Restart),
    ("engine.block_size", ReloadModel),
    ("engine.num_blocks", ReloadModel),
    ("engine.prefix_caching", ReloadModel),
    ("engine.kernels", Restart),
    ("engine.threads", Restart),
    ("engine.stream_capacity", NextRequest),
    ("engine.max_restarts", Live),
    ("engine.restart_window", Live),
    ("engine.hang_timeout", Live),
    ("speculation.mode", ReloadModel),
    ("speculation.max_draft_tokens", ReloadModel),
    ("speculation.ngram_min", ReloadModel),
    ("speculation.ngram_max", ReloadModel),
    ("speculation.draft_model", ReloadModel),
    ("speculation.draft_models", ReloadModel),
    ("hub.cache_dir", Restart),
    ("hub.endpoint", Restart),
    ("hub.token", Restart),
    ("hub.offline", Restart),
    ("store.enabled", Restart),
    ("store.data_dir", Restart),
    ("store.response_ttl", Restart),
    ("log.level", Live),
    ("log.format", Restart),
    ("telemetry.otlp_endpoint", Restart),
    ("telemetry.otlp_protocol", Restart),
    ("telemetry.otlp_headers", Restart),
    ("telemetry.sample_ratio", Restart),
    ("telemetry.service_name", Restart),
];

/// What a change of this key takes.
pub fn effect_of(key: &str) -> Effect {
    EFFECTS.iter().find(|(known, _)| *known == key).map_or(Restart, |(_, effect)| *effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings_layers::known_keys;

    #[test]
    fn every_key_has_its_row() {
        let mut rows: Vec<&str> = EFFECTS.iter().map(|(key, _)| *key).collect();
        rows.sort_unstable();
        assert_eq!(rows, known_keys());
    }
}
