//! What the steps of one batcher take: told in its model's series, and learned from for the deadlines of those to come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::ModelMetrics;
use crate::step_times::StepTimes;
use crate::stepper::StepTime;

/// The record of one batcher.
pub struct StepRecord {
    metrics: Arc<ModelMetrics>,
    /// Over all batchers of one load.
    times: Arc<Mutex<StepTimes>>,
    /// When the step ended that the one in flight came right after.
    previous_ended: Option<Instant>,
}

impl StepRecord {
    /// Nothing was computed yet.
    pub fn new(metrics: Arc<ModelMetrics>, times: Arc<Mutex<StepTimes>>) -> Self {
        Self { metrics, times, previous_ended: None }
    }

    /// How long a step of so many tokens may take; at least `floor`.
    pub fn deadline(&self, num_tokens: usize, floor: Duration) -> Duration {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).deadline(num_tokens, floor)
    }

    /// A step of so many tokens was computed. Answers how long it was waited for: what lies between two steps is time that
    /// passes for those who wait.
    pub fn note(&mut self, num_tokens: usize, time: StepTime) -> Duration {
        let elapsed = time.ended - time.began;
        self.times.lock().unwrap_or_else(PoisonError::into_inner).observe(num_tokens, elapsed);
        let engine = &self.metrics.engine;
        engine.iteration_tokens.observe(num_tokens as f64);
        engine.step_seconds.observe(elapsed.as_secs_f64());
        let previous_ended = self.previous_ended.replace(time.ended);
        if let Some(previous_ended) = previous_ended {
            engine.step_gap_seconds.observe((time.began - previous_ended).as_secs_f64());
        }
        time.ended - previous_ended.unwrap_or(time.began)
    }

    /// Something else was done since the last step, which is no part of the gap to the next one.
    pub fn skip_gap(&mut self) {
        self.previous_ended = self.previous_ended.map(|_| Instant::now());
    }

    /// There is nothing to compute.
    pub fn rest(&mut self) {
        self.previous_ended = None;
    }
}
