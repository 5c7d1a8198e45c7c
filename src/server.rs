//! The composition root: settings → sources and model factory → actor tree → HTTP. No decision is taken here that
//! belongs to a room.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candlewick_actors::{Archive, ArchiveSettings, Gateway, TreeParts, TreeSettings};
use candlewick_api::{ApiKey, ApiSettings, Cors, ReasoningFields};
use candlewick_engine::text::TextOptions;
use candlewick_engine::{LoadError, LoadOptions};
use candlewick_models::CandleFactory;
use candlewick_protocol::{Failpoints, Failure, LoadEvent};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::chat_template::ChatTemplateError;
use crate::memory::SystemMemory;
use crate::settings::{KvCacheSize, ReasoningField, ServerSettings, Settings, StoreSettings};
use crate::sources;

/// Connections that may wait to be accepted: enough for every client of a load test to arrive at once.
const LISTEN_BACKLOG: u32 = 1024;
/// After the streams have had their grace, how long HTTP has to write what is left.
const HTTP_STOP_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The chat template cannot be used.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// The file of API keys cannot be used.
    #[error("cannot read the API keys of {}: {why}", path.display())]
    ApiKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
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
    // First what fails most often and costs least; the port opens only when nothing is left that could be seen before.
    let memory = SystemMemory::new(settings.engine.memory_limit_bytes);
    let tree = tree_settings(&settings, memory.available_bytes())?;
    if let Some(model) = &tree.pinned {
        sources::check_folder(model, &settings.hub).map_err(StartError::Pinned)?;
    }
    let api = ApiSettings { failpoints: failpoints.clone(), ..api_settings(settings.server.clone())? };
    let listener = listen(&settings.server).await?;
    let addr = listener.local_addr().map_err(StartError::Http)?;
    if let Some(level) = settings.engine.kernels.level() {
        CandleFactory::choose_kernels(&level).map_err(StartError::Models)?;
    }
    let parts = TreeParts {
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
    Ok(Server { addr, gateway, http: handle, http_task: tokio::spawn(http) })
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What is behind it.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Waits for the pinned model, if there is one. The failure is that of its load; asked again, it is loaded again.
    pub fn pinned_loaded(&self) -> impl Future<Output = Result<(), Failure>> + use<> {
        let again = || self.gateway.pinned().cloned().map(|model| self.gateway.load(model));
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

fn api_settings(settings: ServerSettings) -> Result<ApiSettings, StartError> {
    let mut keys: Vec<ApiKey> =
        settings.api_keys.iter().map(|line| line.parse().expect("it never fails")).collect();
    if let Some(path) = settings.api_key_file {
        keys.extend(read_keys(&path)?);
    }
    Ok(ApiSettings {
        api_keys: keys,
        cors: match (settings.enable_cors, settings.allowed_origins) {
            (false, _) => Cors::Off,
            (true, origins) if origins.is_empty() => Cors::AnyOrigin,
            (true, origins) => Cors::Origins(origins),
        },
        reasoning_fields: match settings.reasoning_field {
            ReasoningField::Both => ReasoningFields::Both,
            ReasoningField::Reasoning => ReasoningFields::Reasoning,
            ReasoningField::ReasoningContent => ReasoningFields::ReasoningContent,
        },
        metrics_public: settings.metrics_public,
        body_limit_bytes: settings.max_body_bytes,
        keep_alive: settings.keep_alive,
        stream_open_after: settings.stream_open_after,
        max_logprobs: settings.max_logprobs,
        trust_request_chat_template: settings.trust_request_chat_template,
        strict_fields: settings.strict_fields,
        echo_revision: settings.echo_revision,
        ..ApiSettings::default()
    })
}

/// The keys of a file, one a line. A file without any would leave the server open to everybody.
fn read_keys(path: &Path) -> Result<Vec<ApiKey>, StartError> {
    let refuse = |why: String| StartError::ApiKeys { path: path.into(), why };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<ApiKey> = lines.map(|line| line.parse().expect("it never fails")).collect();
    if keys.is_empty() { Err(refuse("there is no key in it".into())) } else { Ok(keys) }
}

fn tree_settings(settings: &Settings, available_bytes: u64) -> Result<TreeSettings, StartError> {
    let (models, engine) = (&settings.models, &settings.engine);
    let share = |share: f64| (available_bytes as f64 * share) as u64;
    let (kv_cache_bytes, num_blocks) = match engine.kv_cache {
        KvCacheSize::Bytes(bytes) => (bytes, None),
        KvCacheSize::ShareOfFree(part) => (share(part), None),
        KvCacheSize::Blocks(count) => (available_bytes, Some(count)),
    };
    let chat_template = match &models.chat_template {
        None => None,
        Some(template) => Some(template.read()?),
    };
    if let Some(line) = models.quantization.explain() {
        tracing::info!("{line}");
    }
    Ok(TreeSettings {
        pinned: models.pinned.clone(),
        model_timeout: models.model_timeout,
        max_running: engine.max_running,
        max_queued: engine.max_queued,
        max_model_len: models.max_model_len,
        max_step_tokens: engine.max_step_tokens,
        block_size: engine.block_size,
        kv_cache_bytes,
        num_blocks,
        prefix_caching: engine.prefix_caching,
        stream_capacity: engine.stream_capacity,
        default_seed: models.default_seed,
        load: LoadOptions {
            dtype: models.dtype,
            quantization: models.quantization.scheme(),
            kv_cache: engine.kv_cache_dtype.dtype(),
            kernels: engine.kernels.kernels(),
        },
        text: TextOptions {
            chat_template,
            template_kwargs: models.template_kwargs.clone(),
            tool_call_parser: models.tool_call_parser.clone(),
            // Each model is given those of its tree as it is loaded.
            failpoints: Failpoints::default(),
        },
        max_restarts: engine.max_restarts,
        restart_window: engine.restart_window,
        hang_timeout: engine.hang_timeout,
        load_stall_timeout: models.load_stall_timeout,
        load_failure_ttl: models.load_failure_ttl,
    })
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

    #[test]
    fn the_kv_cache_has_one_size() {
        let size = |flags: &[(&'static str, &str)]| {
            let tree = tree_settings(&settings(flags), 1000).expect("good");
            (tree.kv_cache_bytes, tree.num_blocks)
        };
        assert_eq!(size(&[]), (300, None));
        assert_eq!(size(&[("cb-max-memory-percent", "0.5")]), (500, None));
        assert_eq!(size(&[("kv-cache-memory", "7")]), (7, None));
        assert_eq!(size(&[("cb-num-blocks", "9")]).1, Some(9));
    }

    #[test]
    fn a_chat_template_may_be_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, "{{ bos_token }}").expect("written");
        let name = path.to_str().expect("plain");
        let tree = tree_settings(&settings(&[("chat-template", name)]), 0).expect("good");
        assert_eq!(tree.text.chat_template.as_deref(), Some("{{ bos_token }}"));
        std::fs::remove_file(&path).expect("removed");
        let error =
            tree_settings(&settings(&[("chat-template", name)]), 0).expect_err("it is gone").to_string();
        assert!(error.contains(name), "{error}");
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
