//! Looks after the settings while the tree lives: sees that they were changed, has them read and checked as a whole, and
//! tells everybody what is new.
//!
//! What settings are, where they are written and what is wrong with them is known to the program's root alone, and is asked
//! through [`SettingsSource`]. Invariants: nothing is changed by settings that do not pass their checks; files are taken
//! only once they have stood still, so that half a file is never read; one reading at a time, and who asks for one while
//! another is at work gets one that began after it asked.

use std::sync::Arc;
use std::time::Duration;

use candlewick_protocol::ActorRole;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::TreeSettings;
use crate::census::Presence;
use crate::registry::RegistryMsg;
use crate::tree::{Tree, tell, tell_after};

/// How often the files are looked at. They are small and in the page cache, and a look tells more than a notification: it
/// sees through links that are swapped (Kubernetes), renames (editors) and file systems that notify of nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where settings come from.
pub trait SettingsSource: Send + Sync + 'static {
    /// What is written at this moment, and what was when it was last read. Blocks.
    fn glance(&self) -> Glance;
    /// Reads everything anew, and checks it. Blocks.
    fn reload(&self) -> Reloaded;
}

/// The contents of the settings' files, each as a number that is another for other contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// As they are.
    pub seen: u64,
    /// As they were last read.
    pub read: u64,
}

/// What came of reading the settings anew.
pub enum Reloaded {
    /// They say what they said.
    Unchanged,
    /// They are wrong, and nothing is changed.
    Refused,
    /// They are good, and new.
    Changed {
        /// What the tree goes by from now on.
        tree: Box<TreeSettings>,
        /// Tells the others, after the tree was told.
        publish: Box<dyn FnOnce() + Send>,
    },
}

/// What an attempt to read the settings anew came to, for who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// They say what they said.
    Unchanged,
    /// They are wrong, and nothing is changed. The log says why.
    Refused,
    /// They are in force.
    Changed,
}

/// Looks after the settings.
pub struct SettingsKeeper;

/// What it is told.
pub enum SettingsMsg {
    /// Look at the files.
    Look,
    /// This is what they hold.
    Seen(Glance),
    /// Read them now, changed or not.
    Reload(RpcReplyPort<ReloadOutcome>),
    /// They are read.
    Read(Reloaded),
    /// Looking or reading panicked.
    Broken,
}

/// What it is made of.
pub struct SettingsArgs {
    /// The tree whose settings they are.
    pub tree: Arc<Tree>,
    /// Where they come from.
    pub source: Arc<dyn SettingsSource>,
    /// Where they are put.
    pub now: watch::Sender<Arc<TreeSettings>>,
    /// The registry of the moment.
    pub registry: watch::Receiver<Option<ActorRef<RegistryMsg>>>,
}

/// At work.
pub struct SettingsState {
    args: SettingsArgs,
    /// What was seen at the last look; taken if it is seen again.
    last_seen: Option<u64>,
    /// A reading is at work, and these wait for it.
    reading: Option<Vec<RpcReplyPort<ReloadOutcome>>>,
    /// These came during it, and wait for the next.
    waiting: Vec<RpcReplyPort<ReloadOutcome>>,
    next_look: Option<AbortOnDropHandle<()>>,
    presence: Presence,
}

impl Actor for SettingsKeeper {
    type Msg = SettingsMsg;
    type State = SettingsState;
    type Arguments = SettingsArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<SettingsMsg>,
        args: SettingsArgs,
    ) -> Result<SettingsState, ActorProcessingErr> {
        tell(&myself, SettingsMsg::Look);
        let presence = args.tree.census.join(ActorRole::Settings, "", myself.get_id());
        Ok(SettingsState {
            args,
            last_seen: None,
            reading: None,
            waiting: Vec::new(),
            next_look: None,
            presence,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SettingsMsg>,
        message: SettingsMsg,
        state: &mut SettingsState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        match message {
            SettingsMsg::Look => state.look(&myself),
            SettingsMsg::Seen(glance) => state.take_look(&myself, glance),
            SettingsMsg::Reload(reply) => state.reload(&myself, vec![reply]),
            SettingsMsg::Read(reloaded) => state.take(&myself, reloaded),
            SettingsMsg::Broken => return Err("reading the settings panicked".into()),
        }
        Ok(())
    }
}

impl SettingsState {
    fn look(&self, myself: &ActorRef<SettingsMsg>) {
        let source = self.args.source.clone();
        tell_answer(myself, move || SettingsMsg::Seen(source.glance()));
    }

    /// Contents that are new and have been the same twice are read.
    fn take_look(&mut self, myself: &ActorRef<SettingsMsg>, glance: Glance) {
        let stood_still = self.last_seen.replace(glance.seen) == Some(glance.seen);
        if stood_still && glance.seen != glance.read && self.reading.is_none() {
            self.reload(myself, Vec::new());
        }
        self.next_look = Some(tell_after(tokio::time::sleep(LOOK_EVERY), myself, SettingsMsg::Look));
    }

    fn reload(&mut self, myself: &ActorRef<SettingsMsg>, replies: Vec<RpcReplyPort<ReloadOutcome>>) {
        if self.reading.is_some() {
            return self.waiting.extend(replies);
        }
        self.reading = Some(replies);
        let source = self.args.source.clone();
        tell_answer(myself, move || SettingsMsg::Read(source.reload()));
    }

    fn take(&mut self, myself: &ActorRef<SettingsMsg>, reloaded: Reloaded) {
        let outcome = match reloaded {
            Reloaded::Unchanged => ReloadOutcome::Unchanged,
            Reloaded::Refused => ReloadOutcome::Refused,
            Reloaded::Changed { tree, publish } => {
                self.args.now.send_replace(Arc::from(tree));
                publish();
                if let Some(registry) = &*self.args.registry.borrow() {
                    tell(registry, RegistryMsg::SettingsChanged);
                }
                ReloadOutcome::Changed
            }
        };
        for reply in self.reading.take().into_iter().flatten() {
            let _ = reply.send(outcome);
        }
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            self.reload(myself, waiting);
        }
    }
}

/// Does what blocks where it may, and sends the answer.
fn tell_answer(myself: &ActorRef<SettingsMsg>, ask: impl FnOnce() -> SettingsMsg + Send + 'static) {
    let (asked, myself) = (tokio::task::spawn_blocking(ask), myself.clone());
    tokio::spawn(async move { tell(&myself, asked.await.unwrap_or(SettingsMsg::Broken)) });
}
