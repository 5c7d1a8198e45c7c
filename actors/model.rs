//! Supervisor of one model: loads it, keeps its weights, restarts its batcher, and knows who is using it.
//!
//! The registry sends it work; loader, batcher and requests are its children. Invariants: one load at a time, whoever asks;
//! never unloaded for idleness while a request is in flight; weights outlive every batcher; a load that failed is an answer
//! to all who wait and is remembered for a while; when a request ends in whatever way, its sequences are forgotten.
//! What it does in a load is in `model/load.rs`, in a crash in `model/crash.rs`, and when something hangs in `model/watch.rs`.

mod crash;
mod load;
mod parties;
mod settings;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use candlewick_engine::text::TextProcessor;
use candlewick_engine::{LoadError, Weights};
use candlewick_protocol::{ActorRole, ErrorKind, Event, Failure, LoadEvent, ModelRef, RequestId, RequestKey};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::parties::{AnyBatcher, Party};
use self::watch::WatchedBatcher;
use crate::board::{Line, display_id};
use crate::census::Presence;
use crate::encoding::{EncodeSubmission, Encoding};
use crate::loader::{LoadedModel, LoaderMsg};
use crate::metrics::{InMemory, ModelMetrics};
use crate::outlet::Outlet;
use crate::progress::{LoadProgress, StageProgress};
use crate::pulse::{Pulse, WatchClock, Watched};
use crate::quarantine::Quarantine;
use crate::registry::RegistryMsg;
use crate::request::{Request, naming};
use crate::restart::RestartLog;
use crate::step_times::StepTimes;
use crate::submission::{RequestArgs, Submission};
use crate::tree::{Tree, tell, tell_after};
use crate::vitals::Vitals;

/// Supervises one model.
pub struct ModelSupervisor;

/// What a model's supervisor is told. The first five are work, come from the registry, and are counted.
pub enum ModelMsg {
    /// Answer this request; load first if need be.
    Submit(Submission),
    /// Encode these texts; load first if need be.
    Encode(EncodeSubmission),
    /// Load, or join the load under way.
    Load(Outlet<LoadEvent>),
    /// Give the model to one who asks only its tokenizer, if it is in memory.
    Lend(RpcReplyPort<Option<Arc<LoadedModel>>>),
    /// Leave memory.
    Unload {
        /// End the requests in flight, rather than refuse.
        force: bool,
        /// Told when the model is out of memory, or why it stays.
        reply: RpcReplyPort<Result<(), Failure>>,
    },
    /// Leave memory if nobody uses it and it is not pinned: others need the room. Told whether it did.
    Evict(RpcReplyPort<bool>),
    /// The settings have changed.
    SettingsChanged,
    /// How the model reads and writes text, by changed settings.
    Retold(Box<Result<TextProcessor, LoadError>>),
    /// Memory is short: drop what was cached of prompts.
    DropPrefixes,
    /// The server stops: end everything with this failure.
    End(Failure),
    /// The load has come this far.
    LoadProgress {
        /// Which load.
        attempt: u64,
        /// How far.
        progress: StageProgress,
    },
    /// The load is done.
    Loaded {
        /// Which load.
        attempt: u64,
        /// The model.
        model: Arc<LoadedModel>,
    },
    /// The load has failed.
    LoadFailed {
        /// Which load.
        attempt: u64,
        /// Why.
        error: LoadError,
    },
    /// Time to look whether somebody hangs.
    Watch,
    /// The timer went off: idle long enough, waited long enough to restart, or a failure is old enough to forget.
    TimeOut(u64),
}

/// What a supervisor is made of.
pub struct ModelArgs {
    /// The tree it lives in.
    pub tree: Arc<Tree>,
    /// Its model.
    pub model: ModelRef,
    /// Who started it and lets it go.
    pub registry: ActorRef<RegistryMsg>,
}

/// Waits until nobody holds the weights any more, not even the thread of a step that is just ending; but not for ever.
async fn gone(weights: Weak<dyn Weights>) {
    const POLL: Duration = Duration::from_millis(1);
    const POLLS_MAX: usize = 1000;
    for _ in 0..POLLS_MAX {
        if weights.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Where a model stands.
enum Phase {
    /// Not in memory, and nobody wants it.
    Empty,
    Loading {
        loader: ActorRef<LoaderMsg>,
        progress: LoadProgress,
        subscribers: Vec<Outlet<LoadEvent>>,
    },
    Loaded {
        model: Arc<LoadedModel>,
        /// `None` between a crash and the restart.
        batcher: Option<AnyBatcher>,
        _in_memory: InMemory,
    },
    /// It could not be loaded or crashed too often; told to all who ask until the timer goes off.
    Failed {
        failure: Failure,
        /// When the timer goes off.
        until: Instant,
    },
}

/// A request in flight.
struct InFlight {
    key: RequestKey,
    party: Party,
    pulse: Arc<Pulse>,
    watched: Watched,
}

/// A supervisor at work.
pub struct ModelState {
    tree: Arc<Tree>,
    model: ModelRef,
    /// Canonical.
    id: String,
    registry: ActorRef<RegistryMsg>,
    phase: Phase,
    /// Loads begun.
    attempt: u64,
    /// When the load under way, or the last one, began.
    load_began: Instant,
    requests: HashMap<ActorId, InFlight>,
    quarantine: Quarantine,
    restarts: RestartLog,
    /// How long steps take, over all batchers of one load.
    step_times: Arc<Mutex<StepTimes>>,
    /// Of the batcher of the moment.
    vitals: Arc<Vitals>,
    watched: WatchedBatcher,
    clock: WatchClock,
    /// How long the load under way has not come any further.
    stalled_for: Duration,
    next_look: Option<AbortOnDropHandle<()>>,
    /// At most one thing is waited for at a time; what it is follows from the phase.
    timer: Option<AbortOnDropHandle<()>>,
    /// Which timer is meant: one that was replaced may already have gone off.
    timer_number: u64,
    /// The idle time that the timer was last set to.
    idle_timeout_set: Option<Duration>,
    /// Pieces of work received; the registry compares it with what it sent before it lets the supervisor go.
    num_received: u64,
    metrics: Arc<ModelMetrics>,
    line: Line,
    presence: Presence,
}

impl Actor for ModelSupervisor {
    type Msg = ModelMsg;
    type State = ModelState;
    type Arguments = ModelArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ModelMsg>,
        ModelArgs { tree, model, registry }: ModelArgs,
    ) -> Result<ModelState, ActorProcessingErr> {
        let mut state = ModelState {
            id: model.canonical(),
            registry,
            phase: Phase::Empty,
            attempt: 0,
            load_began: Instant::now(),
            requests: HashMap::new(),
            quarantine: Quarantine::default(),
            restarts: RestartLog::default(),
            step_times: Arc::new(Mutex::new(StepTimes::new(0))),
            vitals: Arc::default(),
            watched: WatchedBatcher::default(),
            clock: WatchClock::new(),
            stalled_for: Duration::ZERO,
            next_look: None,
            timer: None,
            timer_number: 0,
            idle_timeout_set: None,
            num_received: 0,
            metrics: tree.metrics.model(&display_id(&model)),
            line: tree.board.line(model.clone(), myself.get_id().pid()),
            presence: tree.census.join(ActorRole::Model, &model.canonical(), myself.get_id()),
            model,
            tree,
        };
        state.watch_on(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<ModelMsg>,
        message: ModelMsg,
        state: &mut ModelState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        if matches!(
            message,
            ModelMsg::Submit(_)
                | ModelMsg::Encode(_)
                | ModelMsg::Load(_)
                | ModelMsg::Lend(_)
                | ModelMsg::Unload { .. }
        ) {
            state.num_received += 1;
        }
        match message {
            ModelMsg::Submit(submission) => state.submit(&myself, submission).await?,
            ModelMsg::Encode(submission) => state.encode(&myself, submission).await?,
            ModelMsg::Load(outlet) => state.subscribe(&myself, outlet).await?,
            ModelMsg::Lend(reply) => state.lend(&myself, reply),
            ModelMsg::Unload { force, reply } => state.unload(&myself, force, reply),
            ModelMsg::Evict(reply) => state.evict(&myself, reply),
            ModelMsg::SettingsChanged => state.take_settings(&myself),
            ModelMsg::Retold(processor) => state.take_processor(*processor),
            ModelMsg::DropPrefixes => state.drop_prefixes(),
            ModelMsg::End(failure) => state.end(&myself, failure),
            ModelMsg::LoadProgress { attempt, progress } => state.advance(attempt, progress),
            ModelMsg::Loaded { attempt, model } => state.finish_load(&myself, attempt, model).await,
            ModelMsg::LoadFailed { attempt, error } => state.fail_load(&myself, attempt, error),
            ModelMsg::Watch => state.watch(&myself).await,
            ModelMsg::TimeOut(number) => state.time_out(&myself, number).await?,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ModelMsg>,
        event: SupervisionEvent,
        state: &mut ModelState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, _, _) => state.child_stopped(&myself, &child).await,
            SupervisionEvent::ActorFailed(child, error) => state.child_failed(&myself, &child, error).await,
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => (),
        }
        Ok(())
    }
}

impl ModelState {
    async fn submit(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        mut submission: Submission,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(failure) = self.remembered(&submission.request.request_id) {
            submission.outlet.end(Event::Failed(failure));
            return Ok(());
        }
        let (key, args) = (submission.key, self.args(submission));
        let pulse = args.pulse.clone();
        let (actor, _) = Actor::spawn_linked(None, Request, args, myself.get_cell()).await?;
        self.take_in(myself, key, Party::Generation(actor), pulse).await
    }

    /// The same for texts to encode.
    async fn encode(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        mut submission: EncodeSubmission,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(failure) = self.remembered(&submission.request.request_id) {
            submission.outlet.end(Err(failure));
            return Ok(());
        }
        let (key, args) = (submission.key, self.args(submission));
        let pulse = args.pulse.clone();
        let (actor, _) = Actor::spawn_linked(None, Encoding, args, myself.get_cell()).await?;
        self.take_in(myself, key, Party::Encoding(actor), pulse).await
    }

    /// Whoever asks within this time is told the same.
    fn remember(&mut self, myself: &ActorRef<ModelMsg>, failure: Failure, ttl: Duration) {
        self.phase = Phase::Failed { failure, until: Instant::now() + ttl };
        self.set_timer(myself, ttl);
    }

    /// A failure that is remembered: a request gets it without an actor.
    fn remembered(&self, id: &RequestId) -> Option<Failure> {
        let Phase::Failed { failure, until } = &self.phase else { return None };
        self.metrics.requests.refused(failure.kind);
        let mut failure = naming(failure.clone(), id);
        failure.retry_after = failure.retry_after.map(|_| until.saturating_duration_since(Instant::now()));
        Some(failure)
    }

    fn args<R, A: Send + 'static>(&self, submission: Submission<R, A>) -> RequestArgs<R, A> {
        RequestArgs {
            tree: self.tree.clone(),
            submission,
            model: self.id.clone(),
            metrics: self.metrics.clone(),
            pulse: Arc::default(),
            failpoints: self.tree.failpoints.of_model(&self.id),
        }
    }

    /// Tells a request's actor where the model stands, and loads it if need be.
    async fn take_in(
        &mut self,
        myself: &ActorRef<ModelMsg>,
        key: RequestKey,
        party: Party,
        pulse: Arc<Pulse>,
    ) -> Result<(), ActorProcessingErr> {
        match &self.phase {
            Phase::Empty | Phase::Failed { .. } => self.start_load(myself, Vec::new()).await?,
            Phase::Loading { progress, .. } => {
                progress.replay().iter().for_each(|&stage| party.loading(stage));
            }
            Phase::Loaded { model, batcher, .. } => {
                party.model_ready(model);
                if let Some(batcher) = batcher {
                    // While the batcher is restarted, the timer is not about idleness and must go on.
                    self.timer = None;
                    party.batcher_ready(batcher, false);
                }
            }
        }
        self.requests
            .insert(party.cell().get_id(), InFlight { key, party, pulse, watched: Watched::default() });
        Ok(())
    }

    /// Counts as use: the idle time begins again.
    fn lend(&mut self, myself: &ActorRef<ModelMsg>, reply: RpcReplyPort<Option<Arc<LoadedModel>>>) {
        let model = match &self.phase {
            Phase::Loaded { model, .. } => Some(model.clone()),
            Phase::Empty | Phase::Loading { .. } | Phase::Failed { .. } => None,
        };
        let _ = reply.send(model);
        self.settle(myself);
    }

    fn unload(&mut self, myself: &ActorRef<ModelMsg>, force: bool, reply: RpcReplyPort<Result<(), Failure>>) {
        let num_requests = self.requests.len();
        if num_requests > 0 && !force {
            let message = format!(
                "model '{}' is answering {num_requests} requests; wait for them, or force it and they end with an error",
                self.id
            );
            let _ = reply.send(Err(Failure::new(ErrorKind::Conflict, message)));
            return;
        }
        tracing::info!(model = %self.id, "unloading");
        let ended =
            Failure::new(ErrorKind::Unavailable, format!("model '{}' was unloaded by an operator", self.id));
        self.line.wipe();
        let batcher = self.clear(ended);
        tokio::spawn(async move {
            if let Some(batcher) = batcher {
                // An error means that it has stopped already.
                let _ = batcher.cell().stop_and_wait(None, None).await;
            }
            let _ = reply.send(Ok(()));
        });
        self.settle(myself);
    }

    fn drop_prefixes(&self) {
        if let Phase::Loaded { batcher: Some(batcher), .. } = &self.phase {
            batcher.drop_prefixes();
        }
    }

    fn evict(&mut self, myself: &ActorRef<ModelMsg>, reply: RpcReplyPort<bool>) {
        let weights = match &self.phase {
            Phase::Loaded { model, .. } if self.requests.is_empty() && !self.is_pinned() => {
                Arc::downgrade(&model.weights)
            }
            _ => {
                let _ = reply.send(false);
                return;
            }
        };
        tracing::info!(model = %self.id, "unloading: nobody uses it, and its memory is needed");
        self.line.wipe();
        let ended = Failure::new(ErrorKind::Unavailable, format!("model '{}' was unloaded", self.id));
        let batcher = self.clear(ended);
        tokio::spawn(async move {
            if let Some(batcher) = batcher {
                // An error means that it has stopped already.
                let _ = batcher.cell().stop_and_wait(None, None).await;
            }
            gone(weights).await;
            let _ = reply.send(true);
        });
        self.settle(myself);
    }

    fn end(&mut self, myself: &ActorRef<ModelMsg>, failure: Failure) {
        self.line.wipe();
        drop(self.clear(failure));
        self.settle(myself);
    }

    /// Ends all that is going on with this failure, and frees the model; the board must say so already. Answers the batcher
    /// that is stopping.
    fn clear(&mut self, failure: Failure) -> Option<AnyBatcher> {
        self.timer = None;
        self.requests.values().for_each(|request| request.party.fail(failure.clone()));
        match std::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Empty | Phase::Failed { .. } => None,
            Phase::Loading { loader, subscribers, .. } => {
                // Not `stop`, which would wait for the load to end.
                loader.kill();
                for mut outlet in subscribers {
                    outlet.end(LoadEvent::Failed { model: self.id.clone(), failure: failure.clone() });
                }
                None
            }
            Phase::Loaded { batcher, .. } => {
                batcher.iter().for_each(|batcher| batcher.cell().stop(None));
                batcher
            }
        }
    }

    fn request_ended(&mut self, myself: &ActorRef<ModelMsg>, child: ActorId) {
        let Some(request) = self.requests.remove(&child) else { return };
        self.quarantine.forget(request.key);
        if let Phase::Loaded { batcher: Some(batcher), .. } = &self.phase {
            batcher.forget(request.key);
        }
        self.settle(myself);
    }

    /// Nobody uses the model: wait for the idle time, or go if there is nothing to keep.
    fn settle(&mut self, myself: &ActorRef<ModelMsg>) {
        if !self.requests.is_empty() {
            return;
        }
        match &self.phase {
            Phase::Loaded { batcher: Some(_), .. } => {
                self.idle_timeout_set = self.idle_timeout();
                match self.idle_timeout_set {
                    Some(timeout) => self.set_timer(myself, timeout),
                    None => self.timer = None,
                }
            }
            Phase::Empty => self.retire(myself),
            Phase::Loaded { batcher: None, .. } | Phase::Loading { .. } | Phase::Failed { .. } => (),
        }
    }

    /// What is pinned or loaded in advance stays.
    fn idle_timeout(&self) -> Option<Duration> {
        self.tree.settings().model_timeout.filter(|_| !self.tree.keeps(&self.id))
    }

    fn is_pinned(&self) -> bool {
        self.tree.settings().pinned.as_ref().is_some_and(|pinned| pinned.canonical() == self.id)
    }

    fn set_timer(&mut self, myself: &ActorRef<ModelMsg>, after: Duration) {
        self.timer_number += 1;
        self.timer =
            Some(tell_after(tokio::time::sleep(after), myself, ModelMsg::TimeOut(self.timer_number)));
    }

    async fn time_out(&mut self, myself: &ActorRef<ModelMsg>, number: u64) -> Result<(), ActorProcessingErr> {
        // One that was replaced or taken away after it went off.
        if number != self.timer_number || self.timer.take().is_none() {
            return Ok(());
        }
        match &self.phase {
            Phase::Loaded { batcher: None, .. } => self.start_batcher(myself).await,
            Phase::Loaded { .. } if self.requests.is_empty() => {
                tracing::info!(model = %self.id, "unloading for idleness");
                self.retire(myself);
            }
            // The server is not ready without its pinned model, and requests may not come before it is.
            Phase::Failed { .. } if self.is_pinned() => self.start_load(myself, Vec::new()).await?,
            Phase::Failed { .. } => {
                self.line.wipe();
                self.phase = Phase::Empty;
                self.settle(myself);
            }
            Phase::Loaded { .. } | Phase::Loading { .. } | Phase::Empty => (),
        }
        Ok(())
    }

    /// Asks to be let go; the model leaves memory with its supervisor. Refused if work is on its way here, which then
    /// finds the model as it is.
    fn retire(&self, myself: &ActorRef<ModelMsg>) {
        let (id, actor, num_received) = (self.id.clone(), myself.get_id(), self.num_received);
        tell(&self.registry, RegistryMsg::Retire { id, actor, num_received });
    }
}
