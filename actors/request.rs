//! One request in flight: waits for its model, prepares its prompt, is admitted, turns news into events.
//!
//! It alone holds the channel to the HTTP body, and everything that must survive a batcher: prompt, parameters, emitted
//! tokens. The model's supervisor and the batcher send to it; nobody asks it anything. Invariants: the events follow the
//! grammar of [`Event`]; no event but load progress is ever dropped; beyond the channel's capacity at most [`NEWS_WINDOW`]
//! steps' news wait for a slow reader, because the batcher is granted credit only for what is on the channel; when it ends, its supervisor has its sequences
//! forgotten, so that there is one place for cancelling and it works whatever the way of ending.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use candlewick_engine::News;
use candlewick_protocol::{
    ActorRole, ErrorKind, Event, FailPlace, Failpoints, Failure, GenerationRequest, RequestId, RequestKey,
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use crate::admission::Permit;
use crate::batcher::{BatcherMsg, NEWS_WINDOW};
use crate::census::Presence;
use crate::deadline::{Deadline, Reached};
use crate::generation::{Effects, EndedChoice, Generation};
use crate::loader::LoadedModel;
use crate::lost;
use crate::metrics::Timeline;
use crate::outlet::Outlet;
use crate::outlook::Outlook;
use crate::prepare::{num_prompt_bytes, prepare};
use crate::progress::StageProgress;
use crate::pulse::Pulse;
use crate::submission::{RequestArgs, Submission};
use crate::trace::{Stage, Trace};
use crate::tree::{Tree, strike, tell, tell_after};

/// What a prompt may take to prepare for each of its bytes: a hundred times what a tokenizer takes.
pub const TIME_PER_PROMPT_BYTE: Duration = Duration::from_micros(20);

/// A failure of ours, with the client's name for its request: what to look for in the log.
pub fn naming(mut failure: Failure, id: &RequestId) -> Failure {
    if matches!(failure.kind, ErrorKind::Internal | ErrorKind::Unavailable) {
        failure.message = format!("{} (request {id})", failure.message);
    }
    failure
}

/// Carries one request from admission to its last event.
pub struct Request;

/// What a request is told.
pub enum RequestMsg {
    /// Its model's load has come this far.
    Loading(StageProgress),
    /// Its model is in memory.
    ModelReady(Arc<LoadedModel>),
    /// Its prompt is read, or cannot be.
    Prepared(Box<Result<Generation, Failure>>),
    /// There is a batcher to be admitted to: the first, or the successor of one that crashed.
    BatcherReady {
        /// Where to admit.
        batcher: ActorRef<BatcherMsg>,
        /// It is suspected of having crashed batchers, and gets steps of its own.
        solo: bool,
    },
    /// It waits for a place in the batch.
    Queued,
    /// It is part of a step for the first time in this batcher.
    Scheduled {
        /// Tokens of its prompt that are in the batcher's cache already.
        num_cached_tokens: u64,
    },
    /// What a step meant for it.
    News {
        /// Which batcher ran the step. One that was given up may still speak, when its successor does already.
        from: ActorId,
        /// What came of it.
        news: Vec<News>,
    },
    /// The reader has caught up.
    Drained,
    /// The reader has left.
    ClientGone,
    /// Its time is over.
    DeadlinePassed(Deadline),
    /// It cannot be answered.
    Fail(Failure),
}

/// A request in flight.
pub struct RequestState {
    key: RequestKey,
    /// The client's name for it.
    id: RequestId,
    /// Until it is prepared.
    request: Option<GenerationRequest>,
    /// Once it is prepared.
    generation: Option<Generation>,
    /// Once there is one; with whether it must have steps of its own.
    batcher: Option<(ActorRef<BatcherMsg>, bool)>,
    outlet: Outlet<Event>,
    /// Events that found no room on the stream, oldest first.
    outbox: VecDeque<Event>,
    /// News taken that the batcher was not yet granted credit for.
    num_ungranted: u32,
    /// While the reader is behind: watches for room.
    room_watch: Option<AbortOnDropHandle<()>>,
    preparation: Option<AbortOnDropHandle<()>>,
    /// What a token of its model takes in the cache.
    kv_bytes_per_token: u64,
    is_queued_told: bool,
    deadline: Option<Deadline>,
    timeline: Timeline,
    outlook: Arc<Outlook>,
    pulse: Arc<Pulse>,
    failpoints: Failpoints,
    trace: Trace,
    tree: Arc<Tree>,
    _client_watch: AbortOnDropHandle<()>,
    _deadline_watch: Option<AbortOnDropHandle<()>>,
    _permit: Permit,
    presence: Presence,
}

impl Actor for Request {
    type Msg = RequestMsg;
    type State = RequestState;
    type Arguments = RequestArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RequestMsg>,
        RequestArgs { tree, submission, model, metrics, pulse, failpoints }: RequestArgs,
    ) -> Result<RequestState, ActorProcessingErr> {
        let Submission { key, request, outlet, permit, deadline, trace } = submission;
        let num_choices = request.num_choices;
        let deadline_watch = deadline.map(|deadline| {
            let passes = tokio::time::sleep_until(deadline.at());
            tell_after(passes, &myself, RequestMsg::DeadlinePassed(deadline))
        });
        Ok(RequestState {
            key,
            id: request.request_id.clone(),
            request: Some(request),
            generation: None,
            batcher: None,
            outbox: VecDeque::new(),
            num_ungranted: 0,
            room_watch: None,
            preparation: None,
            kv_bytes_per_token: 0,
            is_queued_told: false,
            deadline,
            timeline: Timeline::begin(metrics, num_choices),
            outlook: tree.admission.outlook(&model),
            pulse,
            failpoints,
            trace,
            _client_watch: tell_after(outlet.closed(), &myself, RequestMsg::ClientGone),
            _deadline_watch: deadline_watch,
            _permit: permit,
            presence: tree.census.join(ActorRole::Request, &format!("{model} {key}"), myself.get_id()),
            outlet,
            tree,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RequestMsg>,
        message: RequestMsg,
        state: &mut RequestState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        let pulse = state.pulse.clone();
        let _beat = pulse.beat();
        strike(&state.failpoints, FailPlace::Request, &myself.get_cell()).await?;
        match message {
            RequestMsg::Loading(progress) => state.tell_loading(progress),
            RequestMsg::ModelReady(model) => state.prepare(&myself, model),
            RequestMsg::Prepared(prepared) => state.take_prepared(&myself, *prepared),
            RequestMsg::BatcherReady { batcher, solo } => state.change_batcher(&myself, batcher, solo),
            RequestMsg::Queued => state.tell_queued(),
            RequestMsg::Scheduled { num_cached_tokens } => state.take_place(num_cached_tokens),
            RequestMsg::News { from, news } => state.take_news(&myself, from, news),
            RequestMsg::Drained => state.resume(&myself),
            RequestMsg::ClientGone => {
                state.timeline.fail(ErrorKind::Cancelled);
                myself.stop(Some("the client went away".into()));
            }
            RequestMsg::DeadlinePassed(deadline) => state.give_up(&myself, deadline),
            RequestMsg::Fail(failure) => state.fail(&myself, failure),
        }
        Ok(())
    }
}

impl RequestState {
    /// Progress is news of the moment: a reader who is behind misses it.
    fn tell_loading(&mut self, (stage, progress): StageProgress) {
        self.trace.enter(Stage::Load);
        let _ = self.outlet.try_send(Event::Loading { stage, progress });
    }

    /// Told once, and only before tokens come.
    fn tell_queued(&mut self) {
        if !self.is_queued_told && self.timeline.num_tokens() == 0 {
            self.is_queued_told = true;
            let _ = self.outlet.try_send(Event::Queued);
        }
    }

    /// Rendering and tokenising take as long as the text is long: not here, but on the blocking pool.
    fn prepare(&mut self, myself: &ActorRef<RequestMsg>, model: Arc<LoadedModel>) {
        let Some(request) = self.request.take() else { return };
        self.trace.enter(Stage::Queue);
        self.trace.answered_by(&model.id);
        self.kv_bytes_per_token = model.weights.info().kv_bytes_per_token;
        let (key, myself, settings) = (self.key, myself.clone(), self.tree.settings());
        let at_most = settings.hang_timeout + TIME_PER_PROMPT_BYTE * num_prompt_bytes(&request.prompt) as u32;
        let metrics = self.timeline.metrics().clone();
        self.preparation = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let work = move || prepare(key, request, &model, &settings);
            let prepared = lost::blocking(&metrics, at_most, work).await.unwrap_or_else(|why| {
                Err(Failure::new(ErrorKind::Internal, format!("the prompt could not be prepared: {why}")))
            });
            tell(&myself, RequestMsg::Prepared(Box::new(prepared)));
        })));
    }

    fn take_prepared(&mut self, myself: &ActorRef<RequestMsg>, prepared: Result<Generation, Failure>) {
        match prepared {
            Err(failure) => self.fail(myself, failure),
            Ok(mut generation) => {
                if let Some(effects) = generation.complete_uncomputed() {
                    self.generation = Some(generation);
                    self.measure(&effects);
                    self.outbox.extend(effects.events);
                    return self.flush(myself);
                }
                let num_prompt_tokens = generation.num_prompt_tokens() as u64;
                let kv_bytes = num_prompt_tokens.saturating_mul(self.kv_bytes_per_token);
                if let Err(failure) = self.tree.pressure.admit_prompt(num_prompt_tokens, kv_bytes) {
                    self.tree.metrics.memory.refused("long_prompt");
                    return self.fail(myself, failure);
                }
                self.generation = Some(generation);
                self.admit(myself);
            }
        }
    }

    fn change_batcher(&mut self, myself: &ActorRef<RequestMsg>, batcher: ActorRef<BatcherMsg>, solo: bool) {
        self.batcher = Some((batcher, solo));
        self.admit(myself);
    }

    /// Once there are a prompt and a batcher. To a successor, what was emitted goes along as if it were prompt, and the
    /// next token is the one that would have come.
    fn admit(&mut self, myself: &ActorRef<RequestMsg>) {
        let (Some(generation), Some((batcher, solo))) = (&self.generation, &self.batcher) else { return };
        if generation.is_complete() {
            return;
        }
        let admit = BatcherMsg::Admit {
            request: self.key,
            sequences: generation.sequences(),
            actor: myself.clone(),
            solo: *solo,
            credit: NEWS_WINDOW.saturating_sub(self.num_ungranted),
            deadline: self.deadline,
        };
        tell(batcher, admit);
    }

    fn take_place(&mut self, num_cached_tokens: u64) {
        self.trace.enter(Stage::Prefill);
        if let Some(generation) = &mut self.generation {
            self.timeline.give_place(generation.num_prompt_tokens());
            generation.note_cached(num_cached_tokens);
        }
    }

    fn take_news(&mut self, myself: &ActorRef<RequestMsg>, from: ActorId, news: Vec<News>) {
        let (Some(generation), Some((batcher, _))) = (&mut self.generation, &self.batcher) else { return };
        if batcher.get_id() != from {
            return;
        }
        let mut effects = generation.take(news);
        if let Some(failure) = effects.failure {
            return self.fail(myself, failure);
        }
        for &sequence in &effects.cancel {
            tell(batcher, BatcherMsg::Cancel(sequence));
        }
        if !effects.branches.is_empty() {
            let branches = std::mem::take(&mut effects.branches);
            tell(batcher, BatcherMsg::Branch { request: self.key, branches });
        }
        self.measure(&effects);
        self.outbox.extend(effects.events);
        self.num_ungranted += 1;
        self.flush(myself);
    }

    fn measure(&mut self, effects: &Effects) {
        if effects.num_tokens > 0 {
            self.trace.enter(Stage::Decode);
            self.timeline.take_tokens(effects.num_tokens);
        }
        let num_prompt_tokens = self.generation.as_ref().map_or(0, Generation::num_prompt_tokens);
        for &EndedChoice { reason, num_tokens } in &effects.ended {
            self.timeline.end_choice(reason);
            self.trace.ended(reason);
            self.outlook.note_answer(num_prompt_tokens, num_tokens, reason);
        }
        if let (Some(Event::Finished(finished)), Some(generation)) = (effects.events.last(), &self.generation)
        {
            self.trace.finished(&finished.usage);
            self.timeline.finish(generation.size(&finished.usage));
        }
    }

    /// Sends what there is room for. What there is none for waits, and so does credit: the batcher stops by itself.
    fn flush(&mut self, myself: &ActorRef<RequestMsg>) {
        if self.room_watch.is_some() {
            return;
        }
        while let Some(event) = self.outbox.pop_front() {
            if matches!(event, Event::Finished(_)) {
                self.outlet.end(event);
                return myself.stop(None);
            }
            if let Err(event) = self.outlet.try_send(event) {
                self.outbox.push_front(event);
                self.room_watch = Some(tell_after(self.outlet.room(), myself, RequestMsg::Drained));
                return;
            }
        }
        self.grant();
    }

    fn resume(&mut self, myself: &ActorRef<RequestMsg>) {
        self.room_watch = None;
        self.flush(myself);
    }

    /// In lumps of half a window: the batcher is never out of credit while the reader keeps up, and hears of it rarely.
    fn grant(&mut self) {
        if let Some((batcher, _)) = &self.batcher
            && self.num_ungranted >= NEWS_WINDOW / 2
        {
            tell(batcher, BatcherMsg::Grant { request: self.key, num_news: self.num_ungranted });
            self.num_ungranted = 0;
        }
    }

    /// Nobody waits for the answer any more: what it holds is better used by others.
    fn give_up(&mut self, myself: &ActorRef<RequestMsg>, deadline: Deadline) {
        let reached = match (self.request.is_some(), self.timeline.had_place()) {
            (true, _) => Reached::Load,
            (false, false) => Reached::Queue,
            (false, true) => Reached::Generation { num_tokens: self.timeline.num_tokens() },
        };
        self.fail(myself, deadline.failure(reached));
    }

    /// What waits for the reader is given up: it would be part of an answer that is not coming.
    fn fail(&mut self, myself: &ActorRef<RequestMsg>, failure: Failure) {
        self.trace.failed(failure.kind);
        self.timeline.fail(failure.kind);
        tracing::debug!(
            parent: self.trace.caller(), request = %self.key, kind = ?failure.kind, "request failed: {failure}"
        );
        self.outlet.end(Event::Failed(naming(failure, &self.id)));
        myself.stop(None);
    }
}
