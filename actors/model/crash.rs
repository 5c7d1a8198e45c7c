//! The supervisor's part in a crash: whom to suspect, when to restart, when to give up. The decisions are pure and elsewhere
//! (`quarantine.rs`, `restart.rs`); here they are carried out.

use std::sync::Arc;
use std::time::Duration;

use candlewick_engine::LoadError;
use candlewick_protocol::{ActorRole, ErrorKind, Failure, ModelStatus};
use ractor::{ActorCell, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::parties::AnyBatcher;
use super::watch::WatchedBatcher;
use super::{ModelMsg, ModelState, Phase};
use crate::batcher::{BatcherArgs, BatcherCrash};
use crate::restart::{RestartPolicy, Verdict};
use crate::vitals::Vitals;

impl ModelState {
    /// Starts a batcher and tells every request where to admit itself, the first time or again.
    pub(super) async fn start_batcher(&mut self, myself: &ActorRef<ModelMsg>) {
        let Phase::Loaded { model, batcher, .. } = &mut self.phase else { return };
        let on_trial = self.requests.values().map(|request| request.key);
        let on_trial = on_trial.filter(|&key| self.quarantine.is_suspect(key)).collect();
        self.vitals = Arc::new(Vitals::new(on_trial));
        self.watched = WatchedBatcher::default();
        let args = BatcherArgs {
            tree: self.tree.clone(),
            model: model.clone(),
            metrics: self.metrics.clone(),
            step_times: self.step_times.clone(),
            vitals: self.vitals.clone(),
        };
        match AnyBatcher::start(args, myself.get_cell()).await {
            Ok(started) => {
                *batcher = Some(started.clone());
                self.line.note_restarting(false);
                for request in self.requests.values() {
                    request.party.batcher_ready(&started, self.quarantine.is_solo(request.key));
                }
                self.settle(myself);
            }
            Err(error) => self.give_up(myself, &error.to_string()),
        }
    }

    pub(super) async fn child_failed(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        child: &ActorCell,
        error: ActorProcessingErr,
    ) {
        match &self.phase {
            Phase::Loading { loader, .. } if loader.get_id() == child.get_id() => {
                let why = format!("loading panicked: {error}");
                self.tree.census.crashed(ActorRole::Loader, &self.id, &why);
                self.fail_load(myself, self.attempt, LoadError::Internal(why));
            }
            Phase::Loaded { batcher: Some(batcher), .. } if batcher.cell().get_id() == child.get_id() => {
                // A batcher that broke outside of a step does not know whom to suspect: then it is everyone.
                let crash = error.downcast::<BatcherCrash>().map(|crash| *crash).unwrap_or_else(|error| {
                    BatcherCrash {
                        suspects: self.requests.values().map(|request| request.key).collect(),
                        why: error.to_string(),
                    }
                });
                self.batcher_crashed(myself, crash).await;
            }
            _ => {
                tracing::error!(model = %self.id, "a request's actor crashed: {error}");
                self.tree.census.crashed(ActorRole::Request, "", &error.to_string());
                self.request_ended(myself, child.get_id());
            }
        }
    }

    /// Requests stop when they are done. Loader and batcher are stopped by their supervisor, which has let go of them by then:
    /// one that is still held was killed by somebody else.
    pub(super) async fn child_stopped(&mut self, myself: &ActorRef<ModelMsg>, child: &ActorCell) {
        match &self.phase {
            Phase::Loading { loader, .. } if loader.get_id() == child.get_id() => {
                self.fail_load(myself, self.attempt, LoadError::Internal("the loader was killed".into()));
            }
            Phase::Loaded { batcher: Some(batcher), .. } if batcher.cell().get_id() == child.get_id() => {
                // No request is to blame for that.
                let crash = BatcherCrash { suspects: Vec::new(), why: "the batcher was killed".into() };
                self.batcher_crashed(myself, crash).await;
            }
            _ => self.request_ended(myself, child.get_id()),
        }
    }

    pub(super) async fn batcher_crashed(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        BatcherCrash { suspects, why }: BatcherCrash,
    ) {
        let Phase::Loaded { batcher, .. } = &mut self.phase else { return };
        *batcher = None;
        self.line.note_restarting(true);
        self.tree.census.crashed(ActorRole::Batcher, &self.id, &why);
        tracing::error!(model = %self.id, num_suspects = suspects.len(), "the batcher crashed: {why}");
        let on_trial = self.vitals.on_trial();
        self.quarantine.acquit_unless(|request| on_trial.contains(&request));
        let guilty = self.quarantine.crashed(&suspects);
        if let Some(request) = self.requests.values().find(|request| Some(request.key) == guilty) {
            let message = format!(
                "the model crashed on this request whenever it was run, at last with nothing beside it: {why}"
            );
            request.party.fail(Failure::new(ErrorKind::Internal, message));
        }
        let settings = self.tree.settings();
        let policy = RestartPolicy { max_restarts: settings.max_restarts, window: settings.restart_window };
        // What hangs keeps its memory, and there is only so much of that.
        let is_worn_out = self.metrics.faults.threads_lost.get() > settings.max_restarts as f64;
        match self.restarts.crashed(Instant::now(), policy) {
            Verdict::GiveUp => self.give_up(myself, &why),
            Verdict::Restart { .. } if is_worn_out => self.give_up(myself, &why),
            Verdict::Restart { after } => {
                self.metrics.faults.batcher_restarts.inc();
                match after {
                    Duration::ZERO => self.start_batcher(myself).await,
                    _ => self.set_timer(myself, after),
                }
            }
        }
    }

    /// It crashed too often. Its memory is freed: weights that crash every batcher are not to be trusted either.
    pub(super) fn give_up(&mut self, myself: &ActorRef<ModelMsg>, why: &str) {
        let window = self.tree.settings().restart_window;
        let message =
            format!("model '{}' crashed too often and was given up for now; the last time: {why}", self.id);
        let failure = Failure::new(ErrorKind::Unavailable, message).with_retry_after(window);
        tracing::error!(model = %self.id, "given up: {why}");
        self.metrics.faults.given_up.inc();
        self.line.write(ModelStatus::Failed, Some(failure.clone()), None, None);
        drop(self.clear(failure.clone()));
        self.remember(myself, failure, window);
    }
}
