//! Prometheus series under the names that vLLM's dashboards know, and a few of our own.
//!
//! Source of vLLM's names, labels and buckets: its `v1/metrics/loggers.py`. Each subject has a file of its own.

mod engine;
mod faults;
mod maker;
mod memory;
mod people;
mod requests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Gauge, Registry, TextEncoder};

use self::engine::EngineSeries;
use self::faults::FaultSeries;
use self::maker::Maker;
use self::memory::MemorySeries;
use self::people::PeopleSeries;
pub use self::requests::RequestGauge;
use self::requests::RequestSeries;
use crate::census::Census;

/// Every series of one tree.
pub struct Metrics {
    /// Of memory.
    pub memory: MemorySeries,
    people: PeopleSeries,
    models_loaded: Gauge,
    models: Mutex<BTreeMap<String, Arc<ModelMetrics>>>,
    registry: Registry,
}

/// The series of one model.
pub struct ModelMetrics {
    /// Of its requests.
    pub requests: RequestSeries,
    /// Of its engine.
    pub engine: EngineSeries,
    /// Of its crashes and hangs.
    pub faults: FaultSeries,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let make = Maker::of_server(&registry);
        Arc::new(Self {
            memory: MemorySeries::new(&make),
            people: PeopleSeries::new(&make),
            models_loaded: make.gauge("candlewick_models_loaded", "Models in memory."),
            models: Mutex::default(),
            registry,
        })
    }

    /// The series of one model. `model_name` is the id that clients use.
    pub fn model(&self, model_name: &str) -> Arc<ModelMetrics> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = models.get(model_name) {
            return known.clone();
        }
        let make = Maker::of_model(&self.registry, model_name);
        let made = Arc::new(ModelMetrics {
            requests: RequestSeries::new(&make),
            engine: EngineSeries::new(&make),
            faults: FaultSeries::new(&make),
        });
        models.insert(model_name.into(), made.clone());
        made
    }

    /// Counts a model in memory for as long as the answer is kept.
    pub fn model_loaded(&self) -> Counted {
        self.models_loaded.inc();
        Counted(self.models_loaded.clone())
    }

    /// All series in Prometheus' text format 0.0.4, with what the census knows at this moment.
    pub fn text(&self, census: &Census) -> String {
        self.people.take(census);
        // The encoder fails only on a broken family, and every family above is made by this folder.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// One model in memory.
pub struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use candlewick_protocol::FinishReason;

    use super::*;

    #[track_caller]
    pub fn check(metrics: &Metrics, line: &str) {
        let text = metrics.text(&Census::new());
        assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn series_have_the_names_dashboards_know() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        model.requests.succeeded(FinishReason::ToolCalls);
        model.engine.iteration_tokens.observe(3.0);
        check(&metrics, r#"vllm:request_success_total{finished_reason="stop",model_name="org/m"} 1"#);
        check(&metrics, r#"vllm:iteration_tokens_total_sum{model_name="org/m"} 3"#);
        check(&metrics, "# TYPE vllm:time_to_first_token_seconds histogram");
        check(&metrics, "candlewick_models_loaded 0");
    }
}
