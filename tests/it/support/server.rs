//! Servers for tests: each on a port of its own, with actors and HTTP threads of its own, stopped when dropped.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candlewick::live_settings::Watched;
use candlewick::settings::{FlagValue, Settings, Sources};
use candlewick::settings_files::SettingsFiles;
use candlewick::{Server, start_watched, start_with};
use candlewick_actors::{Gateway, ReloadOutcome, TreeParts, TreeSettings};
use candlewick_api::{ApiSettings, LiveApi};
use candlewick_engine::fake::{FakeFactory, FakeRule, FakeSource};
use candlewick_engine::{ModelSource, SpeculationLimits};
use candlewick_protocol::{Failpoints, SamplingOptions};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::http;

/// A server in this process.
pub struct TestServer {
    runtime: Runtime,
    running: Option<Running>,
    address: SocketAddr,
    /// The model behind a server made by [`TestServer::fake`].
    pub fake: Option<Arc<FakeFactory>>,
    /// What fails on purpose.
    pub failpoints: Failpoints,
}

enum Running {
    Whole(Server),
    Fake(Gateway, actix_web::dev::ServerHandle),
}

impl TestServer {
    /// With the tiny checkpoints of `tests/fixtures/hub` in the cache.
    pub fn with_fixture_hub() -> Self {
        Self::start(&[], &fixture_hub())
    }

    /// The same, pinned to one of them.
    pub fn with_fixture_hub_pinned(model: &'static str, flags: &[(&'static str, &'static str)]) -> Self {
        let flags: Vec<_> = [("model", model)].into_iter().chain(flags.iter().copied()).collect();
        Self::start(&flags, &fixture_hub())
    }

    /// As the program starts it: flags (without their dashes) over environment over defaults.
    pub fn start(flags: &[(&'static str, &'static str)], env: &[(&str, &str)]) -> Self {
        let runtime = runtime();
        let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let flags =
            [("port", "0")].iter().chain(flags).map(|(name, value)| FlagValue::new(name, *value)).collect();
        let settings =
            Settings::load(&Sources { env, flags, ..Sources::default() }).expect("the settings are good");
        let failpoints = Failpoints::new();
        let server = runtime.block_on(start_with(settings, failpoints.clone())).expect("the server starts");
        let address = server.addr();
        Self { runtime, running: Some(Running::Whole(server)), address, fake: None, failpoints }
    }

    /// As the program starts it with a settings file, which it follows.
    pub fn watching(file: &Path) -> Self {
        let runtime = runtime();
        let files = SettingsFiles {
            named: Some(file.into()),
            flags: vec![FlagValue::new("port", "0"), FlagValue::new("store", false)],
            env: fixture_hub().map(|(name, value)| (name.into(), value.into())).into(),
            working_dir: std::env::temp_dir(),
        };
        let sources = files.read().expect("the file is there");
        let (settings, layered) = Settings::load_layered(&sources).expect("the settings are good");
        let watched = Watched { files, layered, log: None };
        let failpoints = Failpoints::new();
        let server = runtime
            .block_on(start_watched(settings, failpoints.clone(), Some(watched)))
            .expect("the server starts");
        let address = server.addr();
        Self { runtime, running: Some(Running::Whole(server)), address, fake: None, failpoints }
    }

    /// Has the settings read anew, as SIGHUP does.
    pub fn reload(&self) -> ReloadOutcome {
        self.runtime.block_on(self.gateway().reload_settings()).expect("somebody looks after the settings")
    }

    /// A model without weights that does as the test tells it, under the name `fake/model`.
    pub fn fake(rule: FakeRule, adjust: impl FnOnce(&mut TreeSettings, &mut ApiSettings)) -> Self {
        Self::with_source(FakeSource::new(["fake/model", "fake/other"]), rule, adjust)
    }

    /// Such models, of any source.
    pub fn with_source(
        source: impl ModelSource + 'static,
        rule: FakeRule,
        adjust: impl FnOnce(&mut TreeSettings, &mut ApiSettings),
    ) -> Self {
        let runtime = runtime();
        let factory = Arc::new(FakeFactory::new(rule));
        let failpoints = Failpoints::new();
        let (mut tree, mut api) = (tree_settings(), ApiSettings::default());
        adjust(&mut tree, &mut api);
        let parts = TreeParts {
            sources: vec![Arc::new(source)],
            factory: factory.clone(),
            settings: tree,
            failpoints: failpoints.clone(),
            archive: None,
            memory: None,
            settings_source: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (gateway, handle) = runtime.block_on(async {
            let gateway = Gateway::start(parts).await.expect("the tree grows");
            let live = LiveApi::from(api).failing_at(failpoints.clone());
            let server = candlewick_api::server(listener, gateway.clone(), live, 2).expect("HTTP starts");
            let handle = server.handle();
            tokio::spawn(server);
            (gateway, handle)
        });
        Self {
            runtime,
            running: Some(Running::Fake(gateway, handle)),
            address,
            fake: Some(factory),
            failpoints,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn gateway(&self) -> &Gateway {
        match self.running.as_ref().expect("it runs until it is dropped") {
            Running::Whole(server) => server.gateway(),
            Running::Fake(gateway, _) => gateway,
        }
    }

    /// The fake model's factory.
    pub fn factory(&self) -> &FakeFactory {
        self.fake.as_deref().expect("this server has a fake model")
    }

    /// Loads a model and waits until it is there.
    pub fn load(&self, model: &str) {
        let last =
            self.post("/load_model", &json!({"model": model})).chunks().pop().expect("there is a last word");
        assert_eq!(last["status"], "ready", "{last}");
    }

    pub fn get(&self, path: &str) -> http::Answer {
        http::get(self.address, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> http::Answer {
        http::post(self.address, path, body)
    }

    /// A chat completion, not streamed, greedy unless `extra` says otherwise.
    pub fn chat(&self, model: &str, user: &str, extra: Value) -> Value {
        let answer = self.post("/v1/chat/completions", &chat_body(model, user, extra));
        let status = answer.status;
        let answer = answer.json();
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The value of a metric, summed over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.failpoints.disarm();
        self.runtime.block_on(async {
            match self.running.take() {
                Some(Running::Whole(server)) => server.stop(Duration::ZERO).await,
                Some(Running::Fake(gateway, handle)) => {
                    gateway.shutdown(Duration::ZERO).await;
                    handle.stop(false).await;
                }
                None => {}
            }
        });
    }
}

/// The body of a chat request of one user message, greedy; `extra` is laid over it.
pub fn chat_body(model: &str, user: &str, extra: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": user}], "temperature": 0});
    let fields = body.as_object_mut().expect("it is an object");
    fields.extend(extra.as_object().cloned().unwrap_or_default());
    body
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture_hub() -> [(&'static str, &'static str); 2] {
    [("HF_HUB_CACHE", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hub")), ("HF_HUB_OFFLINE", "1")]
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn tree_settings() -> TreeSettings {
    TreeSettings {
        pinned: None,
        preload: Vec::new(),
        aliases: BTreeMap::new(),
        sampling: SamplingOptions::default(),
        model_timeout: None,
        max_running: 8,
        max_queued: 8,
        request_timeout: None,
        max_model_len: None,
        max_step_tokens: 64,
        max_inter_token: Some(Duration::from_millis(200)),
        speculation: Some(SpeculationLimits { max_draft_tokens: 16, ngram_min: 2, ngram_max: 5 }),
        drafts: BTreeMap::new(),
        block_size: 16,
        kv_cache_bytes: 4 << 20,
        num_blocks: None,
        prefix_caching: true,
        stream_capacity: 32,
        default_seed: None,
        load: Default::default(),
        text: Default::default(),
        max_restarts: 3,
        restart_window: Duration::from_secs(60),
        hang_timeout: Duration::from_secs(60),
        load_stall_timeout: Duration::from_secs(60),
        load_failure_ttl: Duration::ZERO,
    }
}
