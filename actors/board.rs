//! Where each model stands, on a board that anyone may read without asking an actor: `/ready` and `/v1/models` answer
//! while every actor is busy.
//!
//! Each model's supervisor writes one line and wipes it when it ends, in whatever way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use candlewick_protocol::{Failure, ModelCard, ModelRef, ModelStatus};

use crate::progress::StageProgress;

/// One model's line.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub model: ModelRef,
    /// Where it stands.
    pub status: ModelStatus,
    /// Why it does not answer, if it does not.
    pub failure: Option<Failure>,
    /// Longest context in tokens, once loaded.
    pub max_model_len: Option<u64>,
    /// Its commit, once loaded.
    pub commit: Option<String>,
    /// When the line was written, in seconds since 1970.
    pub since: u64,
    /// How far the load has come, while it loads.
    pub load: Option<StageProgress>,
    /// Its batcher has crashed, and another is not there yet.
    pub is_restarting: bool,
}

/// All lines, by canonical id.
#[derive(Default)]
pub struct Board {
    lines: Mutex<BTreeMap<String, (u64, Standing)>>,
}

impl Board {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A line of one's own; nothing is on it yet. `owner` must be unique in this process.
    pub fn line(self: &Arc<Self>, model: ModelRef, owner: u64) -> Line {
        Line { board: self.clone(), canonical: model.canonical(), model, owner }
    }

    /// Every line, in order of canonical id.
    pub fn read(&self) -> Vec<(String, Standing)> {
        self.lines().iter().map(|(id, (_, standing))| (id.clone(), standing.clone())).collect()
    }

    /// One model's line.
    pub fn get(&self, canonical: &str) -> Option<Standing> {
        self.lines().get(canonical).map(|(_, standing)| standing.clone())
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<String, (u64, Standing)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to write one line. A successor of the same name that has already written is not wiped by a late drop.
pub struct Line {
    board: Arc<Board>,
    canonical: String,
    model: ModelRef,
    owner: u64,
}

impl Line {
    /// Writes the line.
    pub fn write(
        &self,
        status: ModelStatus,
        failure: Option<Failure>,
        max_model_len: Option<u64>,
        commit: Option<String>,
    ) {
        let standing = Standing {
            model: self.model.clone(),
            status,
            failure,
            max_model_len,
            commit,
            since: seconds_since_1970(),
            load: None,
            is_restarting: false,
        };
        self.board.lines().insert(self.canonical.clone(), (self.owner, standing));
    }

    /// The load has come this far.
    pub fn note_load(&self, progress: StageProgress) {
        self.amend(|standing| standing.load = Some(progress));
    }

    /// The batcher has crashed, or is there again.
    pub fn note_restarting(&self, is_restarting: bool) {
        self.amend(|standing| standing.is_restarting = is_restarting);
    }

    fn amend(&self, change: impl FnOnce(&mut Standing)) {
        if let Some((owner, standing)) = self.board.lines().get_mut(&self.canonical)
            && *owner == self.owner
        {
            change(standing);
        }
    }

    /// Wipes the line: the model is not here.
    pub fn wipe(&self) {
        let mut lines = self.board.lines();
        if lines.get(&self.canonical).is_some_and(|(owner, _)| *owner == self.owner) {
            lines.remove(&self.canonical);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.wipe();
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The id by which a client names a model: without `@main`, which goes without saying.
pub fn display_id(model: &ModelRef) -> String {
    let canonical = model.canonical();
    match model.file() {
        Some(file) if model.revision() == "main" => format!("{}:{file}", model.repo()),
        None if model.revision() == "main" => model.repo().into(),
        _ => canonical,
    }
}

/// A model as `/v1/models` shows it.
pub fn card(model: &ModelRef, created: u64, status: ModelStatus) -> ModelCard {
    let owned_by = match model.repo().split_once('/') {
        Some((owner, _)) if !model.is_path() => owner.into(),
        _ => String::new(),
    };
    let id = display_id(model);
    ModelCard { id, alias_of: None, created, owned_by, status, max_model_len: None, revision: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> ModelRef {
        name.parse().expect("the name is good")
    }

    #[test]
    fn a_late_drop_does_not_wipe_a_successor() {
        let board = Board::new();
        let old = board.line(model("org/m"), 1);
        old.write(ModelStatus::Loaded, None, None, None);
        let new = board.line(model("org/m"), 2);
        new.write(ModelStatus::Loading, None, None, None);
        drop(old);
        assert_eq!(board.get("org/m@main").map(|line| line.status), Some(ModelStatus::Loading));
        drop(new);
        assert!(board.read().is_empty());
    }

    #[test]
    fn ids_are_shown_as_they_are_used() {
        assert_eq!(display_id(&model("org/m@main")), "org/m");
        assert_eq!(display_id(&model("org/m@dev")), "org/m@dev");
        assert_eq!(display_id(&model("org/m:q8.gguf")), "org/m:q8.gguf");
        assert_eq!(card(&model("org/m"), 0, ModelStatus::Available).owned_by, "org");
        assert_eq!(card(&model("/srv/m"), 0, ModelStatus::Available).owned_by, "");
    }
}
