//! Brings one model from its source into memory: processor → config → download → weights. A GGUF file brings all of it,
//! and so comes first: download → weights.
//!
//! Lives while a model is loaded and handles one message, which is the whole load: it waits there for files and for the
//! blocking pool, and nobody sends it anything else. Its supervisor hears of progress, and then exactly once of the end:
//! `Loaded`, `LoadFailed`, or the actor's own failure after a panic; then the supervisor stops it, so that a loader which
//! stops before was killed. Killed, it stops fetching at once, and reading weights after the next tensor.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use candlewick_engine::text::{TextOptions, TextProcessor};
use candlewick_engine::{LoadError, ModelFiles, Snapshot, Weights, files, gguf};
use candlewick_protocol::{ActorRole, FailPlace, LoadStage, ModelRef, Progress, ProgressUnit};
use futures::{StreamExt, TryStreamExt};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::capacity::Capacity;
use crate::census::Presence;
use crate::draft::DraftModel;
use crate::memory::{GiveBack, make_room, weight_bytes_at_least};
use crate::model::ModelMsg;
use crate::progress::Throttle;
use crate::registry::RegistryMsg;
use crate::stepper::panic_text;
use crate::tree::{Tree, strike, tell};

/// Loads one model, once.
pub struct Loader;

/// What a loader is told.
pub enum LoaderMsg {
    /// Load.
    Run,
}

/// What a loader is made of.
pub struct LoaderArgs {
    /// The tree it lives in.
    pub tree: Arc<Tree>,
    /// What to load.
    pub model: ModelRef,
    /// Which load this is: what an earlier one still has to say is told from it.
    pub attempt: u64,
    /// Who wants to know.
    pub supervisor: ActorRef<ModelMsg>,
    /// Who can unload other models to make room.
    pub registry: ActorRef<RegistryMsg>,
}

/// A model in memory: what its batchers and requests share.
pub struct LoadedModel {
    /// Canonical id.
    pub id: String,
    /// How it reads and writes text.
    pub processor: Arc<TextProcessor>,
    /// Its weights, which outlive every batcher.
    pub weights: Arc<dyn Weights>,
    /// The smaller model that guesses for it, if there is one.
    pub draft: Option<Arc<DraftModel>>,
    /// What it can hold.
    pub capacity: Capacity,
    /// Commit of the snapshot, if it has one.
    pub commit: Option<String>,
    /// Last, so that it goes after all of the above.
    pub(crate) _give_back: GiveBack,
}

impl LoadedModel {
    /// The same model, reading and writing text by other settings.
    pub fn with_processor(&self, processor: TextProcessor) -> Self {
        Self {
            id: self.id.clone(),
            processor: Arc::new(processor),
            weights: self.weights.clone(),
            draft: self.draft.clone(),
            capacity: self.capacity,
            commit: self.commit.clone(),
            _give_back: GiveBack(self._give_back.0.clone()),
        }
    }
}

/// A loader at work.
pub struct LoaderState {
    args: LoaderArgs,
    presence: Presence,
}

/// Files fetched at once. Each transfer is a stream of its own; more would only share the same line.
const NUM_FETCHES: usize = 4;

impl Actor for Loader {
    type Msg = LoaderMsg;
    type State = LoaderState;
    type Arguments = LoaderArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<LoaderMsg>,
        args: LoaderArgs,
    ) -> Result<LoaderState, ActorProcessingErr> {
        tell(&myself, LoaderMsg::Run);
        let name = args.model.canonical();
        let presence = args.tree.census.join(ActorRole::Loader, &name, myself.get_id());
        Ok(LoaderState { presence, args })
    }

    async fn handle(
        &self,
        myself: ActorRef<LoaderMsg>,
        message: LoaderMsg,
        state: &mut LoaderState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        match message {
            LoaderMsg::Run => {
                let attempt = state.args.attempt;
                let end = match load(&state.args, &myself.get_cell()).await {
                    Ok(model) => ModelMsg::Loaded { attempt, model: Arc::new(model) },
                    Err(error) => ModelMsg::LoadFailed { attempt, error },
                };
                tell(&state.args.supervisor, end);
            }
        }
        Ok(())
    }
}

/// A model whose files are here, and what it will take.
struct Found {
    files: ModelFiles,
    processor: TextProcessor,
    weight_bytes: u64,
    commit: Option<String>,
}

/// The stages in their order; each is told before it begins. A draft model goes through them after its model, without which it
/// is of no use, and its files and tensors are told as more of the same stages.
async fn load(args: &LoaderArgs, myself: &ActorCell) -> Result<LoadedModel, LoadError> {
    let LoaderArgs { tree, model, .. } = args;
    let report = Report { attempt: args.attempt, supervisor: args.supervisor.clone() };
    let settings = tree.settings();
    let text = tree.text_options(&model.canonical());
    let found = find(args, model, &text, 0, &report, Some(myself)).await?;
    let mut weight_bytes = found.weight_bytes;
    let draft = match settings.drafts.get(&model.canonical()).filter(|_| settings.speculation.is_some()) {
        None => None,
        Some(draft) => {
            let of_draft = find_draft(args, draft, &found, &report).await;
            let of_draft = of_draft.map_err(|error| error.within(&format!("draft model '{draft}'")))?;
            weight_bytes = weight_bytes.saturating_add(of_draft.weight_bytes);
            Some((draft, of_draft))
        }
    };
    make_room(tree, &args.registry, model, weight_bytes).await?;

    let weights = read_weights(args, found.files, &report).await?;
    let draft = match draft {
        None => None,
        Some((id, of_draft)) => {
            let weights = read_weights(args, of_draft.files, &report).await?;
            Some(Arc::new(DraftModel::new(id.canonical(), weights)))
        }
    };
    let capacity = Capacity::of(weights.info(), draft.as_ref().map(|draft| draft.info()), &settings);
    Ok(LoadedModel {
        id: model.canonical(),
        processor: Arc::new(found.processor),
        weights,
        draft,
        capacity,
        commit: found.commit,
        _give_back: GiveBack(tree.memory.clone()),
    })
}

/// Brings a model's files here, and refuses it if it cannot be, or would not fit beside `bytes_beside`. A failpoint strikes on the
/// way, where there is somebody to be struck.
async fn find(
    args: &LoaderArgs,
    model: &ModelRef,
    text: &TextOptions,
    bytes_beside: u64,
    report: &Report,
    myself: Option<&ActorCell>,
) -> Result<Found, LoadError> {
    let tree = &args.tree;
    report.stage(LoadStage::Processor);
    let source = tree.sources.iter().find(|source| source.serves(model)).ok_or_else(|| no_source(model))?;
    let snapshot = source.resolve(model).await?;
    let gguf = model.file().or_else(|| files::only_gguf(snapshot.files())).map(String::from);
    let mut found = ModelFiles { gguf, ..ModelFiles::default() };
    if let Some(gguf) = &found.gguf {
        if let Some(config) = gguf::check_ahead(&*snapshot, gguf, blocking).await? {
            tree.factory.check(&config)?;
        }
        // Tokenizer and config are in it, so that it has to be here first.
        let weights = files::weight_files(snapshot.files(), None, found.gguf.as_deref())?;
        make_room_for_files(args, &*snapshot, &weights, true, bytes_beside).await?;
        fetch(&*snapshot, weights, &mut found, Some(report)).await?;
        found = blocking(move || gguf::unfold(&mut found).map(|()| found)).await?;
    } else {
        // The processor also reads the ids of special tokens in the configs, which are small.
        let small =
            [files::processor_files(snapshot.files()), files::config_files(snapshot.files())].concat();
        fetch(&*snapshot, small, &mut found, None).await?;
    }
    if let Some(myself) = myself {
        let failpoints = tree.failpoints.of_model(&model.canonical());
        let struck = strike(&failpoints, FailPlace::Loader, myself).await;
        struck.map_err(|error| LoadError::Internal(error.to_string()))?;
    }
    let (from, text) = (found.clone(), text.clone());
    let give_back = GiveBack(tree.memory.clone());
    // What reading a vocabulary took for a moment is given back before weights take more.
    let processor = blocking(move || TextProcessor::load(&from, &text).inspect(|_| drop(give_back))).await?;

    report.stage(LoadStage::Config);
    let config = found.json("config.json")?;
    if let Some(config) = &config {
        tree.factory.check(config)?;
    }

    if found.gguf.is_none() {
        let weights = weight_files(&*snapshot, &mut found).await?;
        make_room_for_files(args, &*snapshot, &weights, false, bytes_beside).await?;
        fetch(&*snapshot, weights, &mut found, Some(report)).await?;
    }

    let (weigher, headers, options) = (tree.factory.clone(), found.clone(), tree.settings().load.clone());
    let weight_bytes = blocking(move || weigher.weight_bytes(&headers, &options)).await?;
    let commit = snapshot.commit().map(Into::into);
    Ok(Found { files: found, processor, weight_bytes, commit })
}

/// A draft model must say the same by the same token ids.
async fn find_draft(
    args: &LoaderArgs,
    draft: &ModelRef,
    model: &Found,
    report: &Report,
) -> Result<Found, LoadError> {
    let found = find(args, draft, &TextOptions::default(), model.weight_bytes, report, None).await?;
    match model.processor.vocabulary_difference(&found.processor) {
        None => Ok(found),
        Some(difference) => Err(LoadError::Unsupported(format!(
            "it has another vocabulary than '{}': {difference}; a draft model has the tokenizer of the model that it guesses for",
            args.model
        ))),
    }
}

/// Reads weights into memory.
async fn read_weights(
    args: &LoaderArgs,
    files: ModelFiles,
    report: &Report,
) -> Result<Arc<dyn Weights>, LoadError> {
    let (factory, options, report) =
        (args.tree.factory.clone(), args.tree.settings().load.clone(), report.clone());
    let stop = StopOnDrop::default();
    let stopped = stop.0.clone();
    let mut throttle = Throttle::default();
    blocking(move || {
        factory.load(&files, &options, &mut |current, total| {
            let progress = Progress { current, total: Some(total), unit: ProgressUnit::Tensors };
            // Before the first tensor nothing has come of the stage yet.
            if current > 0 && throttle.passes(Instant::now(), progress) {
                report.tell(LoadStage::Weights, progress);
            }
            !stopped.load(Ordering::Relaxed)
        })
    })
    .await
}

/// Makes room for weights that may still be elsewhere, by the sizes of their files: what cannot fit is not downloaded.
async fn make_room_for_files(
    args: &LoaderArgs,
    snapshot: &dyn Snapshot,
    weights: &[String],
    is_gguf: bool,
    bytes_beside: u64,
) -> Result<(), LoadError> {
    let files = snapshot.files().iter().filter(|file| weights.contains(&file.name));
    let stored_bytes = files.filter_map(|file| file.size).sum();
    let weight_bytes = weight_bytes_at_least(stored_bytes, is_gguf, &args.tree.settings().load);
    make_room(&args.tree, &args.registry, &args.model, weight_bytes.saturating_add(bytes_beside)).await
}

fn no_source(model: &ModelRef) -> LoadError {
    LoadError::NotFound(format!("model '{model}' is in none of the places that models come from here"))
}

/// Which files hold the weights; a sharded checkpoint says so in its index.
async fn weight_files(snapshot: &dyn Snapshot, found: &mut ModelFiles) -> Result<Vec<String>, LoadError> {
    let index = match files::index_file(snapshot.files()) {
        Some(name) => {
            fetch(snapshot, vec![name.into()], found, None).await?;
            found.json(name)?
        }
        None => None,
    };
    files::weight_files(snapshot.files(), index.as_ref(), None)
}

/// Brings files here, a few at once. With a report, tells the bytes of those that were not here already, summed.
async fn fetch(
    snapshot: &dyn Snapshot,
    names: Vec<String>,
    found: &mut ModelFiles,
    report: Option<&Report>,
) -> Result<(), LoadError> {
    let missing = snapshot.files().iter().filter(|file| !file.cached && names.contains(&file.name));
    let download = Download::of(missing.map(|file| (file.name.clone(), file.size)));
    let download = &download;
    let fetched =
        futures::stream::iter(names.into_iter().filter(|name| found.get(name).is_none()).collect::<Vec<_>>())
            .map(|name| async move {
                let on_bytes = |done: u64, total: Option<u64>| {
                    if let (Some(report), Some(progress)) = (report, download.advance(&name, done, total)) {
                        report.tell(LoadStage::Download, progress);
                    }
                };
                let file = snapshot.fetch(&name, &on_bytes).await?;
                Ok::<_, LoadError>((name, file))
            })
            .buffer_unordered(NUM_FETCHES)
            .try_collect::<Vec<_>>()
            .await?;
    found.files.extend(fetched);
    Ok(())
}

/// Bytes of several files, summed: one progress for all.
struct Download(Mutex<DownloadState>);

struct DownloadState {
    files: HashMap<String, (u64, Option<u64>)>,
    throttle: Throttle,
}

impl Download {
    fn of(missing: impl Iterator<Item = (String, Option<u64>)>) -> Self {
        let files = missing.map(|(name, size)| (name, (0, size))).collect();
        Self(Mutex::new(DownloadState { files, throttle: Throttle::default() }))
    }

    /// A file has come this far. The sum, if it is worth telling; files that were here already do not count.
    fn advance(&self, name: &str, done: u64, total: Option<u64>) -> Option<Progress> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let file = state.files.get_mut(name)?;
        *file = (done, total.or(file.1));
        let current = state.files.values().map(|(done, _)| done).sum();
        let total = state.files.values().map(|(_, total)| *total).sum();
        let progress = Progress { current, total, unit: ProgressUnit::Bytes };
        state.throttle.passes(Instant::now(), progress).then_some(progress)
    }
}

/// Runs what blocks on the pool for that. A panic there is an answer like any other.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(LoadError::Internal(match error.try_into_panic() {
            Ok(panic) => format!("loading panicked: {}", panic_text(&*panic)),
            Err(_) => "loading was stopped".into(),
        }))
    })
}

/// Tells the supervisor how far the load is.
#[derive(Clone)]
struct Report {
    attempt: u64,
    supervisor: ActorRef<ModelMsg>,
}

impl Report {
    fn stage(&self, stage: LoadStage) {
        self.send(stage, None);
    }

    fn tell(&self, stage: LoadStage, progress: Progress) {
        self.send(stage, Some(progress));
    }

    fn send(&self, stage: LoadStage, progress: Option<Progress>) {
        tell(&self.supervisor, ModelMsg::LoadProgress { attempt: self.attempt, progress: (stage, progress) });
    }
}

/// Tells the blocking pool, which cannot be killed, that nobody waits for the weights any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_summed_over_the_files_that_were_missing() {
        let download = Download::of([("a".into(), Some(10)), ("b".into(), None)].into_iter());
        let told = |current, total| Some(Progress { current, total, unit: ProgressUnit::Bytes });
        assert_eq!(download.advance("a", 4, Some(10)), told(4, None), "the size of b is not known yet");
        assert_eq!(download.advance("here already", 7, Some(7)), None);
        assert_eq!(download.advance("b", 5, Some(5)), told(9, Some(15)));
        assert_eq!(download.advance("a", 10, Some(10)), told(15, Some(15)));
    }
}
