//! What the handlers ask of the actors, as a trait, so that tests can script the answers.
//!
//! There is one implementation that serves: `Gateway`. Each method is the one of the same name there.

use candlewick_actors::{EventStream, Gateway};
use candlewick_protocol::{Failure, GenerationRequest, LoadEvent, ModelCard, ModelRef, ServerStatus};
use futures::future::{FutureExt, LocalBoxFuture};
use tokio::sync::mpsc;

/// The actors, seen from a handler.
pub trait Backend: Send + Sync + 'static {
    /// See [`Gateway::submit`].
    fn submit(&self, request: GenerationRequest) -> LocalBoxFuture<'_, Result<EventStream, Failure>>;
    /// See [`Gateway::submit_many`].
    fn submit_many(
        &self,
        requests: Vec<GenerationRequest>,
    ) -> LocalBoxFuture<'_, Result<Vec<EventStream>, Failure>>;
    /// See [`Gateway::load`].
    fn load(&self, model: ModelRef) -> mpsc::Receiver<LoadEvent>;
    /// See [`Gateway::unload`].
    fn unload<'a>(&'a self, model: &'a ModelRef, force: bool) -> LocalBoxFuture<'a, Result<(), Failure>>;
    /// See [`Gateway::reset`].
    fn reset(&self) -> LocalBoxFuture<'_, ()>;
    /// See [`Gateway::pinned`].
    fn pinned(&self) -> Option<&ModelRef>;
    /// See [`Gateway::list`].
    fn list(&self) -> LocalBoxFuture<'_, Vec<ModelCard>>;
    /// See [`Gateway::status`].
    fn status(&self) -> LocalBoxFuture<'_, ServerStatus>;
    /// See [`Gateway::metrics_text`].
    fn metrics_text(&self) -> String;
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

    fn load(&self, model: ModelRef) -> mpsc::Receiver<LoadEvent> {
        Gateway::load(self, model)
    }

    fn unload<'a>(&'a self, model: &'a ModelRef, force: bool) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Gateway::unload(self, model, force).boxed_local()
    }

    fn reset(&self) -> LocalBoxFuture<'_, ()> {
        Gateway::reset(self).boxed_local()
    }

    fn pinned(&self) -> Option<&ModelRef> {
        Gateway::pinned(self)
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
}
