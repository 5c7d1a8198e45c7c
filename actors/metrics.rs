//! Prometheus series under the names that vLLM's dashboards know, and a few of our own. `docs/metrics.md` lists them.
//!
//! Source of vLLM's names, labels and buckets: its `v1/metrics/loggers.py`. Each subject has a file of its own. What the server is
//! asked for must not grow the list without end: a model that was never in memory is told of only while somebody is at it.

mod engine;
mod faults;
mod loads;
mod maker;
mod memory;
mod people;
mod process;
mod requests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candlewick_protocol::ActorState;
use prometheus::core::Collector;
use prometheus::{Registry, TextEncoder};

use self::engine::EngineSeries;
use self::faults::FaultSeries;
pub use self::loads::{Held, InMemory};
use self::loads::{LoadSeries, ModelsSeries};
use self::maker::Maker;
use self::memory::MemorySeries;
use self::people::PeopleSeries;
use self::requests::RequestSeries;
pub use self::requests::{AnswerSize, Timeline};
use crate::census::Census;

/// Every series of one tree.
pub struct Metrics {
    /// Of memory.
    pub memory: MemorySeries,
    /// Of the models, all of them.
    pub models: ModelsSeries,
    people: PeopleSeries,
    of_model: Mutex<BTreeMap<String, Known>>,
    registry: Registry,
}

/// A model that somebody has asked for.
struct Known {
    metrics: Arc<ModelMetrics>,
    collectors: Vec<Box<dyn Collector>>,
}

/// The series of one model.
pub struct ModelMetrics {
    /// The id that clients use.
    pub name: String,
    /// Of its requests.
    pub requests: RequestSeries,
    /// Of its engine.
    pub engine: EngineSeries,
    /// Of its loads.
    pub loads: LoadSeries,
    /// Of its crashes and hangs.
    pub faults: FaultSeries,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let make = Maker::of_server(&registry);
        process::tell_process(&registry, &make);
        Arc::new(Self {
            memory: MemorySeries::new(&make),
            models: ModelsSeries::new(&make),
            people: PeopleSeries::new(&make),
            of_model: Mutex::default(),
            registry,
        })
    }

    /// The series of one model. `model_name` is the id that clients use.
    pub fn model(&self, model_name: &str) -> Arc<ModelMetrics> {
        let mut models = self.lock();
        if let Some(known) = models.get(model_name) {
            return known.metrics.clone();
        }
        self.forget_passers_by(&mut models);
        let make = Maker::of_model(&self.registry, model_name);
        let metrics = Arc::new(ModelMetrics {
            name: model_name.into(),
            requests: RequestSeries::new(&make),
            engine: EngineSeries::new(&make),
            loads: LoadSeries::new(&make),
            faults: FaultSeries::new(&make),
        });
        models.insert(model_name.into(), Known { metrics: metrics.clone(), collectors: make.made() });
        metrics
    }

    /// The series of a model, if there are any.
    pub fn known_model(&self, model_name: &str) -> Option<Arc<ModelMetrics>> {
        self.lock().get(model_name).map(|known| known.metrics.clone())
    }

    /// All series in Prometheus' text format 0.0.4, with what the census knows at this moment and where the models stand.
    /// Reads files of the system.
    pub fn text(&self, census: &Census, states: &[(String, ActorState)]) -> String {
        // One question at a time: what is taken over for one is not to be half replaced for another.
        let mut models = self.lock();
        self.forget_passers_by(&mut models);
        self.people.take(census);
        self.models.take_states(states);
        // The encoder fails only on a broken family, and every family above is made by this folder.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Forgets models that were never in memory, once nobody is at them.
    fn forget_passers_by(&self, models: &mut BTreeMap<String, Known>) {
        // Under the lock nobody can come to hold one that nobody holds.
        let is_passing =
            |known: &Known| !known.metrics.loads.has_succeeded() && Arc::strong_count(&known.metrics) == 1;
        for (_, known) in models.extract_if(.., |_, known| is_passing(known)) {
            for collector in known.collectors {
                self.registry.unregister(collector).expect("what is told was registered");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.of_model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use candlewick_protocol::{ErrorKind, FinishReason};

    use super::*;

    #[track_caller]
    pub fn check(metrics: &Metrics, line: &str) {
        let text = metrics.text(&Census::new(), &[]);
        assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn series_have_the_names_dashboards_know() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        Timeline::begin(model.clone(), 1).end_choice(FinishReason::ToolCalls);
        model.engine.iteration_tokens.observe(3.0);
        check(&metrics, r#"vllm:request_success_total{finished_reason="stop",model_name="org/m"} 1"#);
        check(&metrics, r#"vllm:iteration_tokens_total_sum{model_name="org/m"} 3"#);
        check(&metrics, "# TYPE vllm:time_to_first_token_seconds histogram");
        check(&metrics, "candlewick_models_loaded 0");
    }

    #[test]
    fn models_that_were_only_asked_for_leave_nothing() {
        let metrics = Metrics::new();
        let is_told =
            |model: &str| metrics.text(&Census::new(), &[]).contains(&format!("model_name=\"{model}\""));
        let held = metrics.model("org/none");
        held.requests.refused(ErrorKind::ModelNotFound);
        assert!(is_told("org/none"), "somebody is at it");
        drop(held);
        assert!(!is_told("org/none"));
        metrics.model("org/m").loads.load_seconds.observe(1.0);
        assert!(is_told("org/m"), "it was in memory");
        drop(metrics.model("org/none"));
        drop(metrics.model("org/none-either"));
        assert!(metrics.known_model("org/none").is_none(), "also where nobody asks for metrics");
    }

    #[test]
    fn names_are_told_as_they_are_whatever_is_in_them() {
        let metrics = Metrics::new();
        let held = metrics.model("./a \"model\"\\\nof\tmine");
        let told = r#"vllm:num_requests_running{model_name="./a \"model\"\\\nof"#;
        let text = metrics.text(&Census::new(), &[]);
        assert!(text.lines().any(|line| line == format!("{told}\tmine\"}} 0")), "{text}");
        drop(held);
    }
}
