//! A thread of its own on which a model steps, so that the batcher's mailbox stays awake during a forward pass.
//!
//! Invariants: the model is either at home in the batcher or here, never both, so that "at most one step in flight" is a
//! fact of ownership. A panic stays on this thread: it becomes a message like any other, and so does the end of the thread
//! where it should not end. It ends when the batcher drops its [`Stepper`], at the latest after the step it is at; if that
//! never ends, the thread is left behind, and there is nobody home to hear of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use candlewick_engine::{DraftAsk, Model, StepError, StepPlan, grammar};
use candlewick_protocol::{FailPlace, Failpoints, Killed};
use ractor::ActorRef;

use crate::batcher::BatcherMsg;
use crate::census::Presence;
use crate::draft::Guesser;
use crate::loader::LoadedModel;
use crate::lost::AtWork;
use crate::tree::tell;

/// What the thread is to do.
enum Job {
    /// A step.
    Step { model: Box<dyn Model>, plan: StepPlan },
    /// Guesses of the draft model, which lives here.
    Draft { asks: Vec<DraftAsk>, num_tokens_max: usize },
    /// The draft model's texts are not kept.
    ForgetDrafts,
}

/// When the model computed a step.
#[derive(Debug, Clone, Copy)]
pub struct StepTime {
    /// It began.
    pub began: Instant,
    /// It was done.
    pub ended: Instant,
}

/// The batcher's end of the thread.
pub struct Stepper {
    jobs: mpsc::SyncSender<Job>,
}

/// What a stepper is made of.
pub struct StepperArgs {
    /// The model it runs.
    pub model: Arc<LoadedModel>,
    /// Where models and outcomes go.
    pub home: ActorRef<BatcherMsg>,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
    /// Counted while the thread lives.
    pub presence: Presence,
    /// Tells whether it lives.
    pub at_work: AtWork,
}

/// Says that the thread has ended where it should not have, by whatever way it did.
struct LastWord(Option<ActorRef<BatcherMsg>>);

impl Drop for LastWord {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            tell(home, BatcherMsg::StepperGone);
        }
    }
}

impl Stepper {
    /// Starts the thread, which first makes the model (that may take memory, and may panic) and sends it home.
    pub fn spawn(args: StepperArgs) -> std::io::Result<Self> {
        // One job: the next comes when this one is home, but for what is forgotten in between.
        let (jobs, inbox) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("stepper {}", args.model.id));
        thread.spawn(move || {
            let StepperArgs { model, home, failpoints, presence, at_work } = args;
            let _counted = (presence, at_work);
            let mut last_word = LastWord(Some(home.clone()));
            match survive(|| model.weights.start(model.capacity.cache)) {
                Ok(model) => tell(&home, BatcherMsg::ModelStarted(model)),
                Err(why) => tell(&home, BatcherMsg::StepFailed { plan: StepPlan::default(), why }),
            }
            let mut guesser = Guesser::start(&model);
            // The weights are the supervisor's to keep; what the model needs of them it holds itself.
            drop(model);
            for job in inbox {
                match job {
                    Job::Step { model, plan } => tell(&home, run(model, plan, &failpoints)),
                    Job::Draft { asks, num_tokens_max } => {
                        let guess = |guesser: Guesser| guesser.guess(&asks, num_tokens_max);
                        let drafts;
                        (guesser, drafts) = guesser.map_or((None, None), guess);
                        tell(&home, BatcherMsg::Drafted(drafts));
                    }
                    Job::ForgetDrafts => guesser.iter_mut().for_each(Guesser::forget),
                }
            }
            last_word.0 = None;
        })?;
        Ok(Self { jobs })
    }

    /// Hands the model over for one step. It comes home in `StepDone`, or is lost and `StepFailed` says why.
    ///
    /// # Errors
    /// If the thread is gone, which it never is while this handle lives unless something broke that should not; the model
    /// is lost with it.
    pub fn step(&self, model: Box<dyn Model>, plan: StepPlan) -> Result<(), StepperGone> {
        self.send(Job::Step { model, plan })
    }

    /// Asks the draft model. The answer comes home in `Drafted`.
    ///
    /// # Errors
    /// As `step`.
    pub fn draft(&self, asks: Vec<DraftAsk>, num_tokens_max: usize) -> Result<(), StepperGone> {
        self.send(Job::Draft { asks, num_tokens_max })
    }

    /// The draft model forgets its texts. Only while nothing else is to be done.
    ///
    /// # Errors
    /// As `step`.
    pub fn forget_drafts(&self) -> Result<(), StepperGone> {
        self.send(Job::ForgetDrafts)
    }

    fn send(&self, job: Job) -> Result<(), StepperGone> {
        self.jobs.send(job).map_err(|_| StepperGone)
    }
}

/// The stepper's thread has ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the stepper's thread is gone")]
pub struct StepperGone;

fn run(mut model: Box<dyn Model>, plan: StepPlan, failpoints: &Failpoints) -> BatcherMsg {
    let began = Instant::now();
    grammar::begin_masks(&plan);
    let step = survive(|| {
        failpoints.strike(FailPlace::Stepper).map_err(StepError::Compute)?;
        let mut outcome = model.step(&plan)?;
        grammar::take_tokens(&plan, &mut outcome);
        Ok(outcome)
    });
    match step {
        Ok(outcome) => {
            BatcherMsg::StepDone { model, plan, outcome, time: StepTime { began, ended: Instant::now() } }
        }
        Err(why) => {
            // What broke may break again when it is taken apart. The first reason is the one to tell.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(model)));
            BatcherMsg::StepFailed { plan, why }
        }
    }
}

/// Runs what may fail or panic; either way the answer is a text. The state it leaves behind is dropped, so nothing that is
/// half changed is seen again.
pub fn survive<T>(work: impl FnOnce() -> Result<T, StepError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        // The thread itself is meant.
        Err(panic) if panic.is::<Killed>() => resume_unwind(panic),
        Err(panic) => Err(format!("the forward pass panicked: {}", panic_text(&*panic))),
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
