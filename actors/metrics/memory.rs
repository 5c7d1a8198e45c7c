//! What is told of memory, and of what is given up as it runs out.

use prometheus::{CounterVec, Gauge};

use super::maker::Maker;
use crate::memory::MemoryUse;
use crate::pressure::Level;

/// The series of memory.
pub struct MemorySeries {
    used_bytes: Gauge,
    limit_bytes: Gauge,
    level: Gauge,
    steps: CounterVec,
    refused: CounterVec,
}

impl MemorySeries {
    pub fn new(make: &Maker<'_>) -> Self {
        Self {
            used_bytes: make
                .gauge("candlewick_memory_used_bytes", "What is used of the tightest limit on memory."),
            limit_bytes: make.gauge("candlewick_memory_limit_bytes", "The tightest limit on memory."),
            level: make.gauge(
                "candlewick_memory_pressure",
                "What is given up because memory is short: 0 nothing, 1 prefixes, 2 long prompts, 3 idle models, 4 requests.",
            ),
            steps: make.counters(
                "candlewick_memory_pressure_steps_total",
                "How often something more was given up because memory was short.",
                "step",
                Level::STEPS.map(Level::name),
            ),
            refused: make.counters(
                "candlewick_memory_refused_total",
                "Requests that were refused or given up because memory was short.",
                "what",
                ["request", "long_prompt", "answer"],
            ),
        }
    }

    /// How much is used of the tightest limit, and what is given up for it.
    pub fn measured(&self, tightest: &MemoryUse, level: Level) {
        self.used_bytes.set(tightest.used_bytes as f64);
        self.limit_bytes.set(tightest.limit_bytes as f64);
        self.level.set(f64::from(level as u8));
    }

    /// Something more is given up.
    pub fn step(&self, level: Level) {
        self.steps.with_label_values(&[level.name()]).inc();
    }

    /// Something was refused because memory is short.
    pub fn refused(&self, what: &str) {
        self.refused.with_label_values(&[what]).inc();
    }
}
