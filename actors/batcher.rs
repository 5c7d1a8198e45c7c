//! Owns the scheduler and, between steps, the model: decides what is computed next and tells requests what came of it.
//!
//! Requests admit their sequences here and grant credit for news; the supervisor forgets requests that have ended; the stepper
//! sends steps home. Invariants: a step is begun only with the model in hand, so at most one is in flight; after a step
//! failed nothing here can be trusted, and the batcher ends with [`BatcherCrash`]; it holds nothing that its requests could
//! not admit again elsewhere.

mod drafting;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candlewick_engine::{
    Branch, Drafts, Model, News, Scheduler, SchedulerCounts, SchedulerLimits, Sequence, SequenceId,
    StepOutcome, StepPlan, Workload,
};
use candlewick_protocol::{ActorRole, ErrorKind, FailPlace, Failpoints, Failure, RequestKey};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use tokio::time::Instant as Moment;

use self::drafting::Drafting;
use crate::census::Presence;
use crate::deadline::Deadline;
use crate::loader::LoadedModel;
use crate::lost;
use crate::metrics::ModelMetrics;
use crate::outlook::Outlook;
use crate::quarantine::{Turn, Turns};
use crate::request::RequestMsg;
use crate::step_record::StepRecord;
use crate::step_times::StepTimes;
use crate::stepper::{StepTime, Stepper, StepperArgs, StepperGone};
use crate::tree::{Tree, strike, tell};
use crate::vitals::Vitals;

/// Runs one model's steps.
pub struct Batcher;

/// What a batcher is told.
pub enum BatcherMsg {
    /// Generate for these sequences of one request, and tell its actor the news.
    Admit {
        /// Whose sequences.
        request: RequestKey,
        /// The sequences; of a request that was here before, those that are not complete.
        sequences: Vec<Sequence>,
        /// Who is told.
        actor: ActorRef<RequestMsg>,
        /// It is suspected of having crashed batchers, and gets steps of its own.
        solo: bool,
        /// How much news it may be sent before it grants more; at most [`NEWS_WINDOW`].
        credit: u32,
        /// When it is given up. Its actor says so to its client; here it is not begun any more.
        deadline: Option<Deadline>,
    },
    /// A search goes on: its sequences are replaced by those that go on from them.
    Branch {
        /// Whose search.
        request: RequestKey,
        /// What goes on from what.
        branches: Vec<Branch>,
    },
    /// A sequence is complete: a stop string was found in its text.
    Cancel(SequenceId),
    /// A request has ended, in whatever way.
    Forget(RequestKey),
    /// A request has passed on so much of its news to its reader, and may be sent as much again.
    Grant {
        /// Whose news.
        request: RequestKey,
        /// How many messages.
        num_news: u32,
    },
    /// The settings have changed.
    SettingsChanged,
    /// Memory is short: drop what was cached of prompts, and give back the blocks that nobody holds.
    DropPrefixes,
    /// The stepper has made the model.
    ModelStarted(Box<dyn Model>),
    /// A step is done, and the model is home.
    StepDone {
        /// The model.
        model: Box<dyn Model>,
        /// What it was to do.
        plan: StepPlan,
        /// What came of it.
        outcome: StepOutcome,
        /// When.
        time: StepTime,
    },
    /// The draft model has been asked: what it said, or nothing more from now on.
    Drafted(Option<Drafts>),
    /// A step failed, or the model could not be started (then the plan is empty); the model is lost.
    StepFailed {
        /// What it was to do.
        plan: StepPlan,
        /// What went wrong.
        why: String,
    },
    /// The stepper's thread has ended by itself, and the model with it.
    StepperGone,
}

/// News that a request may be sent and has not passed on to its reader. Without credit it is not computed: a slow reader,
/// or an actor that the runtime does not get round to, holds up nobody else and no memory.
pub const NEWS_WINDOW: u32 = 16;

/// What a batcher is made of.
pub struct BatcherArgs {
    /// The tree it lives in.
    pub tree: Arc<Tree>,
    /// The model it runs.
    pub model: Arc<LoadedModel>,
    /// The model's series.
    pub metrics: Arc<ModelMetrics>,
    /// How long its steps take.
    pub step_times: Arc<Mutex<StepTimes>>,
    /// What its supervisor sees of it.
    pub vitals: Arc<Vitals>,
}

/// Why a batcher died, and which requests were in its last step: the error that its supervisor gets.
#[derive(Debug)]
pub struct BatcherCrash {
    /// The requests of the step that failed.
    pub suspects: Vec<RequestKey>,
    /// What went wrong.
    pub why: String,
}

impl fmt::Display for BatcherCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for BatcherCrash {}

/// A request that was admitted.
struct Admitted {
    actor: ActorRef<RequestMsg>,
    sequences: Vec<SequenceId>,
    /// It was part of a step.
    is_scheduled: bool,
    /// News it may still be sent. At zero its sequences are paused.
    credit: u32,
    deadline: Option<Deadline>,
}

/// A batcher at work.
pub struct BatcherState {
    scheduler: Scheduler,
    /// `None` while it is started and while a step is in flight.
    model: Option<Box<dyn Model>>,
    drafting: Drafting,
    stepper: Stepper,
    requests: HashMap<RequestKey, Admitted>,
    turns: Turns,
    /// Memory is short: once the model is home.
    must_drop_prefixes: bool,
    max_running: usize,
    /// The counts that the metrics know of.
    counted: SchedulerCounts,
    record: StepRecord,
    metrics: Arc<ModelMetrics>,
    outlook: Arc<Outlook>,
    vitals: Arc<Vitals>,
    failpoints: Failpoints,
    tree: Arc<Tree>,
    /// Its own name, in what it sends.
    id: ActorId,
    presence: Presence,
}

impl Actor for Batcher {
    type Msg = BatcherMsg;
    type State = BatcherState;
    type Arguments = BatcherArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<BatcherMsg>,
        BatcherArgs { tree, model, metrics, step_times, vitals }: BatcherArgs,
    ) -> Result<BatcherState, ActorProcessingErr> {
        let (settings, cache) = (tree.settings(), model.capacity.cache);
        let max_running = settings.max_running.max(1);
        let mut scheduler = Scheduler::new(SchedulerLimits {
            max_running,
            max_step_tokens: settings.max_step_tokens.max(1),
            block_size: cache.block_size as usize,
            num_blocks: cache.num_blocks as usize,
            prefix_caching: settings.prefix_caching,
            max_inter_token: settings.max_inter_token,
            speculation: settings.speculation,
        });
        scheduler.set_drafting(model.draft.as_ref().is_some_and(|draft| draft.is_usable()));
        let (thread, at_work) = lost::worker(&metrics);
        let failpoints = tree.failpoints.of_model(&model.id);
        let outlook = tree.admission.outlook(&model.id);
        vitals.begin_start(thread, settings.hang_timeout);
        let presence = tree.census.join(ActorRole::Batcher, &model.id, myself.get_id());
        let stepper = Stepper::spawn(StepperArgs {
            presence: tree.census.join_thread(ActorRole::Stepper, &model.id),
            model,
            home: myself.clone(),
            failpoints: failpoints.clone(),
            at_work,
        })?;
        Ok(BatcherState {
            scheduler,
            model: None,
            drafting: Drafting::Due,
            stepper,
            requests: HashMap::new(),
            turns: Turns::default(),
            must_drop_prefixes: false,
            max_running,
            counted: SchedulerCounts::default(),
            record: StepRecord::new(metrics.clone(), step_times),
            metrics,
            outlook,
            vitals,
            failpoints,
            id: myself.get_id(),
            presence,
            tree,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<BatcherMsg>,
        message: BatcherMsg,
        state: &mut BatcherState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        let vitals = state.vitals.clone();
        let _beat = vitals.handler.beat();
        strike(&state.failpoints, FailPlace::Batcher, &myself.get_cell()).await?;
        match message {
            BatcherMsg::Admit { request, sequences, actor, solo, credit, deadline } => {
                let sequence_ids = sequences.iter().map(|sequence| sequence.id).collect();
                let admitted =
                    Admitted { actor, sequences: sequence_ids, is_scheduled: false, credit, deadline };
                state.admit(request, sequences, solo, admitted)
            }
            BatcherMsg::Branch { request, branches } => state.branch(request, branches),
            BatcherMsg::Cancel(sequence) => state.cancel(sequence),
            BatcherMsg::Forget(request) => state.forget(request),
            BatcherMsg::Grant { request, num_news } => state.grant(request, num_news),
            BatcherMsg::SettingsChanged => state.take_settings(),
            BatcherMsg::DropPrefixes => state.must_drop_prefixes = true,
            BatcherMsg::ModelStarted(model) => {
                vitals.end_step();
                state.model = Some(model);
            }
            BatcherMsg::StepDone { model, plan, outcome, time } => {
                state.note_time(&plan, &outcome, time);
                state.finish_step(model, plan, outcome);
            }
            BatcherMsg::Drafted(drafts) => state.take_drafts(drafts),
            BatcherMsg::StepFailed { plan, why } => {
                return Err(Box::new(BatcherCrash { suspects: suspects(&plan), why }));
            }
            BatcherMsg::StepperGone => {
                let why = StepperGone.to_string();
                return Err(Box::new(BatcherCrash { suspects: vitals.suspects(), why }));
            }
        }
        state.step_if_idle()?;
        state.measure();
        Ok(())
    }
}

/// The requests of a step, each once.
fn suspects(plan: &StepPlan) -> Vec<RequestKey> {
    let mut requests = plan.chunks.iter().map(|chunk| chunk.sequence.request).collect::<Vec<_>>();
    requests.sort_unstable();
    requests.dedup();
    requests
}

impl BatcherState {
    fn admit(&mut self, request: RequestKey, sequences: Vec<Sequence>, solo: bool, admitted: Admitted) {
        // The context was checked against the cache when the request was resolved; a sequence that cannot fit would wait
        // for ever, so it is worth asking twice.
        if let Some(too_long) =
            sequences.iter().map(num_tokens_at_most).find(|&len| !self.scheduler.can_ever_fit(len))
        {
            let capacity = self.scheduler.counts().num_blocks;
            let message = format!(
                "prompt and output may come to {too_long} tokens, more than the {capacity} blocks of the KV cache hold; \
                 a shorter prompt or a smaller `max_tokens` would fit"
            );
            return tell(
                &admitted.actor,
                RequestMsg::Fail(Failure::new(ErrorKind::ContextOverflow, message)),
            );
        }
        let counts = self.scheduler.counts();
        if counts.num_running + counts.num_waiting >= self.max_running {
            tell(&admitted.actor, RequestMsg::Queued);
        }
        if solo {
            self.turns.isolate(request);
        }
        sequences.into_iter().for_each(|sequence| self.scheduler.admit(sequence));
        set_paused(&mut self.scheduler, &admitted, admitted.credit == 0);
        self.requests.insert(request, admitted);
    }

    fn branch(&mut self, request: RequestKey, branches: Vec<Branch>) {
        // One that was forgotten meanwhile has nothing to go on from.
        let Some(admitted) = self.requests.get_mut(&request) else { return };
        admitted.sequences = branches.iter().map(|branch| branch.child.id).collect();
        self.scheduler.branch(request, branches);
        set_paused(&mut self.scheduler, admitted, admitted.credit == 0);
    }

    fn cancel(&mut self, sequence: SequenceId) {
        self.scheduler.cancel(sequence);
    }

    fn forget(&mut self, request: RequestKey) {
        for sequence in self.requests.remove(&request).into_iter().flat_map(|admitted| admitted.sequences) {
            self.scheduler.cancel(sequence);
        }
        let had_turns = !self.turns.is_empty();
        self.turns.forget(request);
        if had_turns && self.turns.is_empty() {
            // The last suspect is gone: everyone takes part again.
            self.take_turn(Turn::Others);
        }
    }

    fn grant(&mut self, request: RequestKey, num_news: u32) {
        let Some(admitted) = self.requests.get_mut(&request) else { return };
        admitted.credit += num_news;
        set_paused(&mut self.scheduler, admitted, false);
    }

    /// Limits hold from the next step on; what the KV cache is made for stays.
    fn take_settings(&mut self) {
        let settings = self.tree.settings();
        self.max_running = settings.max_running.max(1);
        self.scheduler.set_limits(
            self.max_running,
            settings.max_step_tokens.max(1),
            settings.max_inter_token,
        );
    }

    /// Sends the model away with the next plan, if it is here and there is one.
    fn step_if_idle(&mut self) -> Result<(), StepperGone> {
        if self.drafting == Drafting::InFlight {
            return Ok(());
        }
        let Some(mut model) = self.model.take() else { return Ok(()) };
        if std::mem::take(&mut self.must_drop_prefixes) {
            model.release(&self.scheduler.drop_prefixes());
            self.stepper.forget_drafts()?;
        }
        if self.ask_draft_model()? {
            self.model = Some(model);
            return Ok(());
        }
        self.forget_late();
        let Some(plan) = self.plan() else {
            self.model = Some(model);
            self.record.rest();
            self.outlook.note_left(Workload::default(), Instant::now());
            return Ok(());
        };
        self.outlook.note_left(self.scheduler.workload(), Instant::now());
        self.tell_scheduled(&plan);
        let num_tokens = plan.num_tokens();
        self.vitals.begin_step(suspects(&plan), self.step_deadline(num_tokens));
        self.stepper.step(model, plan)
    }

    /// Those whose deadline has passed before their turn came are not begun: their actors are about to say so.
    fn forget_late(&mut self) {
        let now = Moment::now();
        let is_late = |admitted: &Admitted| {
            !admitted.is_scheduled && admitted.deadline.is_some_and(|deadline| deadline.has_passed(now))
        };
        let late: Vec<RequestKey> =
            self.requests.iter().filter(|(_, admitted)| is_late(admitted)).map(|(&key, _)| key).collect();
        late.into_iter().for_each(|request| self.forget(request));
    }

    /// How long a step of so many tokens may take.
    fn step_deadline(&self, num_tokens: usize) -> Duration {
        let floor = self.tree.settings().hang_timeout;
        self.record.deadline(num_tokens, floor)
    }

    /// The next plan: everybody's, or in quarantine that of whose turn it is and who has something to compute.
    fn plan(&mut self) -> Option<StepPlan> {
        if self.turns.is_empty() {
            return self.scheduler.plan();
        }
        for _ in 0..self.turns.round() {
            let turn = self.turns.next();
            self.take_turn(turn);
            if let Some(plan) = self.scheduler.plan() {
                return Some(plan);
            }
        }
        None
    }

    /// Lets those compute whose turn it is, except where there is no credit.
    fn take_turn(&mut self, turn: Turn) {
        for (&request, admitted) in &self.requests {
            let runs = self.turns.includes(turn, request) && admitted.credit > 0;
            set_paused(&mut self.scheduler, admitted, !runs);
        }
    }

    fn tell_scheduled(&mut self, plan: &StepPlan) {
        for chunk in &plan.chunks {
            if let Some(admitted) = self.requests.get_mut(&chunk.sequence.request)
                && !admitted.is_scheduled
            {
                admitted.is_scheduled = true;
                // What comes before its first chunk is in the cache already.
                tell(&admitted.actor, RequestMsg::Scheduled { num_cached_tokens: chunk.start as u64 });
            }
        }
    }

    fn note_time(&mut self, plan: &StepPlan, outcome: &StepOutcome, time: StepTime) {
        let waited_for = self.record.note(plan.num_tokens(), time);
        self.outlook.note_step(plan, outcome, waited_for);
        self.scheduler.note_time(plan, time.ended - time.began);
    }

    /// The model is home: each request is told its news of the step in one message.
    fn finish_step(&mut self, model: Box<dyn Model>, plan: StepPlan, outcome: StepOutcome) {
        self.vitals.end_step();
        let mut by_request = HashMap::<RequestKey, Vec<News>>::new();
        for news in self.scheduler.apply(&plan, outcome) {
            by_request.entry(sequence_of(&news).request).or_default().push(news);
        }
        for (request, news) in by_request {
            if let Some(admitted) = self.requests.get_mut(&request) {
                self.vitals.advanced(request);
                tell(&admitted.actor, RequestMsg::News { from: self.id, news });
                admitted.credit = admitted.credit.saturating_sub(1);
                if admitted.credit == 0 {
                    set_paused(&mut self.scheduler, admitted, true);
                }
            }
        }
        self.model = Some(model);
    }

    fn measure(&mut self) {
        let counts = self.scheduler.counts();
        self.metrics
            .engine
            .kv_cache_usage
            .set(counts.num_blocks_used as f64 / counts.num_blocks.max(1) as f64);
        let known = std::mem::replace(&mut self.counted, counts);
        let engine = &self.metrics.engine;
        engine.num_preemptions.inc_by((counts.num_preemptions - known.num_preemptions) as f64);
        engine.prefix_queries.inc_by((counts.num_prefix_queries - known.num_prefix_queries) as f64);
        engine.prefix_hits.inc_by((counts.num_prefix_hits - known.num_prefix_hits) as f64);
        engine.num_drafts.inc_by((counts.num_drafts - known.num_drafts) as f64);
        engine.num_draft_tokens.inc_by((counts.num_draft_tokens - known.num_draft_tokens) as f64);
        engine.num_accepted_tokens.inc_by((counts.num_accepted_tokens - known.num_accepted_tokens) as f64);
    }
}

impl Drop for BatcherState {
    fn drop(&mut self) {
        self.metrics.engine.kv_cache_usage.set(0.0);
        self.outlook.stopped();
    }
}

fn set_paused(scheduler: &mut Scheduler, admitted: &Admitted, is_paused: bool) {
    for &sequence in &admitted.sequences {
        match is_paused {
            true => scheduler.pause(sequence),
            false => scheduler.resume(sequence),
        }
    }
}

/// The most tokens that prompt and output can come to.
fn num_tokens_at_most(sequence: &Sequence) -> usize {
    sequence.prompt.len() + sequence.params.max_tokens as usize
}

fn sequence_of(news: &News) -> SequenceId {
    match news {
        News::PromptScored { sequence, .. }
        | News::Sampled { sequence, .. }
        | News::Complete { sequence }
        | News::Failed { sequence, .. } => *sequence,
    }
}
