//! The two kinds of what a supervisor has under it: requests that generate and requests that encode, each with a batcher of its
//! kind. A model is of one kind; a request of the other finds that out when it is prepared, and is never admitted.

use std::sync::Arc;

use candlewick_protocol::{Failure, RequestKey};
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};

use crate::batcher::{Batcher, BatcherArgs, BatcherMsg};
use crate::encoding::EncodingMsg;
use crate::encoding::batcher::{EncodeBatcher, EncodeBatcherMsg};
use crate::loader::LoadedModel;
use crate::progress::StageProgress;
use crate::request::RequestMsg;
use crate::tree::tell;

/// The actor of a request in flight.
pub(super) enum Party {
    /// It generates.
    Generation(ActorRef<RequestMsg>),
    /// It encodes.
    Encoding(ActorRef<EncodingMsg>),
}

impl Party {
    pub(super) fn cell(&self) -> ActorCell {
        match self {
            Self::Generation(actor) => actor.get_cell(),
            Self::Encoding(actor) => actor.get_cell(),
        }
    }

    /// Its model's load has come this far.
    pub(super) fn loading(&self, progress: StageProgress) {
        match self {
            Self::Generation(actor) => tell(actor, RequestMsg::Loading(progress)),
            Self::Encoding(actor) => tell(actor, EncodingMsg::Loading),
        }
    }

    /// Its model is in memory.
    pub(super) fn model_ready(&self, model: &Arc<LoadedModel>) {
        match self {
            Self::Generation(actor) => tell(actor, RequestMsg::ModelReady(model.clone())),
            Self::Encoding(actor) => tell(actor, EncodingMsg::ModelReady(model.clone())),
        }
    }

    /// There is a batcher to be admitted to.
    pub(super) fn batcher_ready(&self, batcher: &AnyBatcher, solo: bool) {
        match (self, batcher) {
            (Self::Generation(actor), AnyBatcher::Generation(batcher)) => {
                tell(actor, RequestMsg::BatcherReady { batcher: batcher.clone(), solo });
            }
            (Self::Encoding(actor), AnyBatcher::Encoding(batcher)) => {
                tell(actor, EncodingMsg::BatcherReady { batcher: batcher.clone(), solo });
            }
            (Self::Generation(_), AnyBatcher::Encoding(_))
            | (Self::Encoding(_), AnyBatcher::Generation(_)) => {}
        }
    }

    /// It cannot be answered.
    pub(super) fn fail(&self, failure: Failure) {
        match self {
            Self::Generation(actor) => tell(actor, RequestMsg::Fail(failure)),
            Self::Encoding(actor) => tell(actor, EncodingMsg::Fail(failure)),
        }
    }
}

/// The batcher of a model.
#[derive(Clone)]
pub(super) enum AnyBatcher {
    /// Of one that generates.
    Generation(ActorRef<BatcherMsg>),
    /// Of one that encodes.
    Encoding(ActorRef<EncodeBatcherMsg>),
}

impl AnyBatcher {
    /// Starts the one that the model is for.
    pub(super) async fn start(args: BatcherArgs, supervisor: ActorCell) -> Result<Self, SpawnErr> {
        Ok(match args.model.weights.info().encoder {
            None => Self::Generation(Actor::spawn_linked(None, Batcher, args, supervisor).await?.0),
            Some(_) => Self::Encoding(Actor::spawn_linked(None, EncodeBatcher, args, supervisor).await?.0),
        })
    }

    pub(super) fn cell(&self) -> ActorCell {
        match self {
            Self::Generation(batcher) => batcher.get_cell(),
            Self::Encoding(batcher) => batcher.get_cell(),
        }
    }

    /// A request has ended.
    pub(super) fn forget(&self, request: RequestKey) {
        match self {
            Self::Generation(batcher) => tell(batcher, BatcherMsg::Forget(request)),
            Self::Encoding(batcher) => tell(batcher, EncodeBatcherMsg::Forget(request)),
        }
    }

    /// The settings have changed.
    pub(super) fn settings_changed(&self) {
        match self {
            Self::Generation(batcher) => tell(batcher, BatcherMsg::SettingsChanged),
            Self::Encoding(batcher) => tell(batcher, EncodeBatcherMsg::SettingsChanged),
        }
    }

    /// Memory is short. One that encodes keeps nothing.
    pub(super) fn drop_prefixes(&self) {
        match self {
            Self::Generation(batcher) => tell(batcher, BatcherMsg::DropPrefixes),
            Self::Encoding(_) => {}
        }
    }
}
