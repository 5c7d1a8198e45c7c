//! The composition root: settings → sources and model factory → actor tree → HTTP. No decision is taken here that
//! belongs to a room.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use candlewick_actors::{Archive, ArchiveSettings, Gateway, SettingsSource, TreeParts};
use candlewick_api::LiveApi;
use candlewick_engine::LoadError;
use candlewick_models::CandleFactory;
use candlewick_protocol::{Failpoints, Failure, LoadEvent};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::live_settings::{LiveSettings, Watched, effective};
use crate::memory::SystemMemory;
use crate::room_settings::{RoomSettingsError, api_settings, tree_settings};
use crate::settings::{ServerSettings, Settings, StoreSettings};
use crate::sources;

/// Connections that may wait to be accepted: enough for every client of a load test to arrive at once.
const LISTEN_BACKLOG: u32 = 1024;
/// After the streams have had their grace, how long HTTP has to write what is left.
const HTTP_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest that an end takes beyond the grace of the streams: actors and HTTP have limits of their own within it.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the server did not start. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened at.
    #[error("cannot listen at {host}:{port}: {hint}")]
    Listen {
        /// As it was set.
        host: String,
        /// As it was set.
        port: u16,
        /// What is wrong, and what to do about it.
        hint: String,
    },
    /// A file that the settings name cannot be used.
    #[error(transparent)]
    Settings(#[from] RoomSettingsError),
    /// The pinned model is not where it should be on this machine.
    #[error("the pinned model cannot be loaded")]
    Pinned(#[source] LoadError),
    /// The sources of models cannot be set up.
    #[error("cannot reach the sources of models")]
    Sources(#[source] LoadError),
    /// Responses cannot be kept where they should be.
    #[error(
        "responses cannot be kept: {0}; choose another folder with --data-dir, or keep none with --no-store"
    )]
    Store(String),
    /// The threads that compute did not start.
    #[error("the threads that compute did not start")]
    Models(#[source] LoadError),
    /// The actors did not start.
    #[error("the actors did not start")]
    Actors(#[from] Failure),
    /// The HTTP threads did not start.
    #[error("the HTTP server did not start")]
    Http(#[source] io::Error),
}

/// A server that runs. Dropping it leaves it running; [`stop`](Self::stop) ends it.
pub struct Server {
    addr: SocketAddr,
    drain_timeout: Duration,
    /// Where the settings are followed, if they are.
    live: Option<Arc<LiveSettings>>,
    gateway: Gateway,
    http: actix_web::dev::ServerHandle,
    http_task: JoinHandle<io::Result<()>>,
}

/// Starts a server on the runtime it is called on, which must be a multi-threaded one: the actors run there, HTTP on
/// threads of its own. Returns when the port is open; a pinned model goes on loading.
pub async fn start(settings: Settings) -> Result<Server, StartError> {
    start_with(settings, Failpoints::default()).await
}

/// The same, with what is to fail on purpose: for tests, and for those who try the server's nerve.
pub async fn start_with(settings: Settings, failpoints: Failpoints) -> Result<Server, StartError> {
    start_watched(settings, failpoints, None).await
}

/// The same, with settings that are followed when they change.
pub async fn start_watched(
    settings: Settings,
    failpoints: Failpoints,
    watched: Option<Watched>,
) -> Result<Server, StartError> {
    // First what fails most often and costs least; the port opens only when nothing is left that could be seen before.
    let memory = SystemMemory::new(settings.engine.memory_limit_bytes);
    let available_bytes = memory.available_bytes();
    let tree = tree_settings(&settings, available_bytes)?;
    if let Some(model) = &tree.pinned {
        sources::check_folder(model, &settings.hub).map_err(StartError::Pinned)?;
    }
    let api = api_settings(settings.server.clone())?;
    let listener = listen(&settings.server).await?;
    let addr = listener.local_addr().map_err(StartError::Http)?;
    if let Some(level) = settings.engine.kernels.level() {
        CandleFactory::choose_kernels(&level).map_err(StartError::Models)?;
    }
    let shown = watched.as_ref().map(|watched| effective(&watched.layered, &watched.layered));
    let api = LiveApi::new(api, shown.unwrap_or_default()).failing_at(failpoints.clone());
    let live = watched.map(|watched| {
        LiveSettings::new(watched, settings.clone(), tree.clone(), api.clone(), available_bytes)
    });
    let parts = TreeParts {
        settings_source: live.clone().map(|live| live as Arc<dyn SettingsSource>),
        sources: sources::all(&settings.hub).map_err(StartError::Sources)?,
        factory: Arc::new(CandleFactory::new(settings.engine.num_threads).map_err(StartError::Models)?),
        settings: tree,
        failpoints: failpoints.clone(),
        archive: match &settings.store {
            Some(store) => open_archive(store).await?,
            None => None,
        },
        memory: Some(Arc::new(memory)),
    };
    let gateway = Gateway::start(parts).await?;
    let workers = settings.server.num_http_workers;
    let http = candlewick_api::server(listener, gateway.clone(), api, workers).map_err(StartError::Http)?;
    let handle = http.handle();
    let drain_timeout = settings.server.drain_timeout;
    Ok(Server { addr, drain_timeout, live, gateway, http: handle, http_task: tokio::spawn(http) })
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Time that requests in flight have to finish when it stops, as it is now.
    pub fn drain_timeout(&self) -> Duration {
        self.live.as_ref().map_or(self.drain_timeout, |live| live.drain_timeout())
    }

    /// What is behind it.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Waits for the pinned model, if there is one. The failure is that of its load; asked again, it is loaded again.
    pub fn pinned_loaded(&self) -> impl Future<Output = Result<(), Failure>> + use<> {
        let again = || self.gateway.pinned().map(|model| self.gateway.load(model));
        let load = self.gateway.take_pinned_load().or_else(again);
        async move {
            let Some(mut events) = load else { return Ok(()) };
            while let Some(event) = events.recv().await {
                match event {
                    LoadEvent::Loading { .. } => {}
                    LoadEvent::Ready { .. } => return Ok(()),
                    LoadEvent::Failed { failure, .. } => return Err(failure),
                }
            }
            // The tree was stopped meanwhile; whoever did that knows.
            Ok(())
        }
    }

    /// Waits until HTTP has ended by itself, which it should not. Returns why.
    pub async fn http_crashed(&mut self) -> String {
        match (&mut self.http_task).await {
            Ok(Ok(())) => "it was stopped".into(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Ends the server: no request is admitted any more, those in flight have `grace` to finish and then end with an
    /// error, every connection is closed. Returns when nothing of it is left.
    pub async fn stop(self, grace: Duration) {
        // HTTP goes on meanwhile: it carries the streams that are finishing, and tells new requests to go elsewhere.
        self.gateway.shutdown(grace).await;
        let stopped = async {
            self.http.stop(true).await;
            self.http_task.await
        };
        match tokio::time::timeout(HTTP_STOP_TIMEOUT, stopped).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the HTTP server ended with an error"),
            Ok(Err(error)) => tracing::warn!(%error, "the HTTP server crashed"),
            Err(_) => tracing::warn!("connections that did not close in time were left"),
        }
    }
}

/// The responses of earlier lives, and a place for new ones. A second server of the same user does without, unless a
/// folder was chosen for it: then somebody counts on it.
async fn open_archive(settings: &StoreSettings) -> Result<Option<Archive>, StartError> {
    let open = ArchiveSettings { dir: settings.data_dir.clone(), ttl: settings.response_ttl };
    let opened = tokio::task::spawn_blocking(move || Archive::open(&open)).await;
    match opened.map_err(|error| StartError::Store(error.to_string()))? {
        Ok(archive) => Ok(Some(archive)),
        Err(error) if settings.is_chosen => Err(StartError::Store(error.to_string())),
        Err(error) => {
            tracing::warn!(
                "{error}; this server keeps no responses, so `store`, `previous_response_id` and `background` are refused \
                 (--data-dir FOLDER gives it a folder of its own, --no-store leaves it at that)"
            );
            Ok(None)
        }
    }
}

/// `localhost` is this machine by its version 4 address, which every client tries.
async fn listen(settings: &ServerSettings) -> Result<TcpListener, StartError> {
    let (host, port) = (settings.host.as_str(), settings.port);
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "the port is taken; choose another with --port, or --port 0 for any free one ({error})"
                )
            }
            io::ErrorKind::PermissionDenied => {
                format!("this user may not listen there; ports from 1024 are free to all ({error})")
            }
            io::ErrorKind::AddrNotAvailable => format!("this machine has no such address ({error})"),
            _ => error.to_string(),
        };
        StartError::Listen { host: host.into(), port, hint }
    };
    let name = if host == "localhost" { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
    let addr = tokio::net::lookup_host((name, port)).await.map_err(failed)?.next();
    let addr = addr.ok_or_else(|| failed(io::Error::other("the name stands for no address")))?;
    let open = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A server that was just stopped leaves connections behind that would hold the port for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(LISTEN_BACKLOG)?.into_std()
    };
    open().map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chat_client::{ChatClient, ChatPiece, ClientError};
    use crate::download_tests::hub::TestHub;
    use crate::settings::{FlagValue, Sources};

    fn settings(flags: &[(&'static str, &str)]) -> Settings {
        let flags = flags.iter().map(|(name, value)| FlagValue::new(name, *value)).collect();
        Settings::load(&Sources { flags, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_built_in_model_answers_and_the_port_closes() {
        let server =
            start(settings(&[("port", "0"), ("model", "candlewick/ember")])).await.expect("it starts");
        let url = format!("http://{}", server.addr());
        let client = ChatClient::new(&url, None).expect("a client");
        client.check_health().await.expect("the port is open at once");
        server.pinned_loaded().await.expect("it is part of the program");
        let body = json!({"messages": [{"role": "user", "content": "Hello!"}], "stream": true});
        let mut answer = client.chat(body.as_object().expect("an object")).await.expect("an answer");
        let mut text = String::new();
        while let Some(piece) = answer.next().await.expect("whole") {
            if let ChatPiece::Text(more) | ChatPiece::Reasoning(more) = piece {
                text.push_str(&more);
            }
        }
        assert!(!text.is_empty());
        server.stop(Duration::ZERO).await;
        assert!(matches!(client.check_health().await, Err(ClientError::Unreachable { .. })));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pinned_model_that_is_not_there_is_told_while_the_port_is_open() {
        let hub = TestHub::start([]).await;
        let mut settings = settings(&[("port", "0"), ("model", "org/none")]);
        settings.hub.endpoint = Some(hub.endpoint());
        settings.hub.cache_dir = Some(std::env::temp_dir().join("candlewick-no-such-cache"));
        let server = start(settings).await.expect("it starts");
        // Why the server is not ready is first that the model is loading, and then why it could not be.
        let has_failed = async || {
            let status = server.gateway().status().await;
            status.reason.is_some_and(|reason| reason.contains("is not available"))
        };
        while !has_failed().await {
            tokio::task::yield_now().await;
        }
        let num_questions = hub.requests().len();
        let failure = server.pinned_loaded().await.expect_err("it is not there");
        assert!(failure.message.contains("org/none"), "{failure}");
        assert_eq!(hub.requests().len(), num_questions, "waiting for the load is no second load");
        let client = ChatClient::new(format!("http://{}", server.addr()), None).expect("a client");
        client.check_health().await.expect("it is alive, though not ready");
        server.stop(Duration::ZERO).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pinned_folder_that_is_not_there_opens_no_port() {
        let error = start(settings(&[("port", "0"), ("model", "./no-such-folder")]))
            .await
            .err()
            .expect("there is nothing to serve");
        assert!(
            matches!(&error, StartError::Pinned(why) if why.to_string().contains("no folder")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_a_way_out() {
        let first = listen(&settings(&[("port", "0")]).server).await.expect("any free port");
        let addr = first.local_addr().expect("bound");
        assert!(addr.ip().is_loopback(), "only this machine is listened to by default");
        let port = addr.port().to_string();
        let error = listen(&settings(&[("port", &port)]).server).await.expect_err("taken").to_string();
        assert!(error.contains(&port) && error.contains("--port 0"), "{error}");
    }
}
