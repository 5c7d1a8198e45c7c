//! Holding a fake model up and breaking it, from a test in another thread. Nothing here sleeps or measures time.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::encode::{EncodePlan, TextId};
use crate::{StepError, StepPlan};

/// How to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Unwind.
    Panic,
    /// Return an error.
    Error,
}

/// A gate that work passes through. Open to begin with.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    /// How many may pass although it is closed.
    num_passes: u64,
    /// How many stand before it.
    num_held: u64,
}

impl Gate {
    /// Holds up all that comes from now on.
    pub fn close(&self) {
        lock(&self.state).is_closed = true;
    }

    /// Lets everything through, now and from now on.
    pub fn open(&self) {
        let mut state = lock(&self.state);
        state.is_closed = false;
        state.num_passes = 0;
        self.changed.notify_all();
    }

    /// Lets so many more through a closed gate.
    pub fn let_pass(&self, num_passes: u64) {
        lock(&self.state).num_passes += num_passes;
        self.changed.notify_all();
    }

    /// Blocks until somebody stands before the closed gate. What they do next waits for `let_pass` or `open`.
    pub fn wait_held(&self) {
        let mut state = lock(&self.state);
        while state.num_held == 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Passes, or blocks until it may.
    pub fn pass(&self) {
        let mut state = lock(&self.state);
        state.num_held += 1;
        self.changed.notify_all();
        while state.is_closed && state.num_passes == 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_closed {
            state.num_passes -= 1;
        }
        state.num_held -= 1;
    }
}

/// Commands to fake models, shared by all that are started of the same weights: counts go on across restarts, so that
/// what broke one model does not break its successor.
#[derive(Debug, Default)]
pub struct FakeControl {
    /// Every step passes here before it computes. Closed, the model hangs.
    pub step_gate: Gate,
    state: Mutex<ControlState>,
}

#[derive(Debug, Default)]
struct ControlState {
    num_steps: u64,
    /// Steps that break, by number from zero.
    faulty_steps: HashMap<u64, Fault>,
    /// Tokens that break every step they are in.
    poison: HashMap<u32, Fault>,
    plans: Vec<StepPlan>,
    keeps_plans: bool,
    passes: Vec<Vec<TextId>>,
    keeps_passes: bool,
}

impl FakeControl {
    /// Breaks the step of this number, counted from zero over all models.
    pub fn break_step(&self, number: u64, fault: Fault) {
        lock(&self.state).faulty_steps.insert(number, fault);
    }

    /// Breaks the next step.
    pub fn break_next_step(&self, fault: Fault) {
        let mut state = lock(&self.state);
        let number = state.num_steps;
        state.faulty_steps.insert(number, fault);
    }

    /// Breaks every step in which this token is computed: a prompt that has it is a poisonous one.
    pub fn poison(&self, token_id: u32, fault: Fault) {
        lock(&self.state).poison.insert(token_id, fault);
    }

    /// Steps begun so far, over all models.
    pub fn num_steps(&self) -> u64 {
        lock(&self.state).num_steps
    }

    /// Keeps every plan from now on, for `plans`.
    pub fn keep_plans(&self) {
        lock(&self.state).keeps_plans = true;
    }

    /// The plans since `keep_plans`.
    pub fn plans(&self) -> Vec<StepPlan> {
        lock(&self.state).plans.clone()
    }

    /// Keeps the texts of every pass from now on, for `passes`.
    pub fn keep_passes(&self) {
        lock(&self.state).keeps_passes = true;
    }

    /// The texts of each pass since `keep_passes`.
    pub fn passes(&self) -> Vec<Vec<TextId>> {
        lock(&self.state).passes.clone()
    }

    /// What a model does before it computes: counts, stands at the gate, breaks.
    pub(super) fn before_step(&self, plan: &StepPlan) -> Result<(), StepError> {
        let number = self.count(|state| {
            if state.keeps_plans {
                state.plans.push(plan.clone());
            }
        });
        self.stand_and_break(number, plan.chunks.iter().flat_map(|chunk| &chunk.token_ids))
    }

    /// The same of an encoder.
    pub(super) fn before_pass(&self, plan: &EncodePlan) -> Result<(), StepError> {
        let number = self.count(|state| {
            if state.keeps_passes {
                state.passes.push(plan.texts.iter().map(|text| text.id).collect());
            }
        });
        self.stand_and_break(number, plan.texts.iter().flat_map(|text| &text.input.token_ids))
    }

    /// The number of the step that begins.
    fn count(&self, note: impl FnOnce(&mut ControlState)) -> u64 {
        let mut state = lock(&self.state);
        state.num_steps += 1;
        note(&mut state);
        state.num_steps - 1
    }

    fn stand_and_break<'a>(
        &self,
        number: u64,
        token_ids: impl Iterator<Item = &'a u32>,
    ) -> Result<(), StepError> {
        self.step_gate.pass();
        // Asked behind the gate, so that a test may break the step that it holds.
        let fault = {
            let state = lock(&self.state);
            let mut token_ids = token_ids;
            let poison = || token_ids.find_map(|id| state.poison.get(id));
            state.faulty_steps.get(&number).or_else(poison).copied()
        };
        match fault {
            None => Ok(()),
            Some(Fault::Error) => Err(StepError::Compute(format!("step {number} was told to fail"))),
            Some(Fault::Panic) => panic!("step {number} was told to panic"),
        }
    }
}

/// Locks even after a panic elsewhere: panics are what these tests are about, and no state is left half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
