//! Models and their loading.

use candlewick_protocol::{LoadEvent, LoadStage, ModelCard, ModelStatus};

use crate::wire::models::{LoadFrame, LoadProgress, Model};

/// A model as `/v1/models` lists it.
pub fn model(card: ModelCard) -> Model {
    Model {
        root: card.alias_of.unwrap_or_else(|| card.id.clone()),
        id: card.id,
        object: "model",
        created: card.created,
        owned_by: card.owned_by,
        parent: None,
        max_model_len: card.max_model_len,
        context_length: card.max_model_len,
        status: match card.status {
            ModelStatus::Loaded => "loaded",
            ModelStatus::Loading => "loading",
            ModelStatus::Available => "available",
            ModelStatus::Failed => "failed",
        },
        revision: card.revision,
        permission: [],
    }
}

/// The name of a stage.
pub fn stage(stage: LoadStage) -> &'static str {
    match stage {
        LoadStage::Processor => "processor",
        LoadStage::Config => "config",
        LoadStage::Download => "download",
        LoadStage::Weights => "weights",
    }
}

/// News of a load as a frame of `/load_model`, and whether it is the last.
pub fn load_frame(event: LoadEvent) -> (LoadFrame, bool) {
    let frame =
        |status, model| LoadFrame { status, model, stage: None, progress: None, cached: None, message: None };
    match event {
        LoadEvent::Loading { model, stage: at, progress } => {
            let progress = progress.map(|at| LoadProgress { current: at.current, total: at.total });
            (LoadFrame { stage: Some(stage(at)), progress, ..frame("loading", model) }, false)
        }
        LoadEvent::Ready { model, cached } => {
            (LoadFrame { cached: Some(cached), ..frame("ready", model) }, true)
        }
        LoadEvent::Failed { model, failure } => {
            (LoadFrame { message: Some(failure.message), ..frame("error", model) }, true)
        }
    }
}
