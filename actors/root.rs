//! The root of the tree: one-for-one supervisor of the registry, with no work of its own.
//!
//! It never gives up: without a registry there is no server, so it is restarted as often as it takes, ever more slowly.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::census::Presence;
use crate::registry::{ModelRegistry, RegistryMsg};
use crate::restart::{RestartLog, RestartPolicy, Verdict};
use crate::tree::{Tree, tell_after};

/// Supervises the registry.
pub struct Root;

/// What the root is told.
pub enum RootMsg {
    /// The pause after a crash is over.
    StartRegistry,
}

/// What the root is made of.
pub struct RootArgs {
    /// The tree it is the root of.
    pub tree: Arc<Tree>,
    /// Where the gateway looks up the registry of the moment.
    pub registry: watch::Sender<Option<ActorRef<RegistryMsg>>>,
}

/// The root at work.
pub struct RootState {
    args: RootArgs,
    restarts: RestartLog,
    pause: Option<AbortOnDropHandle<()>>,
    _presence: Presence,
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
        let mut state = RootState { args, restarts: RestartLog::default(), pause: None, _presence: presence };
        state.start_registry(&myself).await?;
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
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => state.registry_crashed(&myself, &error).await,
            // Only shutdown stops the registry.
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
        let pause = match self.restarts.crashed(Instant::now(), POLICY) {
            Verdict::Restart { after } => after,
            Verdict::GiveUp => PAUSE_MAX,
        };
        if pause.is_zero() {
            return self.start_registry(myself).await;
        }
        self.pause = Some(tell_after(tokio::time::sleep(pause), myself, RootMsg::StartRegistry));
        Ok(())
    }
}
