//! What every actor of one tree is given: settings, sources, counters. Shared, and nothing in it is an actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candlewick_engine::text::TextOptions;
use candlewick_engine::{ModelFactory, ModelSource};
use candlewick_protocol::{FailAction, FailPlace, Failpoints, RequestKey, failpoint_told};
use ractor::{ActorCell, ActorProcessingErr, ActorRef, Message};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::TreeSettings;
use crate::admission::Admission;
use crate::board::Board;
use crate::census::{Census, count_sent};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::pressure::Pressure;

/// Shared by the actors of one tree.
pub struct Tree {
    /// Where models come from, asked in this order.
    pub sources: Vec<Arc<dyn ModelSource>>,
    /// What makes models of files.
    pub factory: Arc<dyn ModelFactory>,
    /// Limits and times, as they are now: read them where they are used, and a change reaches running actors.
    pub settings: watch::Receiver<Arc<TreeSettings>>,
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// Where each model stands.
    pub board: Arc<Board>,
    /// Who is alive.
    pub census: Arc<Census>,
    /// What the system says of memory, if it is asked.
    pub memory: Option<Arc<dyn Memory>>,
    /// How short memory is.
    pub pressure: Pressure,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
    /// The next request's key.
    pub next_key: AtomicU64,
}

impl Tree {
    /// The settings as they are now.
    pub fn settings(&self) -> Arc<TreeSettings> {
        self.settings.borrow().clone()
    }

    /// How a model's text is read and written, as the settings are now. By canonical id.
    pub fn text_options(&self, id: &str) -> TextOptions {
        TextOptions { failpoints: self.failpoints.of_model(id), ..self.settings().text.clone() }
    }

    /// Whether a model is not to be unloaded for idleness: it is pinned, or loaded in advance. By canonical id.
    pub fn keeps(&self, id: &str) -> bool {
        let settings = self.settings();
        settings.pinned.iter().chain(&settings.preload).any(|model| model.canonical() == id)
    }

    /// A key that no other request of this process has.
    pub fn new_key(&self) -> RequestKey {
        RequestKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }
}

/// Sends a message that nobody may be left to read: an actor that is gone needs no news.
pub fn tell<M: Message>(actor: &ActorRef<M>, message: M) {
    count_sent(actor.get_id());
    let _ = actor.cast(message);
}

/// Sends `message` to `actor` once `future` is done, unless the answer is dropped first.
pub fn tell_after<M: Message>(
    future: impl Future<Output = ()> + Send + 'static,
    actor: &ActorRef<M>,
    message: M,
) -> AbortOnDropHandle<()> {
    let actor = actor.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        future.await;
        tell(&actor, message);
    }))
}

/// Passes a failpoint in an actor's handler, and lets happen there what is to happen.
pub async fn strike(
    failpoints: &Failpoints,
    place: FailPlace,
    myself: &ActorCell,
) -> Result<(), ActorProcessingErr> {
    match failpoints.pass(place) {
        None => {}
        Some(FailAction::Error) => return Err(failpoint_told(place).into()),
        Some(FailAction::Panic) => panic!("{}", failpoint_told(place)),
        Some(FailAction::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(FailAction::Hang) => std::future::pending().await,
        Some(FailAction::Kill) => {
            myself.kill();
            std::future::pending().await
        }
    }
    Ok(())
}
