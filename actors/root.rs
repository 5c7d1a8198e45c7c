//! The root of the tree: one-for-one supervisor of the registry and of background jobs, with no work of its own.
//!
//! It never gives up: without a registry there is no server, so each is restarted as often as it takes, ever more slowly.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::archive::Archive;
use crate::census::Presence;
use crate::jobs::{Jobs, JobsMsg};
use crate::registry::{ModelRegistry, RegistryMsg};
use crate::restart::{RestartLog, RestartPolicy, Verdict};
use crate::tree::{Tree, tell_after};

/// Supervises the registry and the jobs.
pub struct Root;

/// What the root is told.
pub enum RootMsg {
    /// The pause after a crash of the registry is over.
    StartRegistry,
    /// The pause after a crash of the jobs is over.
    StartJobs,
}

/// What the root is made of.
pub struct RootArgs {
    /// The tree it is the root of.
    pub tree: Arc<Tree>,
    /// Where the gateway looks up the registry of the moment.
    pub registry: watch::Sender<Option<ActorRef<RegistryMsg>>>,
    /// Where responses are kept; without it there is no background work.
    pub archive: Option<Archive>,
    /// Where the gateway looks up the jobs of the moment.
    pub jobs: watch::Sender<Option<ActorRef<JobsMsg>>>,
}

/// The root at work.
pub struct RootState {
    args: RootArgs,
    registry_restarts: Restarts,
    jobs_restarts: Restarts,
    _presence: Presence,
}

/// The restarts of one child, and the pause before the next.
#[derive(Default)]
struct Restarts {
    log: RestartLog,
    pause: Option<AbortOnDropHandle<()>>,
}

const POLICY: RestartPolicy = RestartPolicy { max_restarts: 8, window: Duration::from_secs(60) };

/// Between restarts once even the policy would give up.
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Actor for Root {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = RootArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        args: RootArgs,
    ) -> Result<RootState, ActorProcessingErr> {
        let presence = args.tree.census.join();
        let mut state = RootState {
            args,
            registry_restarts: Restarts::default(),
            jobs_restarts: Restarts::default(),
            _presence: presence,
        };
        state.start_registry(&myself).await?;
        state.start_jobs(&myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMsg::StartRegistry => state.start_registry(&myself).await,
            RootMsg::StartJobs => state.start_jobs(&myself).await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(child, error) if state.is_jobs(child.get_id()) => {
                state.jobs_crashed(&myself, &error).await
            }
            SupervisionEvent::ActorFailed(_, error) => state.registry_crashed(&myself, &error).await,
            // Only shutdown stops them.
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }
}

impl RootState {
    async fn start_registry(&mut self, myself: &ActorRef<RootMsg>) -> Result<(), ActorProcessingErr> {
        let (registry, _) =
            Actor::spawn_linked(None, ModelRegistry, self.args.tree.clone(), myself.get_cell()).await?;
        self.args.registry.send_replace(Some(registry));
        Ok(())
    }

    async fn registry_crashed(
        &mut self,
        myself: &ActorRef<RootMsg>,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        tracing::error!("the registry of models crashed: {error}");
        self.args.registry.send_replace(None);
        match self.registry_restarts.pause_for(myself, RootMsg::StartRegistry) {
            true => Ok(()),
            false => self.start_registry(myself).await,
        }
    }

    async fn start_jobs(&mut self, myself: &ActorRef<RootMsg>) -> Result<(), ActorProcessingErr> {
        let Some(archive) = self.args.archive.clone() else { return Ok(()) };
        let args = (self.args.tree.clone(), archive);
        let (jobs, _) = Actor::spawn_linked(None, Jobs, args, myself.get_cell()).await?;
        self.args.jobs.send_replace(Some(jobs));
        Ok(())
    }

    fn is_jobs(&self, child: ActorId) -> bool {
        self.args.jobs.borrow().as_ref().is_some_and(|jobs| jobs.get_id() == child)
    }

    async fn jobs_crashed(
        &mut self,
        myself: &ActorRef<RootMsg>,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        tracing::error!("background jobs crashed: {error}");
        self.args.jobs.send_replace(None);
        match self.jobs_restarts.pause_for(myself, RootMsg::StartJobs) {
            true => Ok(()),
            false => self.start_jobs(myself).await,
        }
    }
}

impl Restarts {
    /// Waits before a restart if the policy wants it; `false` means at once.
    fn pause_for(&mut self, root: &ActorRef<RootMsg>, then: RootMsg) -> bool {
        let pause = match self.log.crashed(Instant::now(), POLICY) {
            Verdict::Restart { after } => after,
            Verdict::GiveUp => PAUSE_MAX,
        };
        if pause.is_zero() {
            return false;
        }
        self.pause = Some(tell_after(tokio::time::sleep(pause), root, then));
        true
    }
}
