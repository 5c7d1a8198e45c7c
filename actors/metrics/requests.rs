//! What is told of the requests of one model: how many, how long, how much.

use std::sync::Arc;
use std::time::Duration;

use candlewick_protocol::FinishReason;
use prometheus::{Counter, CounterVec, Gauge, Histogram};

use super::ModelMetrics;
use super::maker::Maker;

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

/// The series of a model's requests.
pub struct RequestSeries {
    /// Requests that generate.
    pub num_running: Gauge,
    /// Requests that wait, for the load or for a place.
    pub num_waiting: Gauge,
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
    success: CounterVec,
}

impl RequestSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            num_running: make.gauge("vllm:num_requests_running", "Requests that are generating."),
            num_waiting: make
                .gauge("vllm:num_requests_waiting", "Requests that wait, for the load or for a place."),
            prompt_tokens: make.counter("vllm:prompt_tokens_total", "Prompt tokens processed."),
            generation_tokens: make.counter("vllm:generation_tokens_total", "Generation tokens processed."),
            first_token_seconds: make.histogram(
                "vllm:time_to_first_token_seconds",
                "Time from the request to its first token, in seconds.",
                FIRST_TOKEN_SECONDS,
            ),
            next_token_seconds: make.histogram(
                "vllm:inter_token_latency_seconds",
                "Time from one token to the next, in seconds.",
                NEXT_TOKEN_SECONDS,
            ),
            request_seconds: make.histogram(
                "vllm:e2e_request_latency_seconds",
                "Time from the request to its end, in seconds.",
                REQUEST_SECONDS,
            ),
            queue_seconds: make.histogram(
                "vllm:request_queue_time_seconds",
                "Time from the request to its first step, in seconds.",
                REQUEST_SECONDS,
            ),
            success: make.counters(
                "vllm:request_success_total",
                "Requests that were answered.",
                "finished_reason",
                ["stop", "length"],
            ),
        }
    }

    /// A choice was answered in full.
    pub fn succeeded(&self, reason: FinishReason) {
        let reason = match reason {
            FinishReason::Stop | FinishReason::ToolCalls => "stop",
            FinishReason::Length => "length",
        };
        self.success.with_label_values(&[reason]).inc();
    }
}

/// Where one request stands in the gauges; it leaves them when it is dropped.
pub struct RequestGauge {
    metrics: Arc<ModelMetrics>,
    is_running: bool,
    since: tokio::time::Instant,
}

impl RequestGauge {
    /// A request that waits.
    pub fn waiting(metrics: Arc<ModelMetrics>) -> Self {
        metrics.requests.num_waiting.inc();
        Self { metrics, is_running: false, since: tokio::time::Instant::now() }
    }

    /// It is part of a step. Only the first time counts: after a crash it is not queued anew.
    pub fn running(&mut self) {
        if !self.is_running {
            self.is_running = true;
            let requests = &self.metrics.requests;
            requests.num_waiting.dec();
            requests.num_running.inc();
            requests.queue_seconds.observe(self.age().as_secs_f64());
        }
    }

    /// How long ago the request came.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The model's series.
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.metrics
    }
}

impl Drop for RequestGauge {
    fn drop(&mut self) {
        match self.is_running {
            true => self.metrics.requests.num_running.dec(),
            false => self.metrics.requests.num_waiting.dec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::metrics::tests::check;

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
}
