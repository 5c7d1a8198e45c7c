//! What is told of a model's crashes and hangs.

use prometheus::{Counter, Gauge};

use super::maker::Maker;

/// The series of a model's crashes and hangs.
pub struct FaultSeries {
    /// Batchers that replaced a crashed one.
    pub batcher_restarts: Counter,
    /// Times that the model was given up because it crashed too often.
    pub given_up: Counter,
    /// Steps that took too long, and batchers that did not handle a message.
    pub batchers_hung: Counter,
    /// Threads that were given up and have not ended.
    pub threads_lost: Gauge,
}

impl FaultSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            batcher_restarts: make
                .counter("candlewick_batcher_restarts_total", "Batchers that replaced a crashed one."),
            given_up: make.counter(
                "candlewick_models_given_up_total",
                "Times that a model was given up, and its memory freed, because it crashed too often.",
            ),
            batchers_hung: make.counter(
                "candlewick_batchers_hung_total",
                "Batchers that were given up because a step, or a message, took too long.",
            ),
            threads_lost: make
                .gauge("candlewick_threads_lost", "Threads that hang: given up, and still there."),
        }
    }
}
