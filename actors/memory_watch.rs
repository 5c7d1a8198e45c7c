//! Watches how much memory is left, and gives up what can be given up before the system ends the process.
//!
//! Measurements come from a task of its own, which reads files; nobody else sends to it. What is given up, and in which order, is
//! decided in `pressure.rs`. Nothing is lost with this actor: a successor measures anew, from the level where it was.

use std::sync::Arc;
use std::time::Duration;

use candlewick_protocol::ActorRole;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use crate::census::Presence;
use crate::memory::{Megabytes, Memory, MemoryUse};
use crate::pressure::Level;
use crate::registry::RegistryMsg;
use crate::tree::{Tree, tell};

/// How often it is measured. Memory is taken by the megabyte in a step of a model, so that some steps lie between.
const INTERVAL: Duration = Duration::from_millis(250);

/// Watches memory.
pub struct MemoryWatch;

/// What the watch is told.
pub enum MemoryWatchMsg {
    /// How much is used of the tightest limit.
    Measured(MemoryUse),
}

/// What the watch is made of.
pub struct MemoryWatchArgs {
    /// The tree it lives in.
    pub tree: Arc<Tree>,
    /// What the system says.
    pub memory: Arc<dyn Memory>,
    /// The registry of the moment.
    pub registry: watch::Receiver<Option<ActorRef<RegistryMsg>>>,
}

/// A watch at work.
pub struct MemoryWatchState {
    args: MemoryWatchArgs,
    _measuring: AbortOnDropHandle<()>,
    presence: Presence,
}

impl Actor for MemoryWatch {
    type Msg = MemoryWatchMsg;
    type State = MemoryWatchState;
    type Arguments = MemoryWatchArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<MemoryWatchMsg>,
        args: MemoryWatchArgs,
    ) -> Result<MemoryWatchState, ActorProcessingErr> {
        let measuring = tokio::spawn(measure(args.memory.clone(), myself.clone()));
        Ok(MemoryWatchState {
            _measuring: AbortOnDropHandle::new(measuring),
            presence: args.tree.census.join(ActorRole::MemoryWatch, "", myself.get_id()),
            args,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<MemoryWatchMsg>,
        message: MemoryWatchMsg,
        state: &mut MemoryWatchState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        match message {
            MemoryWatchMsg::Measured(tightest) => state.measured(tightest),
        }
        Ok(())
    }
}

/// Measures for as long as it is let.
async fn measure(memory: Arc<dyn Memory>, watch: ActorRef<MemoryWatchMsg>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let memory = memory.clone();
        let uses = tokio::task::spawn_blocking(move || memory.read()).await.unwrap_or_default();
        if let Some(tightest) = uses.into_iter().max_by(|one, other| one.share().total_cmp(&other.share())) {
            tell(&watch, MemoryWatchMsg::Measured(tightest));
        }
    }
}

impl MemoryWatchState {
    fn measured(&self, tightest: MemoryUse) {
        let tree = &self.args.tree;
        let (before, level) = tree.pressure.observe(&tightest);
        self.act(level);
        // Who reads that something is given up finds it so.
        tree.metrics.memory.measured(&tightest, level);
        if level > before {
            tree.metrics.memory.step(level);
            tracing::warn!(
                step = level.name(),
                "{} of {} are used of what {} has: {}",
                Megabytes(tightest.used_bytes),
                Megabytes(tightest.limit_bytes),
                tightest.whose,
                level.explain()
            );
        } else if level < before {
            tracing::info!(step = level.name(), "memory is free again: {}", level.explain());
        }
    }

    /// What a level asks for; at each measurement anew, since prefixes come back and models fall idle.
    fn act(&self, level: Level) {
        if level >= Level::DropPrefixes {
            self.tell_registry(RegistryMsg::DropPrefixes);
            let memory = self.args.memory.clone();
            tokio::task::spawn_blocking(move || memory.give_back());
        }
        if level >= Level::UnloadIdle {
            // Whoever is unloaded says so in the log; if nobody is, the next step comes if it must.
            let (reply, _) = oneshot::channel();
            self.tell_registry(RegistryMsg::EvictIdle(reply.into()));
        }
    }

    /// Without a registry there is nothing to give up.
    fn tell_registry(&self, message: RegistryMsg) {
        if let Some(registry) = &*self.args.registry.borrow() {
            tell(registry, message);
        }
    }
}
