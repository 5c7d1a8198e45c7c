//! HTTP and OpenAI's JSON in front of the [`Gateway`].
//!
//! A request comes in through `routes`, is read by `from_wire` into `protocol`'s words, answered by the gateway with
//! events, and written by `to_wire`: whole (`collect`) or in frames (`sse`). This room knows no actor beyond the
//! gateway, and no tensor.

mod auth;
mod backend;
mod body;
mod chat;
mod check;
mod collect;
mod completions;
mod disconnect;
mod error;
mod fail;
mod from_wire;
mod generation;
mod health;
mod load;
mod models;
mod panic;
mod request_id;
mod responses;
mod routes;
mod sse;
mod text;
mod to_wire;
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

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::{Method, header};
use actix_web::middleware::{Condition, NormalizePath, from_fn};
use actix_web::{App, HttpServer, web};
use candlewick_actors::Gateway;
use candlewick_protocol::{Failpoints, ModelRef};

pub use crate::auth::ApiKey;
pub use crate::check::check_body;

use crate::auth::KeyRing;
use crate::backend::Backend;
use crate::error::ApiError;

/// The web pages that may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// None.
    Off,
    /// All.
    AnyOrigin,
    /// Those of these origins.
    Origins(Vec<String>),
}

/// The names under which chat answers tell reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningFields {
    /// Both names, with the same text.
    #[default]
    Both,
    /// `reasoning`.
    Reasoning,
    /// `reasoning_content`.
    ReasoningContent,
}

impl ReasoningFields {
    /// A text under `reasoning` and under `reasoning_content`.
    fn of(self, text: Option<String>) -> (Option<String>, Option<String>) {
        match self {
            Self::Both => (text.clone(), text),
            Self::Reasoning => (text, None),
            Self::ReasoningContent => (None, text),
        }
    }
}

/// What the HTTP side can be told.
#[derive(Clone)]
pub struct ApiSettings {
    /// Keys that open the server; none leaves it open to all.
    pub api_keys: Vec<ApiKey>,
    /// Which web pages may ask.
    pub cors: Cors,
    /// Under which names chat answers tell reasoning.
    pub reasoning_fields: ReasoningFields,
    /// `/metrics` needs no key.
    pub metrics_public: bool,
    /// Largest body of a request.
    pub body_limit_bytes: usize,
    /// How long a request's body may stand still before the client is told so, and its connection closed.
    pub body_timeout: Duration,
    /// A stream with nothing to say sends a comment this often.
    pub keep_alive: Duration,
    /// How long a stream is held back in case its first event is a failure, which then gets its own HTTP status.
    pub stream_open_after: Duration,
    /// Most of the likeliest tokens that a request may ask for with log-probabilities.
    pub max_logprobs: u32,
    /// Name the model with its revision even to clients that named none.
    pub echo_revision: bool,
    /// Requests may bring a chat template of their own.
    pub trust_request_chat_template: bool,
    /// Refuse fields of a request that are not known.
    pub strict_fields: bool,
    /// What is to fail on purpose.
    pub failpoints: Failpoints,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            cors: Cors::Off,
            reasoning_fields: ReasoningFields::Both,
            metrics_public: false,
            body_limit_bytes: 32 << 20,
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(1),
            stream_open_after: Duration::from_millis(200),
            max_logprobs: 20,
            echo_revision: false,
            trust_request_chat_template: false,
            strict_fields: false,
            failpoints: Failpoints::default(),
        }
    }
}

/// Without the keys themselves: settings are logged.
impl fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiSettings")
            .field("num_api_keys", &self.api_keys.len())
            .field("cors", &self.cors)
            .field("reasoning_fields", &self.reasoning_fields)
            .field("metrics_public", &self.metrics_public)
            .field("body_limit_bytes", &self.body_limit_bytes)
            .field("body_timeout", &self.body_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("stream_open_after", &self.stream_open_after)
            .field("max_logprobs", &self.max_logprobs)
            .field("echo_revision", &self.echo_revision)
            .field("trust_request_chat_template", &self.trust_request_chat_template)
            .field("strict_fields", &self.strict_fields)
            .field("failpoints", &self.failpoints)
            .finish()
    }
}

/// What every handler is given. Handlers reach settings only through here, so that they can one day change while the
/// server runs.
struct ApiState {
    backend: Arc<dyn Backend>,
    settings: ApiSettings,
    keys: KeyRing,
}

impl ApiState {
    fn new(backend: Arc<dyn Backend>, settings: ApiSettings) -> Self {
        let keys = KeyRing::new(&settings.api_keys);
        Self { backend, settings, keys }
    }

    fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    fn settings(&self) -> &ApiSettings {
        &self.settings
    }

    fn keys(&self) -> &KeyRing {
        &self.keys
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
pub fn server(
    listener: TcpListener,
    gateway: Gateway,
    settings: ApiSettings,
    workers: usize,
) -> io::Result<Server> {
    serve(listener, Arc::new(gateway), settings, workers)
}

fn serve(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    settings: ApiSettings,
    workers: usize,
) -> io::Result<Server> {
    let (cors, failpoints) = (settings.cors.clone(), settings.failpoints.clone());
    let state = web::Data::new(ApiState::new(backend, settings));
    let server = HttpServer::new(move || {
        // The last layer is met first: a path loses its `/`, the request gets its id, CORS answers pre-flights, a body
        // is watched, and only then is a key asked for.
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(panic::catch))
            .wrap(from_fn(auth::guard))
            .wrap(from_fn(unread::guard))
            .wrap(Condition::new(cors != Cors::Off, cross_origin(&cors)))
            .wrap(from_fn(request_id::attach))
            .wrap(NormalizePath::trim())
            .configure(routes::configure)
            .configure(|config| fail::configure(config, &failpoints))
    });
    Ok(server.on_connect(disconnect::watch).workers(workers).disable_signals().listen(listener)?.run())
}

/// What web pages may do, and that they may read what clients look for in an answer's head.
fn cross_origin(cors: &Cors) -> actix_cors::Cors {
    let rules = match cors {
        Cors::Off => actix_cors::Cors::default(),
        Cors::AnyOrigin => actix_cors::Cors::default().allow_any_origin(),
        Cors::Origins(origins) => origins
            .iter()
            .fold(actix_cors::Cors::default(), |rules, origin| rules.allowed_origin(origin))
            // A page of another origin is not told why; its browser says so.
            .block_on_origin_mismatch(false),
    };
    rules
        .allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_any_header()
        .expose_headers([request_id::HEADER, header::RETRY_AFTER])
        .supports_credentials()
        .max_age(600)
}
