//! The supervisor's part in a hang: looks at its children now and then, and gives up those that do not go on.
//!
//! What hangs is not asked and not waited for: it is killed, which ends what waits, and left behind, if it blocks a thread.
//! Then it is as if it had crashed.

use std::time::Duration;

use candlewick_protocol::RequestKey;
use ractor::ActorRef;

use super::{ModelMsg, ModelState, Phase};
use crate::batcher::BatcherCrash;
use crate::pulse::Watched;
use crate::tree::tell_after;

/// Bounds of the time between two looks.
const PERIOD_MIN: Duration = Duration::from_millis(5);
const PERIOD_MAX: Duration = Duration::from_secs(1);

/// What is known of a batcher's pulses.
#[derive(Debug, Default)]
pub(super) struct WatchedBatcher {
    handler: Watched,
    step: Watched,
}

impl ModelState {
    /// Looks again after a while.
    pub(super) fn watch_on(&mut self, myself: &ActorRef<ModelMsg>) {
        self.next_look = Some(tell_after(tokio::time::sleep(self.watch_period()), myself, ModelMsg::Watch));
    }

    fn watch_period(&self) -> Duration {
        (self.tree.settings().hang_timeout / 8).clamp(PERIOD_MIN, PERIOD_MAX)
    }

    /// Looks at everybody.
    pub(super) async fn watch(&mut self, myself: &ActorRef<ModelMsg>) {
        let elapsed = self.clock.tick(self.watch_period());
        let limit = self.tree.settings().hang_timeout;
        for request in self.requests.values_mut() {
            if request.watched.look(&request.pulse, elapsed).is_some_and(|busy| busy > limit) {
                tracing::error!(model = %self.id, request = %request.key, "a request's actor hangs: it is ended");
                // Its client is told that the request was lost.
                request.party.cell().kill();
            }
        }
        if matches!(self.phase, Phase::Loading { .. }) {
            self.stalled_for += elapsed;
            if self.stalled_for > self.tree.settings().load_stall_timeout {
                self.give_up_load(myself);
            }
        }
        if let Some((suspects, why)) = self.hung_batcher(elapsed, limit)
            && let Phase::Loaded { batcher: Some(batcher), .. } = &self.phase
        {
            batcher.cell().kill();
            self.vitals.give_up_thread();
            self.metrics.faults.batchers_hung.inc();
            self.batcher_crashed(myself, BatcherCrash { suspects, why }).await;
        }
        self.watch_on(myself);
    }

    /// Whether the batcher hangs: for whom, and in what.
    fn hung_batcher(&mut self, elapsed: Duration, limit: Duration) -> Option<(Vec<RequestKey>, String)> {
        let handler = self.watched.handler.look(&self.vitals.handler, elapsed);
        let step = self.watched.step.look(&self.vitals.step, elapsed);
        if handler.is_some_and(|busy| busy > limit) {
            let why = format!("the batcher hangs: it has been at one message for {} s", limit.as_secs_f64());
            return Some((self.requests.values().map(|request| request.key).collect(), why));
        }
        let deadline = self.vitals.deadline()?;
        if step.is_some_and(|busy| busy > deadline) {
            let why = format!(
                "the forward pass hangs: it has taken {} s, and far less was to be expected",
                deadline.as_secs_f64()
            );
            return Some((self.vitals.suspects(), why));
        }
        None
    }
}
