//! What is told of the requests of one model: how many, how long, how much.

use std::sync::Arc;

use candlewick_protocol::{ErrorKind, FinishReason};
use prometheus::{Counter, CounterVec, Gauge, Histogram};
use tokio::time::Instant;

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
/// As vLLM has them for a context of a million: one set for all models, so that they can be added up.
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// The series of a model's requests.
pub struct RequestSeries {
    num_running: Gauge,
    num_waiting: Gauge,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    choices_ended: CounterVec,
    failures: CounterVec,
    first_token_seconds: Histogram,
    next_token_seconds: Histogram,
    seconds_per_token: Histogram,
    request_seconds: Histogram,
    queue_seconds: Histogram,
    prefill_seconds: Histogram,
    decode_seconds: Histogram,
    inference_seconds: Histogram,
    num_prompt_tokens: Histogram,
    num_generation_tokens: Histogram,
    num_tokens_of_longest: Histogram,
    num_choices: Histogram,
    max_tokens: Histogram,
}

impl RequestSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        let seconds = |name: &str, help: &str| make.histogram(name, help, REQUEST_SECONDS);
        let tokens = |name: &str, help: &str| make.histogram(name, help, TOKENS);
        Self {
            num_running: make.gauge("vllm:num_requests_running", "Requests that have a place in the batch."),
            num_waiting: make
                .gauge("vllm:num_requests_waiting", "Requests that wait, for the load or for a place."),
            prompt_tokens: make.counter(
                "vllm:prompt_tokens_total",
                "Tokens of prompts that were given a place in the batch, those in the prefix cache included.",
            ),
            generation_tokens: make.counter("vllm:generation_tokens_total", "Tokens that were generated."),
            choices_ended: make.counters(
                "vllm:request_success_total",
                "Choices that have ended, by why. A request has n of them.",
                "finished_reason",
                ["stop", "length", "abort", "error"],
            ),
            failures: make.counters(
                "candlewick_request_failures_total",
                "Requests for this model that ended without their whole answer, by why.",
                "kind",
                ErrorKind::ALL.map(ErrorKind::as_str),
            ),
            first_token_seconds: make.histogram(
                "vllm:time_to_first_token_seconds",
                "Time from a request to its first token, in seconds.",
                FIRST_TOKEN_SECONDS,
            ),
            next_token_seconds: make.histogram(
                "vllm:inter_token_latency_seconds",
                "Time from one step that brought a request tokens to the next, in seconds.",
                NEXT_TOKEN_SECONDS,
            ),
            seconds_per_token: make.histogram(
                "vllm:request_time_per_output_token_seconds",
                "Mean time between the tokens of an answer after its first, in seconds.",
                NEXT_TOKEN_SECONDS,
            ),
            request_seconds: seconds(
                "vllm:e2e_request_latency_seconds",
                "Time from a request to the end of its answer, in seconds.",
            ),
            queue_seconds: seconds(
                "vllm:request_queue_time_seconds",
                "Time from a request to its first step, in seconds.",
            ),
            prefill_seconds: seconds(
                "vllm:request_prefill_time_seconds",
                "Time from a request's first step to its first token, in seconds.",
            ),
            decode_seconds: seconds(
                "vllm:request_decode_time_seconds",
                "Time from a request's first token to its last, in seconds.",
            ),
            inference_seconds: seconds(
                "vllm:request_inference_time_seconds",
                "Time from a request's first step to its last token, in seconds.",
            ),
            num_prompt_tokens: tokens("vllm:request_prompt_tokens", "Tokens of a request's prompt."),
            num_generation_tokens: tokens(
                "vllm:request_generation_tokens",
                "Tokens generated for a request, all its choices together.",
            ),
            num_tokens_of_longest: tokens(
                "vllm:request_max_num_generation_tokens",
                "Tokens of the longest choice of a request.",
            ),
            num_choices: make.histogram("vllm:request_params_n", "Choices that a request asks for.", CHOICES),
            max_tokens: tokens(
                "vllm:request_params_max_tokens",
                "Most tokens that a choice may have: by the request, or else what its context leaves.",
            ),
        }
    }

    /// A request is refused before there is anything to follow.
    pub fn refused(&self, kind: ErrorKind) {
        self.failures.with_label_values(&[kind.as_str()]).inc();
    }
}

/// How large an answer has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerSize {
    /// Tokens of the prompt.
    pub num_prompt_tokens: u64,
    /// Tokens of all choices.
    pub num_tokens: u64,
    /// Tokens of the longest choice.
    pub num_tokens_of_longest: u64,
    /// Choices that were asked for.
    pub num_choices: u32,
    /// Most tokens that a choice could have had.
    pub max_tokens: u32,
}

/// What one request has come to, and when; told as it happens, and as a whole when it ends. It leaves the gauges when it is
/// dropped, and one that is dropped before its end was lost.
pub struct Timeline {
    metrics: Arc<ModelMetrics>,
    num_choices: u64,
    num_choices_ended: u64,
    num_tokens: u64,
    came: Instant,
    given_place: Option<Instant>,
    first_token: Option<Instant>,
    latest_token: Option<Instant>,
    has_ended: bool,
}

impl Timeline {
    /// Of a request that comes now, and waits.
    pub fn begin(metrics: Arc<ModelMetrics>, num_choices: u32) -> Self {
        metrics.requests.num_waiting.inc();
        Self {
            metrics,
            num_choices: num_choices.into(),
            num_choices_ended: 0,
            num_tokens: 0,
            came: Instant::now(),
            given_place: None,
            first_token: None,
            latest_token: None,
            has_ended: false,
        }
    }

    /// It is part of a step. Only the first time counts: after a crash it is not queued anew.
    pub fn give_place(&mut self, num_prompt_tokens: usize) {
        if self.given_place.is_none() {
            let now = Instant::now();
            self.given_place = Some(now);
            let requests = &self.metrics.requests;
            requests.num_waiting.dec();
            requests.num_running.inc();
            requests.prompt_tokens.inc_by(num_prompt_tokens as f64);
            requests.queue_seconds.observe((now - self.came).as_secs_f64());
        }
    }

    /// A step has brought it tokens.
    pub fn take_tokens(&mut self, num_tokens: usize) {
        let (now, requests) = (Instant::now(), &self.metrics.requests);
        self.num_tokens += num_tokens as u64;
        requests.generation_tokens.inc_by(num_tokens as f64);
        match self.latest_token.replace(now) {
            Some(latest) => requests.next_token_seconds.observe((now - latest).as_secs_f64()),
            None => {
                self.first_token = Some(now);
                requests.first_token_seconds.observe((now - self.came).as_secs_f64());
                if let Some(given_place) = self.given_place {
                    requests.prefill_seconds.observe((now - given_place).as_secs_f64());
                }
            }
        }
    }

    /// A choice is whole.
    pub fn end_choice(&mut self, reason: FinishReason) {
        self.num_choices_ended += 1;
        let reason = match reason {
            FinishReason::Stop | FinishReason::ToolCalls => "stop",
            FinishReason::Length => "length",
        };
        self.metrics.requests.choices_ended.with_label_values(&[reason]).inc();
    }

    /// The answer is whole.
    pub fn finish(&mut self, size: AnswerSize) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let requests = &self.metrics.requests;
        requests.request_seconds.observe(self.came.elapsed().as_secs_f64());
        requests.num_prompt_tokens.observe(size.num_prompt_tokens as f64);
        requests.num_generation_tokens.observe(size.num_tokens as f64);
        requests.num_tokens_of_longest.observe(size.num_tokens_of_longest as f64);
        requests.num_choices.observe(size.num_choices.into());
        requests.max_tokens.observe(size.max_tokens.into());
        let (Some(first), Some(latest)) = (self.first_token, self.latest_token) else { return };
        let decoding = (latest - first).as_secs_f64();
        requests.decode_seconds.observe(decoding);
        if let Some(given_place) = self.given_place {
            requests.inference_seconds.observe((latest - given_place).as_secs_f64());
        }
        // Of one token alone there is no time between tokens.
        if size.num_tokens_of_longest > 1 {
            requests.seconds_per_token.observe(decoding / (size.num_tokens_of_longest - 1) as f64);
        }
    }

    /// There will be no whole answer.
    pub fn fail(&mut self, kind: ErrorKind) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let requests = &self.metrics.requests;
        requests.refused(kind);
        let reason = if kind == ErrorKind::Cancelled { "abort" } else { "error" };
        let num_open = self.num_choices.saturating_sub(self.num_choices_ended);
        requests.choices_ended.with_label_values(&[reason]).inc_by(num_open as f64);
    }

    /// Whether it was part of a step.
    pub fn had_place(&self) -> bool {
        self.given_place.is_some()
    }

    /// Tokens that it has had.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// The model's series.
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.metrics
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.fail(ErrorKind::Internal);
        match self.given_place {
            Some(_) => self.metrics.requests.num_running.dec(),
            None => self.metrics.requests.num_waiting.dec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;
    use crate::metrics::tests::check;

    /// A value of a series of `org/m` that has no other label.
    #[track_caller]
    fn check_value(metrics: &Metrics, name: &str, value: &str) {
        check(metrics, &format!(r#"{name}{{model_name="org/m"}} {value}"#));
    }

    // Each test holds on to its model: one that was never in memory is forgotten with its last request.

    #[test]
    fn a_request_is_in_one_gauge_at_a_time_and_then_in_none() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        let mut request = Timeline::begin(model.clone(), 1);
        check_value(&metrics, "vllm:num_requests_waiting", "1");
        request.give_place(3);
        request.give_place(3);
        check_value(&metrics, "vllm:num_requests_waiting", "0");
        check_value(&metrics, "vllm:num_requests_running", "1");
        drop(request);
        check_value(&metrics, "vllm:num_requests_running", "0");
        check_value(&metrics, "vllm:request_queue_time_seconds_count", "1");
        check_value(&metrics, "vllm:prompt_tokens_total", "3");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_took_is_told_by_what_it_was_at() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        let mut request = Timeline::begin(model.clone(), 2);
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        pass(1).await;
        request.give_place(7);
        pass(2).await;
        request.take_tokens(2);
        pass(4).await;
        request.take_tokens(2);
        request.end_choice(FinishReason::Stop);
        pass(4).await;
        request.take_tokens(1);
        request.end_choice(FinishReason::Length);
        let size = AnswerSize {
            num_prompt_tokens: 7,
            num_tokens: 5,
            num_tokens_of_longest: 3,
            num_choices: 2,
            max_tokens: 3,
        };
        request.finish(size);
        drop(request);
        for (name, sum) in [
            ("request_queue_time_seconds", "1"),
            ("request_prefill_time_seconds", "2"),
            ("time_to_first_token_seconds", "3"),
            ("inter_token_latency_seconds", "8"),
            ("request_decode_time_seconds", "8"),
            ("request_inference_time_seconds", "10"),
            ("request_time_per_output_token_seconds", "4"),
            ("e2e_request_latency_seconds", "11"),
            ("request_prompt_tokens", "7"),
            ("request_generation_tokens", "5"),
            ("request_max_num_generation_tokens", "3"),
            ("request_params_n", "2"),
            ("request_params_max_tokens", "3"),
        ] {
            check_value(&metrics, &format!("vllm:{name}_sum"), sum);
            let count = if name == "inter_token_latency_seconds" { "2" } else { "1" };
            check_value(&metrics, &format!("vllm:{name}_count"), count);
        }
        check_value(&metrics, "vllm:generation_tokens_total", "5");
        for (reason, count) in [("stop", 1), ("length", 1), ("abort", 0), ("error", 0)] {
            let labels = format!(r#"finished_reason="{reason}",model_name="org/m""#);
            check(&metrics, &format!("vllm:request_success_total{{{labels}}} {count}"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_token_has_no_time_between_tokens() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        let mut request = Timeline::begin(model.clone(), 1);
        request.give_place(7);
        request.take_tokens(1);
        request.finish(AnswerSize {
            num_prompt_tokens: 7,
            num_tokens: 1,
            num_tokens_of_longest: 1,
            num_choices: 1,
            max_tokens: 9,
        });
        check_value(&metrics, "vllm:request_time_per_output_token_seconds_count", "0");
        check_value(&metrics, "vllm:request_decode_time_seconds_count", "1");
    }

    #[test]
    fn a_request_that_is_not_answered_is_told_once_by_why() {
        let metrics = Metrics::new();
        let model = metrics.model("org/m");
        let begin = || Timeline::begin(model.clone(), 3);
        let mut left = begin();
        left.end_choice(FinishReason::Stop);
        left.fail(ErrorKind::Cancelled);
        drop(left);
        let mut failed = begin();
        failed.fail(ErrorKind::Timeout);
        failed.fail(ErrorKind::Internal);
        drop(failed);
        drop(begin());
        for (kind, count) in [("cancelled", 1), ("timeout", 1), ("internal", 1), ("overloaded", 0)] {
            let labels = format!(r#"kind="{kind}",model_name="org/m""#);
            check(&metrics, &format!("candlewick_request_failures_total{{{labels}}} {count}"));
        }
        for (reason, count) in [("stop", 1), ("abort", 2), ("error", 6)] {
            let labels = format!(r#"finished_reason="{reason}",model_name="org/m""#);
            check(&metrics, &format!("vllm:request_success_total{{{labels}}} {count}"));
        }
        check_value(&metrics, "vllm:e2e_request_latency_seconds_count", "0");
    }
}
