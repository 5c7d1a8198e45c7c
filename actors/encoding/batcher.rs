//! Owns the texts that wait and, between passes, the encoder: packs what comes next and tells requests what came of it.
//!
//! Beside the [`Batcher`](crate::batcher::Batcher) of models that generate, under the same supervisor, and simpler: there is no
//! cache, and nothing goes on from one pass to the next. Invariants: a pass is begun only with the encoder in hand, and as soon
//! as it is; after a pass failed nothing here can be trusted, and the batcher ends with [`BatcherCrash`]; it holds nothing that
//! its requests could not admit again elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use candlewick_engine::encode::{EncodePlan, EncodeQueue, EncodeTask, Encoded, Encoder, EncoderInput};
use candlewick_protocol::{ActorRole, FailPlace, Failpoints, RequestKey};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};

use super::EncodingMsg;
use super::stepper::{EncodeStepper, EncodeStepperArgs, PassNews};
use crate::batcher::{BatcherArgs, BatcherCrash};
use crate::census::Presence;
use crate::lost;
use crate::step_record::StepRecord;
use crate::stepper::StepperGone;
use crate::tree::{Tree, strike, tell};
use crate::vitals::Vitals;

/// Runs one encoder's passes.
pub struct EncodeBatcher;

/// What it is told.
pub enum EncodeBatcherMsg {
    /// Encode these texts of one request, and tell its actor what comes of them.
    Admit {
        /// Whose texts.
        request: RequestKey,
        /// What is wanted of each.
        task: EncodeTask,
        /// The texts, by index; of a request that was here before, those that nothing came of.
        texts: Vec<(u32, Arc<EncoderInput>)>,
        /// Who is told.
        actor: ActorRef<EncodingMsg>,
        /// It is suspected of having crashed batchers, and gets passes of its own.
        solo: bool,
    },
    /// A request has ended, in whatever way.
    Forget(RequestKey),
    /// The settings have changed.
    SettingsChanged,
    /// What the stepper has to say.
    Pass(PassNews),
}

/// A request that was admitted.
struct Admitted {
    actor: ActorRef<EncodingMsg>,
    /// It was part of a pass.
    is_scheduled: bool,
}

/// An encoder's batcher at work.
pub struct EncodeBatcherState {
    queue: EncodeQueue,
    /// `None` while it is started and while a pass is in flight.
    encoder: Option<Box<dyn Encoder>>,
    stepper: EncodeStepper,
    requests: HashMap<RequestKey, Admitted>,
    record: StepRecord,
    vitals: Arc<Vitals>,
    failpoints: Failpoints,
    tree: Arc<Tree>,
    /// Its own name, in what it sends.
    id: ActorId,
    presence: Presence,
}

impl Actor for EncodeBatcher {
    type Msg = EncodeBatcherMsg;
    type State = EncodeBatcherState;
    type Arguments = BatcherArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<EncodeBatcherMsg>,
        BatcherArgs { tree, model, metrics, step_times, vitals }: BatcherArgs,
    ) -> Result<EncodeBatcherState, ActorProcessingErr> {
        let settings = tree.settings();
        let (thread, at_work) = lost::worker(&metrics);
        let failpoints = tree.failpoints.of_model(&model.id);
        vitals.begin_start(thread, settings.hang_timeout);
        let presence = tree.census.join(ActorRole::Batcher, &model.id, myself.get_id());
        let stepper = EncodeStepper::spawn(EncodeStepperArgs {
            presence: tree.census.join_thread(ActorRole::Stepper, &model.id),
            model,
            home: myself.clone(),
            failpoints: failpoints.clone(),
            at_work,
        })?;
        Ok(EncodeBatcherState {
            queue: EncodeQueue::new(settings.max_step_tokens),
            encoder: None,
            stepper,
            requests: HashMap::new(),
            record: StepRecord::new(metrics, step_times),
            vitals,
            failpoints,
            id: myself.get_id(),
            presence,
            tree,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<EncodeBatcherMsg>,
        message: EncodeBatcherMsg,
        state: &mut EncodeBatcherState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        let vitals = state.vitals.clone();
        let _beat = vitals.handler.beat();
        strike(&state.failpoints, FailPlace::Batcher, &myself.get_cell()).await?;
        match message {
            EncodeBatcherMsg::Admit { request, task, texts, actor, solo } => {
                state.queue.admit(request, task, solo, texts);
                state.requests.insert(request, Admitted { actor, is_scheduled: false });
            }
            EncodeBatcherMsg::Forget(request) => {
                state.queue.forget(request);
                state.requests.remove(&request);
            }
            EncodeBatcherMsg::SettingsChanged => {
                state.queue.set_max_tokens(state.tree.settings().max_step_tokens);
            }
            EncodeBatcherMsg::Pass(PassNews::Started(encoder)) => {
                vitals.end_step();
                state.encoder = Some(encoder);
            }
            EncodeBatcherMsg::Pass(PassNews::Done { encoder, plan, outcome, time }) => {
                state.record.note(plan.num_tokens(), time);
                state.finish_pass(encoder, plan, outcome)?;
            }
            EncodeBatcherMsg::Pass(PassNews::Failed { plan, why }) => {
                return Err(Box::new(BatcherCrash { suspects: suspects(&plan), why }));
            }
            EncodeBatcherMsg::Pass(PassNews::Gone) => {
                let why = StepperGone.to_string();
                return Err(Box::new(BatcherCrash { suspects: vitals.suspects(), why }));
            }
        }
        state.begin_pass_if_idle()?;
        Ok(())
    }
}

/// The requests of a pass, each once.
fn suspects(plan: &EncodePlan) -> Vec<RequestKey> {
    let mut requests = plan.texts.iter().map(|text| text.id.request).collect::<Vec<_>>();
    requests.sort_unstable();
    requests.dedup();
    requests
}

impl EncodeBatcherState {
    /// Sends the encoder away with the next plan, if it is here and there is one.
    fn begin_pass_if_idle(&mut self) -> Result<(), StepperGone> {
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let Some(plan) = self.queue.plan() else {
            self.encoder = Some(encoder);
            self.record.rest();
            return Ok(());
        };
        let requests = suspects(&plan);
        for request in &requests {
            if let Some(admitted) = self.requests.get_mut(request)
                && !std::mem::replace(&mut admitted.is_scheduled, true)
            {
                tell(&admitted.actor, EncodingMsg::Scheduled);
            }
        }
        let deadline = self.record.deadline(plan.num_tokens(), self.tree.settings().hang_timeout);
        self.vitals.begin_step(requests, deadline);
        self.stepper.pass(encoder, plan)
    }

    /// The encoder is home: each request is told what came of its texts in one message.
    fn finish_pass(
        &mut self,
        encoder: Box<dyn Encoder>,
        plan: EncodePlan,
        outcome: Vec<Encoded>,
    ) -> Result<(), BatcherCrash> {
        self.vitals.end_step();
        if outcome.len() != plan.texts.len() {
            let why = format!("{} texts were encoded into {} outputs", plan.texts.len(), outcome.len());
            return Err(BatcherCrash { suspects: suspects(&plan), why });
        }
        let mut by_request = HashMap::<RequestKey, Vec<(u32, Encoded)>>::new();
        for (text, encoded) in plan.texts.iter().zip(outcome) {
            by_request.entry(text.id.request).or_default().push((text.id.index, encoded));
        }
        for (request, encoded) in by_request {
            if let Some(admitted) = self.requests.get(&request) {
                self.vitals.advanced(request);
                tell(&admitted.actor, EncodingMsg::News { from: self.id, encoded });
            }
        }
        self.encoder = Some(encoder);
        Ok(())
    }
}
