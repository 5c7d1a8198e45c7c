//! What is told of models: where each stands, how its loads went, and what it holds while it is in memory.

use std::sync::Arc;

use candlewick_protocol::ActorState;
use prometheus::{Counter, Gauge, GaugeVec, Histogram};

use super::ModelMetrics;
use super::maker::Maker;

const LOAD_SECONDS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

const STATES: [(ActorState, &str); 5] = [
    (ActorState::Loading, "loading"),
    (ActorState::Ready, "ready"),
    (ActorState::Degraded, "degraded"),
    (ActorState::Restarting, "restarting"),
    (ActorState::Failed, "failed"),
];

/// The series of one model's loads.
pub struct LoadSeries {
    /// From the beginning of a load to its end, of those that succeeded.
    pub load_seconds: Histogram,
    /// Loads that failed.
    pub failures: Counter,
    weight_bytes: Gauge,
    kv_cache_bytes: Gauge,
}

impl LoadSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            load_seconds: make.histogram(
                "candlewick_model_load_seconds",
                "Time that a load took which succeeded, download included, in seconds.",
                LOAD_SECONDS,
            ),
            failures: make.counter("candlewick_model_load_failures_total", "Loads that failed."),
            weight_bytes: make.gauge(
                "candlewick_model_weight_bytes",
                "Bytes of a model's weights in memory; 0 while it is not loaded.",
            ),
            kv_cache_bytes: make.gauge(
                "candlewick_kv_cache_bytes",
                "Bytes that a model's KV cache holds when it is full; 0 while the model is not loaded.",
            ),
        }
    }

    /// Whether the model has ever been in memory.
    pub fn has_succeeded(&self) -> bool {
        self.load_seconds.get_sample_count() > 0
    }
}

/// The series of the models, all of them.
pub struct ModelsSeries {
    loaded: Gauge,
    state: GaugeVec,
    cache_config: GaugeVec,
}

/// What a model holds while it is in memory.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes that a token takes in the KV cache.
    pub kv_bytes_per_token: u64,
    /// Tokens in a block.
    pub block_size: u32,
    /// Blocks of the KV cache.
    pub num_blocks: u32,
    /// Whether prefixes are shared.
    pub prefix_caching: bool,
}

impl ModelsSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            loaded: make.gauge("candlewick_models_loaded", "Models in memory."),
            state: make.table(
                "candlewick_model_state",
                "Where a model stands: 1 for the state that it is in, 0 for the others.",
                &["model_name", "state"],
            ),
            cache_config: make.table(
                "vllm:cache_config_info",
                "How the KV cache of a model in memory is made; the value is 1.",
                &["model_name", "block_size", "enable_prefix_caching", "num_gpu_blocks"],
            ),
        }
    }

    /// Takes over where each model stands. Models that are not among them stand nowhere.
    pub fn take_states(&self, states: &[(String, ActorState)]) {
        self.state.reset();
        for (model_name, state) in states {
            for (possible, word) in STATES {
                let is_it = f64::from(*state == possible);
                self.state.with_label_values(&[model_name.as_str(), word]).set(is_it);
            }
        }
    }

    /// Tells of a model in memory for as long as the answer is kept.
    pub fn in_memory(&self, metrics: &Arc<ModelMetrics>, held: Held) -> InMemory {
        let config = [
            metrics.name.clone(),
            held.block_size.to_string(),
            held.prefix_caching.to_string(),
            held.num_blocks.to_string(),
        ];
        self.loaded.inc();
        self.cache_config.with_label_values(&config).inc();
        let num_tokens = u64::from(held.block_size) * u64::from(held.num_blocks);
        metrics.loads.weight_bytes.set(held.weight_bytes as f64);
        metrics.loads.kv_cache_bytes.set((num_tokens * held.kv_bytes_per_token) as f64);
        let (loaded, cache_config) = (self.loaded.clone(), self.cache_config.clone());
        InMemory { loaded, cache_config, config, metrics: metrics.clone() }
    }
}

/// One model in memory.
pub struct InMemory {
    loaded: Gauge,
    cache_config: GaugeVec,
    config: [String; 4],
    metrics: Arc<ModelMetrics>,
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.loaded.dec();
        let config = self.cache_config.with_label_values(&self.config);
        config.dec();
        // It may be in memory again before the one before it is gone.
        if config.get() <= 0.0 {
            let _ = self.cache_config.remove_label_values(&self.config);
            self.metrics.loads.weight_bytes.set(0.0);
            self.metrics.loads.kv_cache_bytes.set(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::Census;
    use crate::metrics::Metrics;
    use crate::metrics::tests::check;

    #[test]
    fn what_a_model_holds_is_told_while_it_is_in_memory() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        let held = Held {
            weight_bytes: 1000,
            kv_bytes_per_token: 10,
            block_size: 16,
            num_blocks: 4,
            prefix_caching: true,
        };
        let in_memory = metrics.models.in_memory(&model, held);
        let config = r#"vllm:cache_config_info{block_size="16",enable_prefix_caching="true",model_name="org/m",num_gpu_blocks="4"}"#;
        check(&metrics, &format!("{config} 1"));
        check(&metrics, "candlewick_models_loaded 1");
        check(&metrics, r#"candlewick_model_weight_bytes{model_name="org/m"} 1000"#);
        check(&metrics, r#"candlewick_kv_cache_bytes{model_name="org/m"} 640"#);
        drop(in_memory);
        check(&metrics, "candlewick_models_loaded 0");
        check(&metrics, r#"candlewick_kv_cache_bytes{model_name="org/m"} 0"#);
        assert!(!metrics.text(&Census::new(), &[]).contains("vllm:cache_config_info{"));
    }

    #[test]
    fn a_model_is_in_one_state_and_then_forgotten() {
        let metrics = Metrics::new();
        let text = metrics.text(&Census::new(), &[("org/m".into(), ActorState::Degraded)]);
        for (state, value) in [("degraded", 1), ("ready", 0), ("failed", 0)] {
            let line = format!("candlewick_model_state{{model_name=\"org/m\",state=\"{state}\"}} {value}\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(!metrics.text(&Census::new(), &[]).contains("candlewick_model_state{"));
    }
}
