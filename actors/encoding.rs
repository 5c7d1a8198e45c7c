//! One request to encode texts: waits for its model, reads its texts, is admitted, and answers when there is an output of each.
//!
//! Stands beside [`Request`](crate::request::Request), and is simpler: nothing is streamed, so that there is no credit and no
//! reader to wait for. Invariants: there is one answer, whatever happens; what came of a text is kept here, so that after a
//! crash only the others are encoded again; when it ends, its supervisor has its texts forgotten.

pub mod batcher;
mod stepper;

use std::sync::Arc;
use std::time::Duration;

use candlewick_engine::encode::{EncodeJob, EncodeModel, Encoded};
use candlewick_protocol::{
    ActorRole, EncodeAnswer, EncodeRequest, ErrorKind, FailPlace, Failpoints, Failure, FinishReason,
    RequestId, RequestKey, Usage,
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use self::batcher::EncodeBatcherMsg;
use crate::admission::Permit;
use crate::census::Presence;
use crate::deadline::{Deadline, Reached};
use crate::loader::LoadedModel;
use crate::lost;
use crate::metrics::{AnswerSize, Timeline};
use crate::outlet::Outlet;
use crate::pulse::Pulse;
use crate::request::{TIME_PER_PROMPT_BYTE, naming};
use crate::submission::{RequestArgs, Submission};
use crate::trace::{Stage, Trace};
use crate::tree::{Tree, strike, tell, tell_after};

/// Carries one request to encode texts from admission to its answer.
pub struct Encoding;

/// What a request to encode texts is answered.
type Answer = Result<EncodeAnswer, Failure>;

/// An admitted request to encode texts on its way to its model.
pub type EncodeSubmission = Submission<EncodeRequest, Answer>;

/// What a request to encode texts is told.
pub enum EncodingMsg {
    /// Its model is on its way into memory.
    Loading,
    /// Its model is in memory.
    ModelReady(Arc<LoadedModel>),
    /// Its texts are read, or cannot be.
    Prepared(Box<Result<EncodeJob, Failure>>),
    /// There is a batcher to be admitted to: the first, or the successor of one that crashed.
    BatcherReady {
        /// Where to admit.
        batcher: ActorRef<EncodeBatcherMsg>,
        /// It is suspected of having crashed batchers, and gets passes of its own.
        solo: bool,
    },
    /// It is part of a pass for the first time in this batcher.
    Scheduled,
    /// What a pass meant for it.
    News {
        /// Which batcher ran it. One that was given up may still speak, when its successor does already.
        from: ActorId,
        /// What came of which texts.
        encoded: Vec<(u32, Encoded)>,
    },
    /// The reader has left.
    ClientGone,
    /// Its time is over.
    DeadlinePassed(Deadline),
    /// It cannot be answered.
    Fail(Failure),
}

/// A request in flight.
pub struct EncodingState {
    key: RequestKey,
    /// The client's name for it.
    id: RequestId,
    model: String,
    /// Until its texts are read.
    request: Option<EncodeRequest>,
    /// Once they are.
    job: Option<EncodeJob>,
    num_tokens: u64,
    /// Once there is one; with whether it must have passes of its own.
    batcher: Option<(ActorRef<EncodeBatcherMsg>, bool)>,
    outlet: Outlet<Answer>,
    preparation: Option<AbortOnDropHandle<()>>,
    timeline: Timeline,
    pulse: Arc<Pulse>,
    failpoints: Failpoints,
    trace: Trace,
    tree: Arc<Tree>,
    _client_watch: AbortOnDropHandle<()>,
    _deadline_watch: Option<AbortOnDropHandle<()>>,
    _permit: Permit,
    presence: Presence,
}

impl Actor for Encoding {
    type Msg = EncodingMsg;
    type State = EncodingState;
    type Arguments = RequestArgs<EncodeRequest, Answer>;

    async fn pre_start(
        &self,
        myself: ActorRef<EncodingMsg>,
        RequestArgs { tree, submission, model, metrics, pulse, failpoints }: Self::Arguments,
    ) -> Result<EncodingState, ActorProcessingErr> {
        let Submission { key, request, outlet, permit, deadline, trace } = submission;
        let deadline_watch = deadline.map(|deadline| {
            let passes = tokio::time::sleep_until(deadline.at());
            tell_after(passes, &myself, EncodingMsg::DeadlinePassed(deadline))
        });
        Ok(EncodingState {
            key,
            id: request.request_id.clone(),
            request: Some(request),
            job: None,
            num_tokens: 0,
            batcher: None,
            preparation: None,
            timeline: Timeline::begin(metrics, 1),
            pulse,
            failpoints,
            trace,
            _client_watch: tell_after(outlet.closed(), &myself, EncodingMsg::ClientGone),
            _deadline_watch: deadline_watch,
            _permit: permit,
            presence: tree.census.join(ActorRole::Request, &format!("{model} {key}"), myself.get_id()),
            model,
            outlet,
            tree,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<EncodingMsg>,
        message: EncodingMsg,
        state: &mut EncodingState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        let pulse = state.pulse.clone();
        let _beat = pulse.beat();
        strike(&state.failpoints, FailPlace::Request, &myself.get_cell()).await?;
        match message {
            EncodingMsg::Loading => state.trace.enter(Stage::Load),
            EncodingMsg::ModelReady(model) => state.prepare(&myself, model),
            EncodingMsg::Prepared(prepared) => state.take_prepared(&myself, *prepared),
            EncodingMsg::BatcherReady { batcher, solo } => {
                state.batcher = Some((batcher, solo));
                state.admit(&myself);
            }
            EncodingMsg::Scheduled => {
                state.timeline.give_place(state.num_tokens as usize);
                state.trace.enter(Stage::Prefill);
            }
            EncodingMsg::News { from, encoded } => state.take_news(&myself, from, encoded),
            EncodingMsg::ClientGone => {
                state.timeline.fail(ErrorKind::Cancelled);
                myself.stop(Some("the client went away".into()));
            }
            EncodingMsg::DeadlinePassed(deadline) => state.give_up(&myself, deadline),
            EncodingMsg::Fail(failure) => state.fail(&myself, failure),
        }
        Ok(())
    }
}

impl EncodingState {
    /// Tokenising takes as long as the texts are long: not here, but on the blocking pool.
    fn prepare(&mut self, myself: &ActorRef<EncodingMsg>, model: Arc<LoadedModel>) {
        let Some(request) = self.request.take() else { return };
        self.trace.enter(Stage::Queue);
        self.trace.answered_by(&model.id);
        let num_bytes = u32::try_from(request.work.num_bytes()).unwrap_or(u32::MAX);
        let at_most: Duration = self.tree.settings().hang_timeout + TIME_PER_PROMPT_BYTE * num_bytes;
        let (myself, metrics) = (myself.clone(), self.timeline.metrics().clone());
        self.preparation = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let work = move || prepare(&request, &model);
            let prepared = lost::blocking(&metrics, at_most, work).await.unwrap_or_else(|why| {
                Err(Failure::new(ErrorKind::Internal, format!("the texts could not be prepared: {why}")))
            });
            tell(&myself, EncodingMsg::Prepared(Box::new(prepared)));
        })));
    }

    fn take_prepared(&mut self, myself: &ActorRef<EncodingMsg>, prepared: Result<EncodeJob, Failure>) {
        match prepared {
            Err(failure) => self.fail(myself, failure),
            Ok(job) => {
                self.num_tokens = job.num_tokens() as u64;
                self.job = Some(job);
                self.admit(myself);
            }
        }
    }

    /// Once there are texts and a batcher: those of which nothing has come yet.
    fn admit(&mut self, myself: &ActorRef<EncodingMsg>) {
        let (Some(job), Some((batcher, solo))) = (&self.job, &self.batcher) else { return };
        let admit = EncodeBatcherMsg::Admit {
            request: self.key,
            task: job.task(),
            texts: job.missing(),
            actor: myself.clone(),
            solo: *solo,
        };
        tell(batcher, admit);
    }

    fn take_news(&mut self, myself: &ActorRef<EncodingMsg>, from: ActorId, encoded: Vec<(u32, Encoded)>) {
        let (Some(job), Some((batcher, _))) = (&mut self.job, &self.batcher) else { return };
        if batcher.get_id() != from {
            return;
        }
        encoded.into_iter().for_each(|(index, output)| job.take(index, output));
        let Some(output) = job.answer() else { return };
        self.timeline.end_choice(FinishReason::Stop);
        self.timeline.finish(AnswerSize {
            num_prompt_tokens: self.num_tokens,
            num_tokens: 0,
            num_tokens_of_longest: 0,
            num_choices: 1,
            max_tokens: 0,
        });
        self.trace.ended(FinishReason::Stop);
        self.trace.finished(&Usage { prompt_tokens: self.num_tokens, ..Usage::default() });
        let model = self.model.clone();
        self.outlet.end(Ok(EncodeAnswer { model, output, num_tokens: self.num_tokens }));
        myself.stop(None);
    }

    /// Nobody waits for the answer any more.
    fn give_up(&mut self, myself: &ActorRef<EncodingMsg>, deadline: Deadline) {
        let reached = match (&self.request, &self.job) {
            (Some(_), _) => Reached::Load,
            (None, None) => Reached::Queue,
            (None, Some(job)) => {
                let (num_texts, num_missing) = (job.num_texts(), job.missing().len());
                Reached::Encoding { num_encoded: num_texts - num_missing, num_texts }
            }
        };
        self.fail(myself, deadline.failure(reached));
    }

    fn fail(&mut self, myself: &ActorRef<EncodingMsg>, failure: Failure) {
        self.trace.failed(failure.kind);
        self.timeline.fail(failure.kind);
        tracing::debug!(
            parent: self.trace.caller(), request = %self.key, kind = ?failure.kind, "request failed: {failure}"
        );
        self.outlet.end(Err(naming(failure, &self.id)));
        myself.stop(None);
    }
}

/// Reads a request's texts. Blocks; the failure names the field at fault.
fn prepare(request: &EncodeRequest, model: &LoadedModel) -> Result<EncodeJob, Failure> {
    let info = model.weights.info();
    let Some(encoder) = &info.encoder else {
        let message = "this model generates text and makes no vectors or labels of it; /v1/chat/completions, \
                       /v1/completions and /v1/responses are what it can do";
        return Err(Failure::new(ErrorKind::Unsupported, message).with_param("model"));
    };
    let model = EncodeModel {
        encoder,
        processor: &model.processor,
        max_tokens: model.capacity.max_model_len,
        vocab_size: info.vocab_size,
    };
    EncodeJob::prepare(&request.work, request.truncation, model)
}
