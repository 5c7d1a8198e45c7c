//! The one door between HTTP and the actors.
//!
//! Its methods may be called from any runtime: they talk over channels, and what must be spawned goes to the runtime that
//! [`Gateway::start`] was called on.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candlewick_protocol::{
    ActorNode, EncodeAnswer, EncodeRequest, ErrorKind, Event, Failure, GenerationRequest, LoadEvent,
    ModelCard, ModelRef, ModelStatus, ServerStatus, TextAnswer, TextRequest,
};
use ractor::{Actor, ActorRef, RpcReplyPort};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, AdmissionLimits, Asking, draining};
use crate::archive::Archive;
use crate::board::{Board, card, display_id};
use crate::census::Census;
use crate::deadline::Deadline;
use crate::jobs::JobsMsg;
use crate::loader::LoadedModel;
use crate::lost;
use crate::metrics::Metrics;
use crate::observe::{model_states, observe};
use crate::outlet::{Outlet, lost};
use crate::pressure::Pressure;
use crate::registry::RegistryMsg;
use crate::request::naming;
use crate::root::{Root, RootArgs, RootMsg};
use crate::settings::{ReloadOutcome, SettingsMsg};
use crate::submission::Submission;
use crate::trace::Trace;
use crate::tree::{Tree, tell};
use crate::{EventStream, TreeParts};

/// Events of a load that may wait for a slow reader; more than a load has, but for very long downloads.
const LOAD_STREAM_CAPACITY: usize = 1024;

/// Why the lock of `pinned_load` is never poisoned.
const TAKEN_WHOLE: &str = "nothing that could panic happens under this lock";

/// How often a model is loaded for one question.
const NUM_BORROW_TRIES: usize = 3;

/// How long actors get to end once they are told to: they only have to say their last word.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// All that `api` sees of the actors. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    tree: Arc<Tree>,
    root: ActorRef<RootMsg>,
    /// The registry of the moment; `None` while it is restarted.
    registry: watch::Receiver<Option<ActorRef<RegistryMsg>>>,
    /// Where responses are kept, if they are.
    pub(crate) archive: Option<Archive>,
    /// The jobs of the moment; `None` while they are restarted, and without an archive.
    pub(crate) jobs: watch::Receiver<Option<ActorRef<JobsMsg>>>,
    /// Who looks after the settings at the moment; `None` while it is restarted, and where settings stay as they are.
    settings: watch::Receiver<Option<ActorRef<SettingsMsg>>>,
    /// How the first load of the pinned model goes, until somebody takes it.
    pinned_load: Arc<Mutex<Option<mpsc::Receiver<LoadEvent>>>>,
    /// Nobody waits for what is in flight any more.
    hurried: CancellationToken,
    runtime: Handle,
}

impl Gateway {
    /// Grows the tree on the current runtime. Returns at once; the pinned model, if any, begins to load.
    ///
    /// # Errors
    /// `Internal` if the actors could not be started.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(parts: TreeParts) -> Result<Self, Failure> {
        let (pinned, preload) = (parts.settings.pinned.clone(), parts.settings.preload.clone());
        let settings_now = watch::Sender::new(Arc::new(parts.settings));
        let tree = Arc::new(Tree {
            sources: parts.sources,
            factory: parts.factory,
            settings: settings_now.subscribe(),
            admission: Admission::new(),
            board: Board::new(),
            census: Census::new(),
            memory: parts.memory,
            pressure: Pressure::new(),
            metrics: Metrics::new(),
            failpoints: parts.failpoints,
            next_key: AtomicU64::new(1),
        });
        let registry = watch::Sender::new(None);
        let registry_now = registry.subscribe();
        let jobs = watch::Sender::new(None);
        let jobs_now = jobs.subscribe();
        let archive = parts.archive;
        let settings = watch::Sender::new(None);
        let settings_keeper = settings.subscribe();
        let args = RootArgs {
            tree: tree.clone(),
            registry,
            archive: archive.clone(),
            jobs,
            settings_source: parts.settings_source,
            settings_now,
            settings,
        };
        let (root, _) = Root::spawn(None, Root, args).await.map_err(|error| {
            Failure::new(ErrorKind::Internal, format!("the actors did not start: {error}"))
        })?;
        let gateway = Self {
            tree,
            root,
            registry: registry_now,
            archive,
            jobs: jobs_now,
            settings: settings_keeper,
            pinned_load: Arc::default(),
            hurried: CancellationToken::new(),
            runtime: Handle::current(),
        };
        let pinned_load = pinned.map(|pinned| gateway.load(pinned));
        // Nobody need listen: a load goes on by itself.
        preload.into_iter().for_each(|model| drop(gateway.load(model)));
        *gateway.pinned_load.lock().expect(TAKEN_WHOLE) = pinned_load;
        Ok(gateway)
    }

    /// Admits a request, or refuses it at once: unknown or wrongly pinned model, queue full (`Overloaded` with
    /// `retry_after`), more choices than there are places, draining.
    pub async fn submit(&self, request: GenerationRequest) -> Result<EventStream, Failure> {
        let mut streams = self.submit_many(vec![request]).await?;
        Ok(streams.pop().expect("each request that was admitted has a stream"))
    }

    /// Admits several requests of one model, all of them or none; the streams are in the order of the requests. Refused as
    /// by [`Gateway::submit`]; more sequences than could ever be admitted together are an `InvalidRequest` of `prompt`, and
    /// so are requests of several models, of `model`.
    pub async fn submit_many(&self, requests: Vec<GenerationRequest>) -> Result<Vec<EventStream>, Failure> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let model = self.model_of(first)?;
        for request in &requests[1..] {
            if self.model_of(request)?.canonical() != model.canonical() {
                let message = format!("requests that come together must be for one model, here '{model}'");
                return Err(Failure::invalid("model", message));
            }
        }
        self.tree.pressure.admit().inspect_err(|_| self.tree.metrics.memory.refused("request"))?;
        let settings = self.tree.settings();
        let limits = AdmissionLimits { max_running: settings.max_running, max_queued: settings.max_queued };
        let num_sequences =
            requests.iter().map(|request| request.num_sequences() as usize).collect::<Vec<_>>();
        let id = model.canonical();
        // One that is favoured may pass by those that wait, and how many is not known here.
        let timeout = settings.request_timeout.into_iter().chain(first.timeout).min();
        let patience = timeout.filter(|_| first.priority >= 0);
        let asking = Asking { model: &id, share: &first.share, requests: &num_sequences, patience };
        let mut traces = requests.iter().map(|request| Trace::begin(request, &model)).collect::<Vec<_>>();
        let permits = {
            let _at_the_door = traces.iter().map(Trace::admission).collect::<Vec<_>>();
            self.tree.admission.admit(asking, limits)
        };
        let permits = permits.inspect_err(|refusal| {
            traces.iter_mut().for_each(|trace| self.refused(&model, trace, refusal));
        })?;
        let mut streams = Vec::with_capacity(requests.len());
        for ((request, permit), trace) in requests.into_iter().zip(permits).zip(traces) {
            let lost = naming(lost(), &request.request_id);
            let (outlet, events) = Outlet::open(settings.stream_capacity, Event::Failed(lost));
            let deadline = Deadline::from_now(request.timeout, settings.request_timeout);
            let key = self.tree.new_key();
            tracing::debug!(request = %key, client_id = %request.request_id, model = %model, "admitted");
            let submission = Submission { key, request, outlet, permit, deadline, trace };
            self.send(RegistryMsg::Submit { model: model.clone(), submission });
            streams.push(EventStream { events });
        }
        Ok(streams)
    }

    /// Encodes texts, when a place is free; dropping the future cancels that. Refused as by [`Gateway::submit`]; a request
    /// takes one place, however many texts it has.
    pub async fn encode(&self, request: EncodeRequest) -> Result<EncodeAnswer, Failure> {
        let model = self.model_or_pinned(request.model.as_ref())?;
        self.tree.pressure.admit().inspect_err(|_| self.tree.metrics.memory.refused("request"))?;
        let settings = self.tree.settings();
        let limits = AdmissionLimits { max_running: settings.max_running, max_queued: settings.max_queued };
        let id = model.canonical();
        // How long texts wait for their turn is not foretold.
        let asking = Asking { model: &id, share: &request.share, requests: &[1], patience: None };
        let mut trace = Trace::begin_encoding(&request, &model);
        let permits = {
            let _at_the_door = trace.admission();
            self.tree.admission.admit(asking, limits)
        };
        let mut permits = permits.inspect_err(|refusal| self.refused(&model, &mut trace, refusal))?;
        let permit = permits.pop().expect("a request that was admitted has a permit");
        let (outlet, mut answer) = Outlet::open(1, Err(naming(lost(), &request.request_id)));
        let key = self.tree.new_key();
        tracing::debug!(request = %key, client_id = %request.request_id, model = %model, "admitted");
        let deadline = Deadline::from_now(request.timeout, settings.request_timeout);
        let submission = Submission { key, request, outlet, permit, deadline, trace };
        self.send(RegistryMsg::Encode { model, submission });
        answer.recv().await.unwrap_or_else(|| Err(lost()))
    }

    /// A request was not let in.
    fn refused(&self, model: &ModelRef, trace: &mut Trace, refusal: &Failure) {
        trace.failed(refusal.kind);
        if let Some(metrics) = self.tree.metrics.known_model(&display_id(model)) {
            metrics.requests.refused(refusal.kind);
        }
    }

    /// Whether an answer that is held until it is whole may grow: it has come to so many bytes. An error where memory is nearly
    /// used up and it takes much of what is left; dropping its stream ends it.
    pub fn admit_answer(&self, num_bytes: u64) -> Result<(), Failure> {
        self.tree.pressure.admit_answer(num_bytes).inspect_err(|_| self.tree.metrics.memory.refused("answer"))
    }

    /// Loads a model, or joins the load under way. The channel follows the grammar of [`LoadEvent`]; dropping it does not
    /// stop the load.
    pub fn load(&self, model: ModelRef) -> mpsc::Receiver<LoadEvent> {
        let model = self.named(&model);
        let id = model.canonical();
        let failed = |failure| LoadEvent::Failed { model: id.clone(), failure };
        let (mut outlet, events) = Outlet::open(LOAD_STREAM_CAPACITY, failed(lost()));
        if self.tree.admission.is_draining() {
            outlet.end(failed(draining()));
        } else {
            self.send(RegistryMsg::Load { model, outlet });
        }
        events
    }

    /// Answers a question about text, and loads the model first if need be. The work is done on the blocking pool.
    pub async fn text(&self, request: TextRequest) -> Result<TextAnswer, Failure> {
        let model = self.model_or_pinned(request.model.as_ref())?;
        let loaded = self.borrow_model(&model).await?;
        let task = request.task;
        let metrics = self.tree.metrics.model(&display_id(&model));
        let at_most = self.tree.settings().hang_timeout;
        // Timers belong to the runtime of the actors, and so the waiting does too.
        let answered = self.runtime.spawn(async move {
            let work = move || {
                let max_model_len = loaded.capacity.max_model_len as u64;
                loaded.processor.answer(&task).map(|output| TextAnswer { max_model_len, output })
            };
            lost::blocking(&metrics, at_most, work).await.unwrap_or_else(|why| {
                Err(Failure::new(ErrorKind::Internal, format!("the text could not be processed: {why}")))
            })
        });
        answered.await.unwrap_or_else(|_| Err(lost()))
    }

    /// A model in memory. It may be unloaded for idleness between its load and the question, hence more than one try.
    async fn borrow_model(&self, model: &ModelRef) -> Result<Arc<LoadedModel>, Failure> {
        for _ in 0..NUM_BORROW_TRIES {
            let mut events = self.load(model.clone());
            loop {
                match events.recv().await {
                    Some(LoadEvent::Ready { .. }) => break,
                    Some(LoadEvent::Failed { failure, .. }) => return Err(failure),
                    Some(LoadEvent::Loading { .. }) => {}
                    None => return Err(lost()),
                }
            }
            let model = model.clone();
            if let Some(loaded) = self.ask(|reply| RegistryMsg::Lend { model, reply }).await.flatten() {
                return Ok(loaded);
            }
        }
        let message = format!(
            "model '{model}' was unloaded whenever it was loaded; sending the request again may help"
        );
        Err(Failure::new(ErrorKind::Unavailable, message))
    }

    /// Unloads a model. Busy ones are a `Conflict` unless `force`, which ends their requests with an error; one that is
    /// not there is `ModelNotFound`.
    pub async fn unload(&self, model: &ModelRef, force: bool) -> Result<(), Failure> {
        let model = self.named(model);
        let unloaded = self.ask(|reply| RegistryMsg::Unload { model, force, reply }).await;
        unloaded.unwrap_or_else(|| Err(lost()))
    }

    /// Unloads every model, the pinned one included; requests in flight end with an error.
    pub async fn reset(&self) {
        // Without a registry there are no models either.
        let _ = self.ask(RegistryMsg::Reset).await;
    }

    /// The load of the pinned model that began with the tree, for the first who asks. To ask [`Gateway::load`] instead could
    /// come too late: a load that has failed by then is tried again.
    pub fn take_pinned_load(&self) -> Option<mpsc::Receiver<LoadEvent>> {
        self.pinned_load.lock().expect(TAKEN_WHOLE).take()
    }

    /// The model that requests without a name are for.
    pub fn pinned(&self) -> Option<ModelRef> {
        self.tree.settings().pinned.clone()
    }

    /// Reads the settings anew, changed or not. `None` where they stay as they are, or while who looks after them is
    /// restarted.
    pub async fn reload_settings(&self) -> Option<ReloadOutcome> {
        let keeper = self.settings.borrow().clone()?;
        let (reply, answer) = oneshot::channel();
        tell(&keeper, SettingsMsg::Reload(reply.into()));
        answer.await.ok()
    }

    /// Every actor, the root above all.
    pub fn observe(&self) -> ActorNode {
        observe(&self.tree)
    }

    /// Every model at hand, loaded or not, in order of id.
    pub async fn list(&self) -> Vec<ModelCard> {
        let tree = self.tree.clone();
        let listings = self
            .runtime
            .spawn_blocking(move || tree.sources.iter().flat_map(|source| source.list()).collect::<Vec<_>>());
        let listings = listings.await.unwrap_or_else(|error| {
            tracing::error!("a source could not list its models: {error}");
            Vec::new()
        });
        let mut cards = BTreeMap::new();
        for listing in listings {
            // The first source that has a model is the one that serves it.
            cards.entry(listing.model.canonical()).or_insert_with(|| ModelCard {
                max_model_len: listing.max_model_len,
                revision: listing.commit,
                ..card(&listing.model, listing.modified, ModelStatus::Available)
            });
        }
        for (id, standing) in self.tree.board.read() {
            if let Some(card) = cards.get_mut(&id) {
                card.status = standing.status;
                card.max_model_len = standing.max_model_len.or(card.max_model_len);
                card.revision = standing.commit.or(card.revision.take());
            } else if standing.status != ModelStatus::Available {
                let card = ModelCard {
                    max_model_len: standing.max_model_len,
                    revision: standing.commit,
                    ..card(&standing.model, standing.since, standing.status)
                };
                cards.insert(id, card);
            }
        }
        for (alias, model) in &self.tree.settings().aliases {
            if let (Some(card), Ok(alias)) = (cards.get(&model.canonical()), alias.parse()) {
                let alias_of = Some(card.id.clone());
                let card = ModelCard { id: display_id(&alias), alias_of, ..card.clone() };
                cards.insert(alias.canonical(), card);
            }
        }
        let mut cards = cards.into_values().collect::<Vec<_>>();
        cards.sort_by(|one, other| one.id.cmp(&other.id));
        cards
    }

    /// How the server is. Answers from memory: no actor is asked.
    pub async fn status(&self) -> ServerStatus {
        let models = self.tree.board.read().into_iter().map(|(id, standing)| (id, standing.status));
        let models = models.filter(|(_, status)| *status != ModelStatus::Available).collect();
        let reason = self.reason_not_ready();
        ServerStatus { ready: reason.is_none(), reason, models }
    }

    /// Metrics in Prometheus' text format 0.0.4. Reads files of the system.
    pub fn metrics_text(&self) -> String {
        self.tree.metrics.text(&self.tree.census, &model_states(&self.tree))
    }

    /// Requests in flight, over all models.
    pub fn num_in_flight(&self) -> usize {
        self.tree.admission.num_in_flight()
    }

    /// Actors and stepper threads that are alive: none after [`Gateway::shutdown`].
    pub fn num_actors(&self) -> usize {
        self.tree.census.count()
    }

    /// Whether actors answer: the root, and the registry unless it is being restarted. Waits for their answer without end.
    pub async fn is_alive(&self) -> bool {
        let (reply, root) = oneshot::channel();
        tell(&self.root, RootMsg::Ping(reply.into()));
        let is_restarted = self.registry.borrow().is_none();
        root.await.is_ok() && (is_restarted || self.ask(RegistryMsg::Ping).await.is_some())
    }

    /// Stops admitting, waits until requests are done or `grace` is over, ends the rest with a failure, stops the tree.
    pub async fn shutdown(&self, grace: Duration) {
        self.tree.admission.drain();
        let gateway = self.clone();
        let stopped = self.runtime.spawn(async move { gateway.stop(grace).await });
        // An error means that the runtime itself is going down.
        let _ = stopped.await;
    }

    /// The grace of a [`Gateway::shutdown`] is over now.
    pub fn hurry(&self) {
        self.hurried.cancel();
    }

    async fn stop(&self, grace: Duration) {
        let empty = tokio::time::timeout(grace, self.tree.admission.empty());
        if !matches!(self.hurried.run_until_cancelled(empty).await, Some(Ok(()))) {
            tracing::warn!(
                num_requests = self.num_in_flight(),
                "the grace time is over: ending what is in flight"
            );
        }
        let ended =
            Failure::new(ErrorKind::Unavailable, "the server is shutting down, and the grace time is over");
        self.send(RegistryMsg::End(ended));
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.tree.admission.empty()).await;
        // What was said last is still to be written down.
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.jobs_idle()).await;
        self.root.get_cell().stop_children_and_wait(None, Some(STOP_TIMEOUT)).await;
        let _ = self.root.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
        if tokio::time::timeout(STOP_TIMEOUT, self.tree.census.empty()).await.is_err() {
            tracing::warn!(
                num_actors = self.num_actors(),
                "some actors or steps are still at work: left behind"
            );
        }
    }

    /// The model that a name is for.
    fn named(&self, name: &ModelRef) -> ModelRef {
        self.tree.settings().aliases.get(&name.canonical()).unwrap_or(name).clone()
    }

    fn model_of(&self, request: &GenerationRequest) -> Result<ModelRef, Failure> {
        self.model_or_pinned(request.model.as_ref())
    }

    fn model_or_pinned(&self, named: Option<&ModelRef>) -> Result<ModelRef, Failure> {
        let settings = self.tree.settings();
        let named = named.map(|named| settings.aliases.get(&named.canonical()).unwrap_or(named));
        match (&settings.pinned, named) {
            (Some(pinned), Some(asked)) if asked.canonical() != pinned.canonical() => {
                let message = format!("server is pinned to '{pinned}'; requested '{asked}'");
                Err(Failure::invalid("model", message))
            }
            (Some(pinned), _) => Ok(pinned.clone()),
            (None, Some(asked)) => Ok(asked.clone()),
            (None, None) => {
                let message = "no model is named, and the server is not pinned to one; name one in `model`";
                Err(Failure::invalid("model", message))
            }
        }
    }

    fn reason_not_ready(&self) -> Option<String> {
        if self.tree.admission.is_draining() {
            return Some(draining().message);
        }
        let settings = self.tree.settings();
        let pinned = settings.pinned.as_ref()?;
        match self.tree.board.get(&pinned.canonical()) {
            Some(standing) => match (standing.status, standing.failure) {
                (ModelStatus::Loaded, _) => None,
                (_, Some(failure)) => Some(format!("model '{pinned}' is not available: {failure}")),
                (ModelStatus::Loading, None) => Some(format!("model '{pinned}' is loading")),
                (ModelStatus::Available | ModelStatus::Failed, None) => {
                    Some(format!("model '{pinned}' is not loaded"))
                }
            },
            None => Some(format!("model '{pinned}' is not loaded")),
        }
    }

    /// To the registry of the moment. Without one the message is dropped, and the outlet in it says so to its reader.
    fn send(&self, message: RegistryMsg) {
        let registry = self.registry.borrow().clone();
        if let Some(registry) = registry {
            tell(&registry, message);
        }
    }

    /// Asks the registry; `None` if it crashes over the answer.
    async fn ask<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> RegistryMsg,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply.into()));
        answer.await.ok()
    }
}
