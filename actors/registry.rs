//! The models there are: canonical id → subtree, started on demand.
//!
//! The gateway sends it work, which it passes on without waiting for anyone. Invariant: a subtree is let go only when it has
//! received all that was sent to it, so that no request is lost between two lives of a model.

use std::collections::HashMap;
use std::sync::Arc;

use candlewick_protocol::{ActorRole, ErrorKind, Failure, LoadEvent, ModelRef};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::time::Instant;

use crate::census::Presence;
use crate::encoding::EncodeSubmission;
use crate::loader::LoadedModel;
use crate::model::{ModelArgs, ModelMsg, ModelSupervisor};
use crate::outlet::{Outlet, lost};
use crate::submission::Submission;
use crate::tree::{Tree, tell};

/// Finds models and starts their subtrees.
pub struct ModelRegistry;

/// What the registry is told.
pub enum RegistryMsg {
    /// Answer a request.
    Submit {
        /// Of this model.
        model: ModelRef,
        /// What is asked.
        submission: Submission,
    },
    /// Encode texts.
    Encode {
        /// By this model.
        model: ModelRef,
        /// What is asked.
        submission: EncodeSubmission,
    },
    /// Load a model, or join its load.
    Load {
        /// Which.
        model: ModelRef,
        /// Who is told.
        outlet: Outlet<LoadEvent>,
    },
    /// Lend a model that was loaded.
    Lend {
        /// Which.
        model: ModelRef,
        /// Given the model, if it is in memory.
        reply: RpcReplyPort<Option<Arc<LoadedModel>>>,
    },
    /// Unload a model.
    Unload {
        /// Which.
        model: ModelRef,
        /// End its requests in flight, rather than refuse.
        force: bool,
        /// Told when it is out of memory, or why it stays.
        reply: RpcReplyPort<Result<(), Failure>>,
    },
    /// Unload the model that nobody uses and that was asked for longest ago. Told whether there was one.
    EvictIdle(RpcReplyPort<bool>),
    /// Memory is short: drop what was cached of prompts.
    DropPrefixes,
    /// Unload every model and end all requests.
    Reset(RpcReplyPort<()>),
    /// Answer, to show that you can.
    Ping(RpcReplyPort<()>),
    /// The settings have changed: load what is to be loaded, and pass it on.
    SettingsChanged,
    /// The server stops: end everything with this failure.
    End(Failure),
    /// A model's supervisor has nothing to keep and asks to be let go.
    Retire {
        /// Canonical id of its model.
        id: String,
        /// Which actor.
        actor: ActorId,
        /// Pieces of work it has received.
        num_received: u64,
    },
}

/// A subtree.
struct Entry {
    supervisor: ActorRef<ModelMsg>,
    /// Pieces of work sent to it.
    num_sent: u64,
    /// When the last of them was sent.
    used: Instant,
}

impl Entry {
    fn send(&mut self, work: ModelMsg) {
        self.num_sent += 1;
        self.used = Instant::now();
        tell(&self.supervisor, work);
    }
}

/// A load that nobody listens to.
fn unheard(model: &ModelRef) -> Outlet<LoadEvent> {
    let (outlet, _) = Outlet::open(1, LoadEvent::Failed { model: model.canonical(), failure: lost() });
    outlet
}

/// A registry at work.
pub struct RegistryState {
    tree: Arc<Tree>,
    models: HashMap<String, Entry>,
    presence: Presence,
}

impl Actor for ModelRegistry {
    type Msg = RegistryMsg;
    type State = RegistryState;
    type Arguments = Arc<Tree>;

    async fn pre_start(
        &self,
        myself: ActorRef<RegistryMsg>,
        tree: Arc<Tree>,
    ) -> Result<RegistryState, ActorProcessingErr> {
        let presence = tree.census.join(ActorRole::Models, "", myself.get_id());
        Ok(RegistryState { presence, models: HashMap::new(), tree })
    }

    async fn handle(
        &self,
        myself: ActorRef<RegistryMsg>,
        message: RegistryMsg,
        state: &mut RegistryState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        match message {
            RegistryMsg::Submit { model, submission } => {
                state.entry(&myself, model).await?.send(ModelMsg::Submit(submission));
            }
            RegistryMsg::Encode { model, submission } => {
                state.entry(&myself, model).await?.send(ModelMsg::Encode(submission));
            }
            RegistryMsg::Load { model, outlet } => {
                state.entry(&myself, model).await?.send(ModelMsg::Load(outlet))
            }
            RegistryMsg::Lend { model, reply } => match state.models.get_mut(&model.canonical()) {
                Some(entry) => entry.send(ModelMsg::Lend(reply)),
                None => _ = reply.send(None),
            },
            RegistryMsg::Unload { model, force, reply } => state.unload(&model, force, reply),
            RegistryMsg::EvictIdle(reply) => state.evict_idle(reply),
            RegistryMsg::DropPrefixes => {
                state.models.values().for_each(|entry| tell(&entry.supervisor, ModelMsg::DropPrefixes));
            }
            RegistryMsg::Reset(reply) => state.reset(reply),
            // An error means that whoever asked has gone.
            RegistryMsg::Ping(reply) => _ = reply.send(()),
            RegistryMsg::SettingsChanged => state.settings_changed(&myself).await?,
            RegistryMsg::End(failure) => {
                state
                    .models
                    .values()
                    .for_each(|entry| tell(&entry.supervisor, ModelMsg::End(failure.clone())));
            }
            RegistryMsg::Retire { id, actor, num_received } => state.retire(&id, actor, num_received),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<RegistryMsg>,
        event: SupervisionEvent,
        state: &mut RegistryState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, _, _) => _ = state.forget(child.get_id()),
            SupervisionEvent::ActorFailed(child, error) => {
                // Its requests were told by their outlets; the next request starts it anew.
                tracing::error!("the supervisor of a model crashed: {error}");
                if let Some(id) = state.forget(child.get_id()) {
                    state.tree.census.crashed(ActorRole::Model, &id, &error.to_string());
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => (),
        }
        Ok(())
    }
}

impl RegistryState {
    /// The model's subtree, which is started if there is none.
    async fn entry(
        &mut self,
        myself: &ActorRef<RegistryMsg>,
        model: ModelRef,
    ) -> Result<&mut Entry, ActorProcessingErr> {
        let id = model.canonical();
        if !self.models.contains_key(&id) {
            let args = ModelArgs { tree: self.tree.clone(), model, registry: myself.clone() };
            let (supervisor, _) = Actor::spawn_linked(None, ModelSupervisor, args, myself.get_cell()).await?;
            self.models.insert(id.clone(), Entry { supervisor, num_sent: 0, used: Instant::now() });
        }
        Ok(self.models.get_mut(&id).expect("it was there or has just been put there"))
    }

    fn unload(&mut self, model: &ModelRef, force: bool, reply: RpcReplyPort<Result<(), Failure>>) {
        match self.models.get_mut(&model.canonical()) {
            Some(entry) => entry.send(ModelMsg::Unload { force, reply }),
            None => {
                let failure =
                    Failure::new(ErrorKind::ModelNotFound, format!("model '{model}' is not loaded"));
                let _ = reply.send(Err(failure.with_param("model")));
            }
        }
    }

    fn evict_idle(&self, reply: RpcReplyPort<bool>) {
        let mut entries =
            self.models.values().map(|entry| (entry.used, entry.supervisor.clone())).collect::<Vec<_>>();
        entries.sort_by_key(|(used, _)| *used);
        tokio::spawn(async move {
            for (_, supervisor) in entries {
                let (sender, is_evicted) = tokio::sync::oneshot::channel();
                tell(&supervisor, ModelMsg::Evict(sender.into()));
                if is_evicted.await.unwrap_or(false) {
                    let _ = reply.send(true);
                    return;
                }
            }
            let _ = reply.send(false);
        });
    }

    fn reset(&mut self, reply: RpcReplyPort<()>) {
        let mut unloads = Vec::new();
        for entry in self.models.values_mut() {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            entry.send(ModelMsg::Unload { force: true, reply: sender.into() });
            unloads.push(receiver);
        }
        tokio::spawn(async move {
            // A model that crashes meanwhile is out of memory too.
            futures::future::join_all(unloads).await;
            let _ = reply.send(());
        });
    }

    /// What is loaded in advance is loaded, if it is not; models that go on are told.
    async fn settings_changed(&mut self, myself: &ActorRef<RegistryMsg>) -> Result<(), ActorProcessingErr> {
        self.models.values().for_each(|entry| tell(&entry.supervisor, ModelMsg::SettingsChanged));
        let settings = self.tree.settings();
        for model in settings.pinned.iter().chain(&settings.preload) {
            if !self.models.contains_key(&model.canonical()) {
                self.entry(myself, model.clone()).await?.send(ModelMsg::Load(unheard(model)));
            }
        }
        Ok(())
    }

    fn retire(&mut self, id: &str, actor: ActorId, num_received: u64) {
        let is_done = |entry: &Entry| entry.supervisor.get_id() == actor && entry.num_sent == num_received;
        if self.models.get(id).is_some_and(is_done)
            && let Some(entry) = self.models.remove(id)
        {
            entry.supervisor.stop(Some("nobody uses the model".into()));
        }
    }

    /// Answers which model it was of.
    fn forget(&mut self, child: ActorId) -> Option<String> {
        let is_child = |(_, entry): &(&String, &Entry)| entry.supervisor.get_id() == child;
        let id = self.models.iter().find(is_child).map(|(id, _)| id.clone())?;
        self.models.remove(&id);
        Some(id)
    }
}
