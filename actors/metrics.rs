//! Prometheus series under the names that vLLM's dashboards know, and a few of our own.
//!
//! Source of names, labels and buckets: vLLM `v1/metrics/loggers.py`. `model_name` is the id that clients use.

use std::sync::Arc;
use std::time::Duration;

use candlewick_protocol::{ActorRole, FinishReason};
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::census::{Census, Person};
use crate::memory::MemoryUse;
use crate::pressure::Level;

const MODEL: &[&str] = &["model_name"];
const ROLE: &[&str] = &["role"];

const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const NEXT_TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const STEP_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0,
];
const STEP_GAP_SECONDS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
];
const TOKENS_PER_STEP: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// Every series of one tree.
pub struct Metrics {
    registry: Registry,
    models_loaded: IntGauge,
    num_actors: IntGauge,
    mailbox_depth: IntGaugeVec,
    actor_crashes: IntCounterVec,
    memory: MemorySeries,
    num_requests_running: GaugeVec,
    num_requests_waiting: GaugeVec,
    kv_cache_usage: GaugeVec,
    num_preemptions: CounterVec,
    prefix_queries: CounterVec,
    prefix_hits: CounterVec,
    num_drafts: CounterVec,
    num_draft_tokens: CounterVec,
    num_accepted_tokens: CounterVec,
    prompt_tokens: CounterVec,
    generation_tokens: CounterVec,
    request_success: CounterVec,
    first_token_seconds: HistogramVec,
    next_token_seconds: HistogramVec,
    request_seconds: HistogramVec,
    queue_seconds: HistogramVec,
    iteration_tokens: HistogramVec,
    step_seconds: HistogramVec,
    step_gap_seconds: HistogramVec,
    batcher_restarts: CounterVec,
    batchers_hung: CounterVec,
    threads_lost: GaugeVec,
}

/// The series of one model, looked up once.
#[derive(Clone)]
pub struct ModelMetrics {
    /// Requests that generate.
    pub num_requests_running: Gauge,
    /// Requests that wait, for the load or for a place.
    pub num_requests_waiting: Gauge,
    /// Part of the KV cache in use, from 0 to 1.
    pub kv_cache_usage: Gauge,
    /// Sequences that had to give their blocks back.
    pub num_preemptions: Counter,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: Counter,
    /// Those of them that were there.
    pub prefix_hits: Counter,
    /// Times that the next tokens of a sequence were guessed.
    pub num_drafts: Counter,
    /// Tokens of those guesses.
    pub num_draft_tokens: Counter,
    /// Those of them that were right.
    pub num_accepted_tokens: Counter,
    /// Tokens of prompts read.
    pub prompt_tokens: Counter,
    /// Tokens generated.
    pub generation_tokens: Counter,
    /// From the request to its first token.
    pub first_token_seconds: Histogram,
    /// From one token to the next.
    pub next_token_seconds: Histogram,
    /// From the request to its end.
    pub request_seconds: Histogram,
    /// From the request to its first step.
    pub queue_seconds: Histogram,
    /// Tokens computed in a step.
    pub iteration_tokens: Histogram,
    /// Time that the model takes for a step.
    pub step_seconds: Histogram,
    /// Time between two steps that follow each other at once: what deciding and telling add to them.
    pub step_gap_seconds: Histogram,
    /// Batchers that replaced a crashed one.
    pub batcher_restarts: Counter,
    /// Steps that took too long, and batchers that did not handle a message.
    pub batchers_hung: Counter,
    /// Threads that were given up and have not ended.
    pub threads_lost: Gauge,
    request_success: CounterVec,
    model_name: String,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| {
            let gauge = GaugeVec::new(Opts::new(name, help), MODEL).expect(VALID);
            registry.register(Box::new(gauge.clone())).expect(UNIQUE);
            gauge
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = CounterVec::new(Opts::new(name, help), labels).expect(VALID);
            registry.register(Box::new(counter.clone())).expect(UNIQUE);
            counter
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = HistogramVec::new(opts, MODEL).expect(VALID);
            registry.register(Box::new(histogram.clone())).expect(UNIQUE);
            histogram
        };
        let models_loaded = IntGauge::new("candlewick_models_loaded", "Models in memory.").expect(VALID);
        registry.register(Box::new(models_loaded.clone())).expect(UNIQUE);
        let num_actors =
            IntGauge::new("candlewick_actors", "Actors and stepper threads that live.").expect(VALID);
        registry.register(Box::new(num_actors.clone())).expect(UNIQUE);
        let mailbox_depth =
            Opts::new("candlewick_mailbox_depth", "Messages that wait for actors of one kind, together.");
        let mailbox_depth = IntGaugeVec::new(mailbox_depth, ROLE).expect(VALID);
        registry.register(Box::new(mailbox_depth.clone())).expect(UNIQUE);
        let actor_crashes = Opts::new("candlewick_actor_crashes_total", "Actors of one kind that crashed.");
        let actor_crashes = IntCounterVec::new(actor_crashes, ROLE).expect(VALID);
        registry.register(Box::new(actor_crashes.clone())).expect(UNIQUE);
        Arc::new(Self {
            models_loaded,
            num_actors,
            mailbox_depth,
            actor_crashes,
            memory: MemorySeries::new(&registry),
            num_requests_running: gauge("vllm:num_requests_running", "Requests that are generating."),
            num_requests_waiting: gauge(
                "vllm:num_requests_waiting",
                "Requests that wait, for the load or for a place.",
            ),
            kv_cache_usage: gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
            num_preemptions: counter(
                "vllm:num_preemptions_total",
                "Sequences that gave their blocks back.",
                MODEL,
            ),
            prefix_queries: counter(
                "vllm:prefix_cache_queries_total",
                "Prefix cache queries, in terms of number of queried tokens.",
                MODEL,
            ),
            prefix_hits: counter(
                "vllm:prefix_cache_hits_total",
                "Prefix cache hits, in terms of number of cached tokens.",
                MODEL,
            ),
            num_drafts: counter(
                "vllm:spec_decode_num_drafts_total",
                "Number of spec decoding drafts.",
                MODEL,
            ),
            num_draft_tokens: counter(
                "vllm:spec_decode_num_draft_tokens_total",
                "Number of draft tokens.",
                MODEL,
            ),
            num_accepted_tokens: counter(
                "vllm:spec_decode_num_accepted_tokens_total",
                "Number of accepted tokens.",
                MODEL,
            ),
            prompt_tokens: counter("vllm:prompt_tokens_total", "Prompt tokens processed.", MODEL),
            generation_tokens: counter("vllm:generation_tokens_total", "Generation tokens processed.", MODEL),
            request_success: counter(
                "vllm:request_success_total",
                "Requests that were answered.",
                &["model_name", "finished_reason"],
            ),
            first_token_seconds: histogram(
                "vllm:time_to_first_token_seconds",
                "Time from the request to its first token, in seconds.",
                FIRST_TOKEN_SECONDS,
            ),
            next_token_seconds: histogram(
                "vllm:inter_token_latency_seconds",
                "Time from one token to the next, in seconds.",
                NEXT_TOKEN_SECONDS,
            ),
            request_seconds: histogram(
                "vllm:e2e_request_latency_seconds",
                "Time from the request to its end, in seconds.",
                REQUEST_SECONDS,
            ),
            queue_seconds: histogram(
                "vllm:request_queue_time_seconds",
                "Time from the request to its first step, in seconds.",
                REQUEST_SECONDS,
            ),
            iteration_tokens: histogram(
                "vllm:iteration_tokens_total",
                "Tokens computed in one step.",
                TOKENS_PER_STEP,
            ),
            step_seconds: histogram(
                "candlewick_step_seconds",
                "Time that the model takes for a step, in seconds.",
                STEP_SECONDS,
            ),
            step_gap_seconds: histogram(
                "candlewick_step_gap_seconds",
                "Time between two steps that follow each other at once, in seconds.",
                STEP_GAP_SECONDS,
            ),
            batcher_restarts: counter(
                "candlewick_batcher_restarts_total",
                "Batchers that replaced a crashed one.",
                MODEL,
            ),
            batchers_hung: counter(
                "candlewick_batchers_hung_total",
                "Batchers that were given up because a step, or a message, took too long.",
                MODEL,
            ),
            threads_lost: gauge("candlewick_threads_lost", "Threads that hang: given up, and still there."),
            registry,
        })
    }

    /// The series of one model.
    pub fn model(&self, model_name: &str) -> ModelMetrics {
        let labels = &[model_name];
        ModelMetrics {
            num_requests_running: self.num_requests_running.with_label_values(labels),
            num_requests_waiting: self.num_requests_waiting.with_label_values(labels),
            kv_cache_usage: self.kv_cache_usage.with_label_values(labels),
            num_preemptions: self.num_preemptions.with_label_values(labels),
            prefix_queries: self.prefix_queries.with_label_values(labels),
            prefix_hits: self.prefix_hits.with_label_values(labels),
            num_drafts: self.num_drafts.with_label_values(labels),
            num_draft_tokens: self.num_draft_tokens.with_label_values(labels),
            num_accepted_tokens: self.num_accepted_tokens.with_label_values(labels),
            prompt_tokens: self.prompt_tokens.with_label_values(labels),
            generation_tokens: self.generation_tokens.with_label_values(labels),
            first_token_seconds: self.first_token_seconds.with_label_values(labels),
            next_token_seconds: self.next_token_seconds.with_label_values(labels),
            request_seconds: self.request_seconds.with_label_values(labels),
            queue_seconds: self.queue_seconds.with_label_values(labels),
            iteration_tokens: self.iteration_tokens.with_label_values(labels),
            step_seconds: self.step_seconds.with_label_values(labels),
            step_gap_seconds: self.step_gap_seconds.with_label_values(labels),
            batcher_restarts: self.batcher_restarts.with_label_values(labels),
            batchers_hung: self.batchers_hung.with_label_values(labels),
            threads_lost: self.threads_lost.with_label_values(labels),
            request_success: self.request_success.clone(),
            model_name: model_name.into(),
        }
    }

    /// Counts a model in memory for as long as the answer is kept.
    pub fn model_loaded(&self) -> Counted {
        self.models_loaded.inc();
        Counted(self.models_loaded.clone())
    }

    /// How much is used of the tightest limit, and what is given up for it.
    pub fn memory_measured(&self, tightest: &MemoryUse, level: Level) {
        self.memory.used_bytes.set(tightest.used_bytes as f64);
        self.memory.limit_bytes.set(tightest.limit_bytes as f64);
        self.memory.level.set(level as i64);
    }

    /// Something more is given up.
    pub fn memory_step(&self, level: Level) {
        self.memory.steps.with_label_values(&[level.name()]).inc();
    }

    /// Something was refused because memory is short.
    pub fn memory_refused(&self, what: &str) {
        self.memory.refused.with_label_values(&[what]).inc();
    }

    /// All series in Prometheus' text format 0.0.4, with what the census knows at this moment.
    pub fn text(&self, census: &Census) -> String {
        self.num_actors.set(census.count() as i64);
        let (people, crashes) = (census.people_alive(), census.crashes_by_role());
        for role in ActorRole::ALL {
            let depths = people.iter().filter(|person| person.role == role).filter_map(Person::mailbox_depth);
            self.mailbox_depth.with_label_values(&[role.as_str()]).set(depths.sum::<u64>() as i64);
            let crashes_told = self.actor_crashes.with_label_values(&[role.as_str()]);
            let crashes = crashes.get(&role).copied().unwrap_or_default();
            crashes_told.inc_by(crashes.saturating_sub(crashes_told.get()));
        }
        // The encoder fails only on a broken family, and every family above is made by this file.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// What is told of memory.
struct MemorySeries {
    used_bytes: Gauge,
    limit_bytes: Gauge,
    level: IntGauge,
    steps: CounterVec,
    refused: CounterVec,
}

impl MemorySeries {
    fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help).expect(VALID);
            registry.register(Box::new(gauge.clone())).expect(UNIQUE);
            gauge
        };
        let counter = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counter = CounterVec::new(Opts::new(name, help), &[label]).expect(VALID);
            // Zero until it happens, rather than absent.
            values.iter().for_each(|value| counter.with_label_values(&[*value]).inc_by(0.0));
            registry.register(Box::new(counter.clone())).expect(UNIQUE);
            counter
        };
        let level = IntGauge::new(
            "candlewick_memory_pressure",
            "What is given up because memory is short: 0 nothing, 1 prefixes, 2 long prompts, 3 idle models, 4 requests.",
        );
        let level = level.expect(VALID);
        registry.register(Box::new(level.clone())).expect(UNIQUE);
        Self {
            used_bytes: gauge(
                "candlewick_memory_used_bytes",
                "What is used of the tightest limit on memory.",
            ),
            limit_bytes: gauge("candlewick_memory_limit_bytes", "The tightest limit on memory."),
            level,
            steps: counter(
                "candlewick_memory_pressure_steps_total",
                "How often something more was given up because memory was short.",
                "step",
                &Level::STEPS.map(Level::name),
            ),
            refused: counter(
                "candlewick_memory_refused_total",
                "Requests that were refused because memory was short.",
                "what",
                &["request", "long_prompt"],
            ),
        }
    }
}

const VALID: &str = "the series of this file have valid names and labels";
const UNIQUE: &str = "each series of this file is registered once";

impl ModelMetrics {
    /// A choice was answered in full.
    pub fn succeeded(&self, reason: FinishReason) {
        let reason = match reason {
            FinishReason::Stop | FinishReason::ToolCalls => "stop",
            FinishReason::Length => "length",
        };
        self.request_success.with_label_values(&[self.model_name.as_str(), reason]).inc();
    }
}

/// One model in memory.
pub struct Counted(IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Where one request stands in the gauges; it leaves them when it is dropped.
pub struct RequestGauge {
    metrics: ModelMetrics,
    is_running: bool,
    since: tokio::time::Instant,
}

impl RequestGauge {
    /// A request that waits.
    pub fn waiting(metrics: ModelMetrics) -> Self {
        metrics.num_requests_waiting.inc();
        Self { metrics, is_running: false, since: tokio::time::Instant::now() }
    }

    /// It is part of a step. Only the first time counts: after a crash it is not queued anew.
    pub fn running(&mut self) {
        if !self.is_running {
            self.is_running = true;
            self.metrics.num_requests_waiting.dec();
            self.metrics.num_requests_running.inc();
            self.metrics.queue_seconds.observe(self.age().as_secs_f64());
        }
    }

    /// How long ago the request came.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The model's series.
    pub fn metrics(&self) -> &ModelMetrics {
        &self.metrics
    }
}

impl Drop for RequestGauge {
    fn drop(&mut self) {
        match self.is_running {
            true => self.metrics.num_requests_running.dec(),
            false => self.metrics.num_requests_waiting.dec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(metrics: &Metrics, line: &str) {
        let text = metrics.text(&Census::new());
        assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn a_request_is_in_one_gauge_at_a_time_and_then_in_none() {
        let metrics = Metrics::new();
        let mut request = RequestGauge::waiting(metrics.model("org/m"));
        check(&metrics, r#"vllm:num_requests_waiting{model_name="org/m"} 1"#);
        request.running();
        request.running();
        check(&metrics, r#"vllm:num_requests_waiting{model_name="org/m"} 0"#);
        check(&metrics, r#"vllm:num_requests_running{model_name="org/m"} 1"#);
        drop(request);
        check(&metrics, r#"vllm:num_requests_running{model_name="org/m"} 0"#);
        check(&metrics, r#"vllm:request_queue_time_seconds_count{model_name="org/m"} 1"#);
    }

    #[test]
    fn series_have_the_names_dashboards_know() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        model.succeeded(FinishReason::ToolCalls);
        model.iteration_tokens.observe(3.0);
        check(&metrics, r#"vllm:request_success_total{finished_reason="stop",model_name="org/m"} 1"#);
        check(&metrics, r#"vllm:iteration_tokens_total_sum{model_name="org/m"} 3"#);
        check(&metrics, "# TYPE vllm:time_to_first_token_seconds histogram");
        check(&metrics, "candlewick_models_loaded 0");
    }

    #[test]
    fn crashes_and_mailboxes_are_told_by_kind() {
        let (metrics, census) = (Metrics::new(), Census::new());
        census.crashed(ActorRole::Batcher, "org/m", "a test says so");
        census.crashed(ActorRole::Batcher, "org/n", "a test says so");
        for _ in 0..2 {
            let text = metrics.text(&census);
            assert!(text.contains("candlewick_actor_crashes_total{role=\"batcher\"} 2\n"), "{text}");
            assert!(text.contains("candlewick_mailbox_depth{role=\"request\"} 0\n"), "{text}");
        }
    }
}
