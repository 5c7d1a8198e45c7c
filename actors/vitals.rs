//! What a supervisor can see of its batcher without asking it: whether it is at work, on what, and for whom.
//!
//! A batcher that hangs answers no question, and one that is killed leaves no last word. So it writes here what is needed
//! to go on without it; the supervisor makes one for each batcher, and reads.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use candlewick_protocol::RequestKey;

use crate::lost::Worker;
use crate::pulse::Pulse;

/// One batcher, seen from outside.
#[derive(Default)]
pub struct Vitals {
    /// Goes on with each message that the batcher handles.
    pub handler: Pulse,
    /// Goes on with each step.
    pub step: Pulse,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: Option<Step>,
    /// The stepper's thread.
    thread: Option<Worker>,
    /// Requests that were in a step that crashed, and have not had a token since.
    on_trial: HashSet<RequestKey>,
}

/// A step in flight.
struct Step {
    requests: Vec<RequestKey>,
    deadline: Duration,
}

impl Vitals {
    /// Of a batcher that is about to start, with requests that are suspected of having crashed its predecessor.
    pub fn new(on_trial: HashSet<RequestKey>) -> Self {
        Self { state: Mutex::new(State { on_trial, ..State::default() }), ..Self::default() }
    }

    /// The stepper has this thread, and makes the model; that may take so long.
    pub fn begin_start(&self, thread: Worker, deadline: Duration) {
        self.lock().thread = Some(thread);
        self.begin_step(Vec::new(), deadline);
    }

    /// A step for these requests begins, and may take so long.
    pub fn begin_step(&self, requests: Vec<RequestKey>, deadline: Duration) {
        self.lock().step = Some(Step { requests, deadline });
        self.step.begin();
    }

    /// The step is over.
    pub fn end_step(&self) {
        self.step.end();
        self.lock().step = None;
    }

    /// How long the step in flight may take.
    pub fn deadline(&self) -> Option<Duration> {
        self.lock().step.as_ref().map(|step| step.deadline)
    }

    /// The requests of the step in flight.
    pub fn suspects(&self) -> Vec<RequestKey> {
        self.lock().step.as_ref().map(|step| step.requests.clone()).unwrap_or_default()
    }

    /// A request has had a token.
    pub fn advanced(&self, request: RequestKey) {
        let mut state = self.lock();
        if !state.on_trial.is_empty() {
            state.on_trial.remove(&request);
        }
    }

    /// Those who were on trial from the start and still are.
    pub fn on_trial(&self) -> HashSet<RequestKey> {
        self.lock().on_trial.clone()
    }

    /// Nobody waits for the stepper's thread any more.
    pub fn give_up_thread(&self) {
        if let Some(thread) = &self.lock().thread {
            thread.give_up();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
