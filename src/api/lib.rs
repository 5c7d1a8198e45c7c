//! HTTP and OpenAI's JSON in front of the [`Gateway`].
//!
//! A request comes in through `routes`, is read by `from_wire` into `protocol`'s words, answered by the gateway with
//! events, and written by `to_wire`: whole (`collect`) or in frames (`sse`). This room knows no actor beyond the
//! gateway, and no tensor.

mod admin;
mod auth;
mod backend;
mod body;
mod chat;
mod check;
mod collect;
mod completions;
mod cors;
mod disconnect;
mod encoding;
mod error;
mod fail;
mod from_wire;
mod generation;
mod health;
mod idle;
mod keeping;
mod live;
mod load;
mod models;
mod panic;
mod request_id;
mod responses;
mod routes;
mod sender;
mod settings;
mod sse;
mod tei;
mod text;
mod to_wire;
mod trace;
mod traffic;
mod unread;
mod wire;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod whole_and_streamed_tests;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::{NormalizePath, from_fn};
use actix_web::{App, HttpServer, web};
use candlewick_actors::Gateway;
use candlewick_protocol::ModelRef;

pub use crate::auth::{ApiKey, ApiKeyError};
pub use crate::check::check_body;
pub use crate::live::{EffectiveSetting, LiveApi};
pub use crate::settings::{ApiSettings, Cors, ReasoningFields};

use crate::auth::KeyRing;
use crate::backend::Backend;
use crate::cors::CrossOrigin;
use crate::error::ApiError;
use crate::traffic::Traffic;

/// How long a connection is kept for a next request after an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What every handler is given.
struct ApiState {
    backend: Arc<dyn Backend>,
    live: LiveApi,
    traffic: Traffic,
}

impl ApiState {
    fn new(backend: Arc<dyn Backend>, live: LiveApi) -> Self {
        Self { backend, live, traffic: Traffic::new() }
    }

    fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// As they are now. A handler asks once, so that one request goes by one state of them.
    fn settings(&self) -> Arc<ApiSettings> {
        self.live.settings()
    }

    fn keys(&self) -> Arc<KeyRing> {
        self.live.keys()
    }

    fn live(&self) -> &LiveApi {
        &self.live
    }

    /// The name of the pinned model, for a request that names none; without a pinned model that is an error.
    fn pinned_unless_named(&self, named: Option<&ModelRef>) -> Result<Option<String>, ApiError> {
        match (named, self.backend.pinned()) {
            (Some(_), _) => Ok(None),
            (None, Some(pinned)) => Ok(Some(pinned.to_string())),
            (None, None) => Err(ApiError::missing("model")),
        }
    }
}

/// A server on a listener that is already bound, with `workers` threads. It runs while it is awaited, hears no signals,
/// and is stopped through its handle.
pub fn server(listener: TcpListener, gateway: Gateway, live: LiveApi, workers: usize) -> io::Result<Server> {
    serve(listener, Arc::new(gateway), live, workers)
}

fn serve(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    live: LiveApi,
    workers: usize,
) -> io::Result<Server> {
    let failpoints = live.failpoints().clone();
    let header_timeout = live.settings().header_timeout;
    let state = web::Data::new(ApiState::new(backend, live.clone()));
    let server = HttpServer::new(move || {
        // The last layer is met first: the connection is seen to be in use, a path loses its `/`, the request is counted and
        // gets its id, CORS answers pre-flights, a body is watched, and only then is a key asked for.
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(panic::catch))
            .wrap(from_fn(auth::guard))
            .wrap(from_fn(unread::guard))
            .wrap(CrossOrigin::new(live.clone()))
            .wrap(from_fn(request_id::attach))
            .wrap(from_fn(traffic::measure))
            .wrap(NormalizePath::trim())
            .wrap(from_fn(idle::guard))
            .configure(routes::configure)
            .configure(|config| fail::configure(config, &failpoints))
    });
    // Idle, and then as slow as the first head may be.
    let idle_timeout = KEEP_ALIVE.saturating_add(header_timeout);
    let server = server.keep_alive(KEEP_ALIVE).client_request_timeout(header_timeout);
    let server = server.on_connect(move |io, data| disconnect::watch(io, data, idle_timeout));
    Ok(server.workers(workers).disable_signals().listen(listener)?.run())
}
