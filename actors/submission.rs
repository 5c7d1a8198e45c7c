//! A request on its way to its actor, whatever it asks for.

use std::sync::Arc;

use candlewick_protocol::{Event, Failpoints, GenerationRequest, RequestKey};

use crate::admission::Permit;
use crate::deadline::Deadline;
use crate::metrics::ModelMetrics;
use crate::outlet::Outlet;
use crate::pulse::Pulse;
use crate::trace::Trace;
use crate::tree::Tree;

/// An admitted request on its way to its model: to generate, unless it says otherwise. Dropped anywhere, it tells the client
/// that it was lost.
pub struct Submission<R = GenerationRequest, A: Send + 'static = Event> {
    /// Our name for it.
    pub key: RequestKey,
    /// What is asked.
    pub request: R,
    /// Where the answer goes.
    pub outlet: Outlet<A>,
    /// Its right to be here.
    pub permit: Permit,
    /// Until when.
    pub deadline: Option<Deadline>,
    /// Its spans.
    pub trace: Trace,
}

/// What a request's actor is made of.
pub struct RequestArgs<R = GenerationRequest, A: Send + 'static = Event> {
    /// The tree it lives in.
    pub tree: Arc<Tree>,
    /// What is asked.
    pub submission: Submission<R, A>,
    /// Its model's canonical id.
    pub model: String,
    /// Its model's series.
    pub metrics: Arc<ModelMetrics>,
    /// Goes on with each message that it handles.
    pub pulse: Arc<Pulse>,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
}
