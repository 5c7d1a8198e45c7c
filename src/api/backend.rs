//! What the handlers ask of the actors, as a trait, so that tests can script the answers.
//!
//! There is one implementation that serves: `Gateway`. Each method is the one of the same name there.

use candlewick_actors::{EventStream, Follower, Gateway};
use candlewick_protocol::{
    ActorNode, EncodeAnswer, EncodeRequest, Failure, GenerationRequest, LoadEvent, LoggedEvent, ModelCard,
    ModelRef, ResponseRecord, ServerStatus, StoredResponse, TextAnswer, TextRequest,
};
use futures::future::{FutureExt, LocalBoxFuture};
use tokio::sync::mpsc;

/// A response and all that it goes on from, oldest first, or the first id that is not there.
pub type Chain = Result<Vec<StoredResponse>, String>;

/// The actors, seen from a handler.
pub trait Backend: Send + Sync + 'static {
    /// See [`Gateway::submit`].
    fn submit(&self, request: GenerationRequest) -> LocalBoxFuture<'_, Result<EventStream, Failure>>;
    /// See [`Gateway::submit_many`].
    fn submit_many(
        &self,
        requests: Vec<GenerationRequest>,
    ) -> LocalBoxFuture<'_, Result<Vec<EventStream>, Failure>>;
    /// See [`Gateway::encode`].
    fn encode(&self, request: EncodeRequest) -> LocalBoxFuture<'_, Result<EncodeAnswer, Failure>>;
    /// See [`Gateway::admit_answer`].
    fn admit_answer(&self, num_bytes: u64) -> Result<(), Failure>;
    /// See [`Gateway::load`].
    fn load(&self, model: ModelRef) -> mpsc::Receiver<LoadEvent>;
    /// See [`Gateway::text`].
    fn text(&self, request: TextRequest) -> LocalBoxFuture<'_, Result<TextAnswer, Failure>>;
    /// See [`Gateway::unload`].
    fn unload<'a>(&'a self, model: &'a ModelRef, force: bool) -> LocalBoxFuture<'a, Result<(), Failure>>;
    /// See [`Gateway::reset`].
    fn reset(&self) -> LocalBoxFuture<'_, ()>;
    /// See [`Gateway::pinned`].
    fn pinned(&self) -> Option<ModelRef>;
    /// See [`Gateway::observe`].
    fn observe(&self) -> ActorNode;
    /// See [`Gateway::list`].
    fn list(&self) -> LocalBoxFuture<'_, Vec<ModelCard>>;
    /// See [`Gateway::status`].
    fn status(&self) -> LocalBoxFuture<'_, ServerStatus>;
    /// See [`Gateway::metrics_text`].
    fn metrics_text(&self) -> String;
    /// See [`Gateway::keeps_responses`].
    fn keeps_responses(&self) -> bool;
    /// See [`Gateway::keep_response`].
    fn keep_response(
        &self,
        record: ResponseRecord,
        log: Vec<LoggedEvent>,
    ) -> LocalBoxFuture<'_, Result<(), Failure>>;
    /// See [`Gateway::find_response`].
    fn find_response<'a>(
        &'a self,
        id: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<StoredResponse>, Failure>>;
    /// See [`Gateway::find_chain`].
    fn find_chain<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Result<Chain, Failure>>;
    /// See [`Gateway::forget_response`].
    fn forget_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Result<bool, Failure>>;
    /// See [`Gateway::run_response`].
    fn run_response(
        &self,
        record: ResponseRecord,
        request: GenerationRequest,
    ) -> LocalBoxFuture<'_, Result<(), Failure>>;
    /// See [`Gateway::cancel_response`].
    fn cancel_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, bool>;
    /// See [`Gateway::follow_response`].
    fn follow_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Option<Follower>>;
}

impl Backend for Gateway {
    fn submit(&self, request: GenerationRequest) -> LocalBoxFuture<'_, Result<EventStream, Failure>> {
        Gateway::submit(self, request).boxed_local()
    }

    fn submit_many(
        &self,
        requests: Vec<GenerationRequest>,
    ) -> LocalBoxFuture<'_, Result<Vec<EventStream>, Failure>> {
        Gateway::submit_many(self, requests).boxed_local()
    }

    fn admit_answer(&self, num_bytes: u64) -> Result<(), Failure> {
        Gateway::admit_answer(self, num_bytes)
    }

    fn encode(&self, request: EncodeRequest) -> LocalBoxFuture<'_, Result<EncodeAnswer, Failure>> {
        Gateway::encode(self, request).boxed_local()
    }

    fn load(&self, model: ModelRef) -> mpsc::Receiver<LoadEvent> {
        Gateway::load(self, model)
    }

    fn text(&self, request: TextRequest) -> LocalBoxFuture<'_, Result<TextAnswer, Failure>> {
        Gateway::text(self, request).boxed_local()
    }

    fn unload<'a>(&'a self, model: &'a ModelRef, force: bool) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Gateway::unload(self, model, force).boxed_local()
    }

    fn reset(&self) -> LocalBoxFuture<'_, ()> {
        Gateway::reset(self).boxed_local()
    }

    fn pinned(&self) -> Option<ModelRef> {
        Gateway::pinned(self)
    }

    fn observe(&self) -> ActorNode {
        Gateway::observe(self)
    }

    fn list(&self) -> LocalBoxFuture<'_, Vec<ModelCard>> {
        Gateway::list(self).boxed_local()
    }

    fn status(&self) -> LocalBoxFuture<'_, ServerStatus> {
        Gateway::status(self).boxed_local()
    }

    fn metrics_text(&self) -> String {
        Gateway::metrics_text(self)
    }

    fn keeps_responses(&self) -> bool {
        Gateway::keeps_responses(self)
    }

    fn keep_response(
        &self,
        record: ResponseRecord,
        log: Vec<LoggedEvent>,
    ) -> LocalBoxFuture<'_, Result<(), Failure>> {
        Gateway::keep_response(self, record, log).boxed_local()
    }

    fn find_response<'a>(
        &'a self,
        id: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<StoredResponse>, Failure>> {
        Gateway::find_response(self, id).boxed_local()
    }

    fn find_chain<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Result<Chain, Failure>> {
        Gateway::find_chain(self, id).boxed_local()
    }

    fn forget_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Result<bool, Failure>> {
        Gateway::forget_response(self, id).boxed_local()
    }

    fn run_response(
        &self,
        record: ResponseRecord,
        request: GenerationRequest,
    ) -> LocalBoxFuture<'_, Result<(), Failure>> {
        Gateway::run_response(self, record, request).boxed_local()
    }

    fn cancel_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, bool> {
        Gateway::cancel_response(self, id).boxed_local()
    }

    fn follow_response<'a>(&'a self, id: &'a str) -> LocalBoxFuture<'a, Option<Follower>> {
        Gateway::follow_response(self, id).boxed_local()
    }
}
