//! A thread of its own on which an encoder runs its passes, as [`stepper`](crate::stepper) is for a model that generates.
//!
//! Invariants are those there: the encoder is at home in its batcher or here, never both; a panic stays on this thread and
//! becomes a message; and so does the end of the thread where it should not end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use candlewick_engine::StepError;
use candlewick_engine::encode::{EncodePlan, Encoded, Encoder};
use candlewick_protocol::{FailPlace, Failpoints};
use ractor::ActorRef;

use super::batcher::EncodeBatcherMsg;
use crate::census::Presence;
use crate::loader::LoadedModel;
use crate::lost::AtWork;
use crate::stepper::{StepTime, StepperGone, survive};
use crate::tree::tell;

/// The thread's news, for its batcher.
pub enum PassNews {
    /// The encoder is made.
    Started(Box<dyn Encoder>),
    /// A pass is done, and the encoder is home.
    Done {
        /// The encoder.
        encoder: Box<dyn Encoder>,
        /// What it was to do.
        plan: EncodePlan,
        /// What came of it.
        outcome: Vec<Encoded>,
        /// When.
        time: StepTime,
    },
    /// A pass failed, or the encoder could not be made (then the plan is empty); the encoder is lost.
    Failed {
        /// What it was to do.
        plan: EncodePlan,
        /// What went wrong.
        why: String,
    },
    /// The thread has ended by itself, and the encoder with it.
    Gone,
}

/// The batcher's end of the thread.
pub struct EncodeStepper {
    jobs: mpsc::SyncSender<(Box<dyn Encoder>, EncodePlan)>,
}

/// What it is made of.
pub struct EncodeStepperArgs {
    /// The model it runs.
    pub model: Arc<LoadedModel>,
    /// Where encoders and outcomes go.
    pub home: ActorRef<EncodeBatcherMsg>,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
    /// Counted while the thread lives.
    pub presence: Presence,
    /// Tells whether it lives.
    pub at_work: AtWork,
}

/// Says that the thread has ended where it should not have, by whatever way it did.
struct LastWord(Option<ActorRef<EncodeBatcherMsg>>);

impl Drop for LastWord {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            tell(home, EncodeBatcherMsg::Pass(PassNews::Gone));
        }
    }
}

impl EncodeStepper {
    /// Starts the thread, which first makes the encoder (that may panic) and sends it home.
    pub fn spawn(args: EncodeStepperArgs) -> std::io::Result<Self> {
        // One job: a second cannot be there, since the encoder is in the first.
        let (jobs, inbox) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("stepper {}", args.model.id));
        thread.spawn(move || {
            let EncodeStepperArgs { model, home, failpoints, presence, at_work } = args;
            let _counted = (presence, at_work);
            let mut last_word = LastWord(Some(home.clone()));
            let started = match survive(|| model.weights.start_encoder()) {
                Ok(encoder) => PassNews::Started(encoder),
                Err(why) => PassNews::Failed { plan: EncodePlan::default(), why },
            };
            tell(&home, EncodeBatcherMsg::Pass(started));
            // The weights are the supervisor's to keep; what the encoder needs of them it holds itself.
            drop(model);
            for (encoder, plan) in inbox {
                tell(&home, EncodeBatcherMsg::Pass(run(encoder, plan, &failpoints)));
            }
            last_word.0 = None;
        })?;
        Ok(Self { jobs })
    }

    /// Hands the encoder over for one pass. It comes home in [`PassNews::Done`], or is lost and [`PassNews::Failed`] says why.
    ///
    /// # Errors
    /// If the thread is gone, which it never is while this handle lives unless something broke that should not; the encoder
    /// is lost with it.
    pub fn pass(&self, encoder: Box<dyn Encoder>, plan: EncodePlan) -> Result<(), StepperGone> {
        self.jobs.send((encoder, plan)).map_err(|_| StepperGone)
    }
}

fn run(mut encoder: Box<dyn Encoder>, plan: EncodePlan, failpoints: &Failpoints) -> PassNews {
    let began = Instant::now();
    let pass = survive(|| {
        failpoints.strike(FailPlace::Stepper).map_err(StepError::Compute)?;
        encoder.encode(&plan)
    });
    match pass {
        Ok(outcome) => {
            PassNews::Done { encoder, plan, outcome, time: StepTime { began, ended: Instant::now() } }
        }
        Err(why) => {
            // What broke may break again when it is taken apart. The first reason is the one to tell.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(encoder)));
            PassNews::Failed { plan, why }
        }
    }
}
