//! The supervisor's part in a load: one at a time, whoever asks; all who wait are told the same.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use candlewick_engine::{LoadError, ModelInfo};
use candlewick_protocol::{LoadEvent, ModelStatus};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::{ModelMsg, ModelState, Phase};
use crate::loader::{LoadedModel, Loader, LoaderArgs};
use crate::metrics::Held;
use crate::outlet::Outlet;
use crate::progress::{LoadProgress, StageProgress, loading};
use crate::restart::RestartLog;
use crate::step_times::StepTimes;

impl ModelState {
    /// An explicit load also tries again what is remembered as failed.
    pub(super) async fn subscribe(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        mut outlet: Outlet<LoadEvent>,
    ) -> Result<(), ActorProcessingErr> {
        match &mut self.phase {
            Phase::Loaded { .. } => {
                outlet.end(LoadEvent::Ready { model: self.id.clone(), cached: true });
                self.settle(myself);
            }
            Phase::Loading { progress, subscribers, .. } => {
                for &stage in progress.replay() {
                    // Room enough: a stream just opened holds more than there are stages.
                    let _ = outlet.try_send(loading(&self.id, stage));
                }
                subscribers.push(outlet);
            }
            Phase::Empty | Phase::Failed { .. } => self.start_load(myself, vec![outlet]).await?,
        }
        Ok(())
    }

    pub(super) async fn start_load(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        subscribers: Vec<Outlet<LoadEvent>>,
    ) -> Result<(), ActorProcessingErr> {
        self.attempt += 1;
        self.load_began = Instant::now();
        self.timer = None;
        self.restarts = RestartLog::default();
        let args = LoaderArgs {
            tree: self.tree.clone(),
            model: self.model.clone(),
            attempt: self.attempt,
            supervisor: myself.clone(),
            registry: self.registry.clone(),
        };
        let (loader, _) = Actor::spawn_linked(None, Loader, args, myself.get_cell()).await?;
        self.phase = Phase::Loading { loader, progress: LoadProgress::default(), subscribers };
        self.line.write(ModelStatus::Loading, None, None, None);
        self.stalled_for = Duration::ZERO;
        tracing::info!(model = %self.id, "loading");
        Ok(())
    }

    pub(super) fn advance(&mut self, attempt: u64, news: StageProgress) {
        let Phase::Loading { progress, subscribers, .. } = &mut self.phase else { return };
        if attempt != self.attempt || !progress.advance(news) {
            return;
        }
        self.line.note_load(news);
        subscribers.retain(|outlet| !outlet.is_closed());
        for outlet in subscribers {
            // Who is so far behind gets the stages that follow, and the end.
            let _ = outlet.try_send(loading(&self.id, news));
        }
        self.requests.values().for_each(|request| request.party.loading(news));
        self.stalled_for = Duration::ZERO;
    }

    /// It has stood still for too long. What blocks in it cannot be stopped, and what it still brings is not taken.
    pub(super) fn give_up_load(&mut self, myself: &ActorRef<ModelMsg>) {
        let stalled = self.tree.settings().load_stall_timeout.as_secs_f64();
        let why = format!("the load has not come any further for {stalled} s, and was given up");
        self.fail_load(myself, self.attempt, LoadError::Internal(why));
    }

    pub(super) async fn finish_load(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        attempt: u64,
        model: Arc<LoadedModel>,
    ) {
        let Phase::Loading { loader, subscribers, .. } = &mut self.phase else { return };
        if attempt != self.attempt {
            return;
        }
        loader.stop(None);
        let subscribers = std::mem::take(subscribers);
        // The board first: who is told that the model is ready finds it so.
        let max_model_len = Some(model.capacity.max_model_len as u64);
        self.line.write(ModelStatus::Loaded, None, max_model_len, model.commit.clone());
        self.requests.values().for_each(|request| request.party.model_ready(&model));
        let info = model.weights.info();
        self.step_times = Arc::new(Mutex::new(StepTimes::new(info.num_parameters)));
        tracing::info!(
            model = %self.id, family = info.family, parameters = info.num_parameters, bytes = info.weight_bytes,
            "loaded"
        );
        // Its draft model is in memory with it, and has a cache of the same shape.
        let draft = model.draft.as_ref().map(|draft| draft.info());
        let with_draft = |bytes: fn(&ModelInfo) -> u64| bytes(info).saturating_add(draft.map_or(0, bytes));
        let held = Held {
            weight_bytes: with_draft(|info| info.weight_bytes),
            kv_bytes_per_token: with_draft(|info| info.kv_bytes_per_token),
            block_size: model.capacity.cache.block_size,
            num_blocks: model.capacity.cache.num_blocks,
            prefix_caching: self.tree.settings().prefix_caching,
        };
        self.metrics.loads.load_seconds.observe(self.load_began.elapsed().as_secs_f64());
        let in_memory = self.tree.metrics.models.in_memory(&self.metrics, held);
        // The settings may have changed while it loaded.
        self.retell(myself, model.clone());
        self.phase = Phase::Loaded { model, batcher: None, _in_memory: in_memory };
        for mut outlet in subscribers {
            outlet.end(LoadEvent::Ready { model: self.id.clone(), cached: false });
        }
        self.start_batcher(myself).await;
    }

    pub(super) fn fail_load(&mut self, myself: &ActorRef<ModelMsg>, attempt: u64, error: LoadError) {
        if attempt != self.attempt || !matches!(self.phase, Phase::Loading { .. }) {
            return;
        }
        tracing::warn!(model = %self.id, kind = ?error.kind(), "load failed: {error}");
        self.metrics.loads.failures.inc();
        let failure = error.failure();
        let ttl = self.tree.settings().load_failure_ttl;
        // Not `Failed`, which is for what crashed too often: the next request tries again.
        self.line.write(ModelStatus::Available, Some(failure.clone()), None, None);
        drop(self.clear(failure.clone()));
        if ttl.is_zero() && !self.is_pinned() {
            // Nobody is told what happened to another.
            self.phase = Phase::Empty;
            return self.settle(myself);
        }
        self.remember(myself, failure, ttl);
    }
}
