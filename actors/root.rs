//! The root of the tree: one-for-one supervisor of the registry, of background jobs, of the settings and of the memory
//! watch, with no work of its own.
//!
//! It never gives up: without a registry there is no server, so each is restarted as often as it takes, ever more slowly.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use candlewick_protocol::ActorRole;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::TreeSettings;
use crate::archive::Archive;
use crate::census::Presence;
use crate::jobs::{Jobs, JobsMsg};
use crate::memory_watch::{MemoryWatch, MemoryWatchArgs};
use crate::registry::{ModelRegistry, RegistryMsg};
use crate::restart::{RestartLog, RestartPolicy, Verdict};
use crate::settings::{SettingsArgs, SettingsKeeper, SettingsMsg, SettingsSource};
use crate::tree::{Tree, tell_after};

/// Supervises the registry, the jobs, the settings and the memory watch.
pub struct Root;

/// What the root is told.
pub enum RootMsg {
    /// The pause after a crash of this child is over.
    Start(Child),
    /// Answer, to show that you can.
    Ping(RpcReplyPort<()>),
}

/// Whom the root supervises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Child {
    /// The registry of models.
    Registry,
    /// Background responses.
    Jobs,
    /// Who looks after the settings.
    Settings,
    /// Who sees to it that memory lasts.
    MemoryWatch,
}

impl Child {
    fn role(self) -> ActorRole {
        match self {
            Self::Registry => ActorRole::Models,
            Self::Jobs => ActorRole::Jobs,
            Self::Settings => ActorRole::Settings,
            Self::MemoryWatch => ActorRole::MemoryWatch,
        }
    }
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
    /// Where changed settings come from; without it they stay as they are.
    pub settings_source: Option<Arc<dyn SettingsSource>>,
    /// Where changed settings are put.
    pub settings_now: watch::Sender<Arc<TreeSettings>>,
    /// Where the gateway looks up who looks after the settings at the moment.
    pub settings: watch::Sender<Option<ActorRef<SettingsMsg>>>,
}

/// The root at work.
pub struct RootState {
    args: RootArgs,
    children: HashMap<ActorId, Child>,
    restarts: HashMap<Child, Restarts>,
    presence: Presence,
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
        let presence = args.tree.census.join(ActorRole::Root, "", myself.get_id());
        let mut state = RootState { args, children: HashMap::new(), restarts: HashMap::new(), presence };
        for child in [Child::Registry, Child::Jobs, Child::Settings, Child::MemoryWatch] {
            state.start(&myself, child).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        match message {
            RootMsg::Start(child) => state.start(&myself, child).await?,
            // An error means that whoever asked has gone.
            RootMsg::Ping(reply) => _ = reply.send(()),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => match state.children.remove(&actor.get_id()) {
                Some(child) => state.crashed(&myself, child, &error).await,
                None => Ok(()),
            },
            // Only shutdown stops them.
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }
}

impl RootState {
    /// Starts a child, if this tree has it, and says where it is.
    async fn start(&mut self, myself: &ActorRef<RootMsg>, child: Child) -> Result<(), ActorProcessingErr> {
        let (tree, me) = (self.args.tree.clone(), myself.get_cell());
        let id = match child {
            Child::Registry => {
                let (registry, _) = Actor::spawn_linked(None, ModelRegistry, tree, me).await?;
                announce(&self.args.registry, registry)
            }
            Child::Jobs => {
                let Some(archive) = self.args.archive.clone() else { return Ok(()) };
                let (jobs, _) = Actor::spawn_linked(None, Jobs, (tree, archive), me).await?;
                announce(&self.args.jobs, jobs)
            }
            Child::Settings => {
                let Some(source) = self.args.settings_source.clone() else { return Ok(()) };
                let (now, registry) = (self.args.settings_now.clone(), self.args.registry.subscribe());
                let args = SettingsArgs { tree, source, now, registry };
                let (keeper, _) = Actor::spawn_linked(None, SettingsKeeper, args, me).await?;
                announce(&self.args.settings, keeper)
            }
            Child::MemoryWatch => {
                // Where the system says nothing of memory there is nothing to watch.
                let Some(memory) = tree.memory.clone() else { return Ok(()) };
                let registry = self.args.registry.subscribe();
                let args = MemoryWatchArgs { tree, memory, registry };
                let (watch, _) = Actor::spawn_linked(None, MemoryWatch, args, me).await?;
                watch.get_id()
            }
        };
        self.children.insert(id, child);
        Ok(())
    }

    async fn crashed(
        &mut self,
        myself: &ActorRef<RootMsg>,
        child: Child,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        tracing::error!(actor = child.role().as_str(), "an actor crashed: {error}");
        self.args.tree.census.crashed(child.role(), "", &error.to_string());
        match child {
            Child::Registry => _ = self.args.registry.send_replace(None),
            Child::Jobs => _ = self.args.jobs.send_replace(None),
            Child::Settings => _ = self.args.settings.send_replace(None),
            // Nobody asks it anything.
            Child::MemoryWatch => {}
        }
        match self.restarts.entry(child).or_default().pause_for(myself, RootMsg::Start(child)) {
            true => Ok(()),
            false => self.start(myself, child).await,
        }
    }
}

/// Says who does a child's work from now on.
fn announce<M>(at: &watch::Sender<Option<ActorRef<M>>>, actor: ActorRef<M>) -> ActorId {
    let id = actor.get_id();
    at.send_replace(Some(actor));
    id
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
