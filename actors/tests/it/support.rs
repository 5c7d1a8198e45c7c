//! A tree over a fake model, and clients that hold every stream to the grammar. Nothing here sleeps to let something
//! happen: gates hold the model up, and [`eventually`] waits for a condition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use candlewick_actors::{EventStream, Gateway, Memory, TreeParts, TreeSettings};
use candlewick_engine::fake::{FakeFactory, FakeRule, FakeSource};
use candlewick_engine::text::TextOptions;
use candlewick_engine::{LoadOptions, ModelSource};
use candlewick_protocol::{
    Delta, Event, EventGrammar, Failpoints, Failure, FinishReason, Finished, GenerationRequest, LoadEvent,
    ModelRef, OutputOptions, Prompt, SamplingOptions, Search, Share, StopCause, Usage,
};
use tokio::sync::mpsc;

/// Longer than anything here takes on a busy machine: a test that waits so long has failed.
const TOO_LONG: Duration = Duration::from_secs(60);

/// Models that the fake source has.
pub const MODELS: [&str; 3] = ["fake/a", "fake/b", "fake/a@dev"];

pub fn settings() -> TreeSettings {
    TreeSettings {
        pinned: None,
        preload: Vec::new(),
        aliases: BTreeMap::new(),
        sampling: SamplingOptions::default(),
        model_timeout: None,
        max_running: 8,
        max_queued: 64,
        request_timeout: None,
        max_model_len: None,
        max_step_tokens: 64,
        max_inter_token: None,
        speculation: None,
        drafts: BTreeMap::new(),
        block_size: 4,
        kv_cache_bytes: 8 << 20,
        num_blocks: None,
        prefix_caching: true,
        stream_capacity: 16,
        default_seed: Some(7),
        load: LoadOptions::default(),
        text: TextOptions::default(),
        max_restarts: 100,
        restart_window: Duration::from_secs(60),
        hang_timeout: Duration::from_secs(60),
        load_stall_timeout: Duration::from_secs(60),
        load_failure_ttl: Duration::from_secs(60),
    }
}

/// A tree, and what its models are made of.
pub struct World {
    pub gateway: Gateway,
    pub factory: Arc<FakeFactory>,
    /// What fails on purpose.
    pub failpoints: Failpoints,
}

impl World {
    pub async fn new(rule: FakeRule, settings: TreeSettings) -> Self {
        Self::of(FakeFactory::new(rule), settings).await
    }

    pub async fn of(factory: FakeFactory, settings: TreeSettings) -> Self {
        Self::within(None, factory, settings).await
    }

    /// One that is told how much memory there is.
    pub async fn within(
        memory: Option<Arc<dyn Memory>>,
        factory: FakeFactory,
        settings: TreeSettings,
    ) -> Self {
        let factory = Arc::new(factory);
        let sources: Vec<Arc<dyn ModelSource>> = vec![Arc::new(FakeSource::new(MODELS))];
        let failpoints = Failpoints::new();
        let parts = TreeParts {
            sources,
            factory: factory.clone(),
            settings,
            failpoints: failpoints.clone(),
            archive: None,
            memory,
            settings_source: None,
        };
        Self { gateway: Gateway::start(parts).await.expect("the tree starts"), factory, failpoints }
    }

    /// Models that say letters without end.
    pub async fn letters() -> Self {
        Self::new(FakeRule::default(), settings()).await
    }

    pub async fn submit(&self, request: GenerationRequest) -> EventStream {
        self.gateway.submit(request).await.expect("the request is admitted")
    }

    /// The whole answer to a request.
    pub async fn answer(&self, request: GenerationRequest) -> Answer {
        let num_choices = request.num_choices;
        read_all(num_choices, self.submit(request).await).await
    }

    /// Loads a model to the end.
    pub async fn load(&self, name: &str) -> Vec<LoadEvent> {
        drain(self.gateway.load(model(name))).await
    }

    /// The value of one series, by its name and first label.
    pub fn metric(&self, series: &str) -> f64 {
        let value = self.metric_if_told(series);
        value.unwrap_or_else(|| panic!("no series {series} in\n{}", self.gateway.metrics_text()))
    }

    /// The same, where it may not be there.
    pub fn metric_if_told(&self, series: &str) -> Option<f64> {
        let text = self.gateway.metrics_text();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until no request holds anything: no permit, no block of the KV cache.
    pub async fn idle(&self) {
        eventually("no request is in flight", || self.gateway.num_in_flight() == 0).await;
        for name in ["fake/a", "fake/b"] {
            let series = format!("vllm:kv_cache_usage_perc{{model_name=\"{name}\"}} ");
            let is_free = || self.metric_if_told(&series).is_none_or(|usage| usage == 0.0);
            eventually("every block is free", is_free).await;
        }
    }

    /// Stops the tree; nothing may be left.
    pub async fn close(self) {
        self.open_gates();
        self.idle().await;
        self.gateway.shutdown(Duration::ZERO).await;
        assert_eq!(self.gateway.num_actors(), 0, "an actor is left");
    }

    fn open_gates(&self) {
        self.factory.control.step_gate.open();
        self.factory.load_gate.open();
        self.failpoints.disarm();
    }
}

/// A test that fails while a thread stands at a gate is not to hang: the runtime waits for that thread.
impl Drop for World {
    fn drop(&mut self) {
        self.open_gates();
    }
}

pub fn model(name: &str) -> ModelRef {
    name.parse().expect("the name is good")
}

/// A greedy request for so many tokens.
pub fn request(prompt: &str, max_tokens: u32) -> GenerationRequest {
    GenerationRequest {
        request_id: "same for all".into(),
        model: Some(model("fake/a")),
        prompt: Prompt::Text { text: prompt.into(), add_special_tokens: true },
        sampling: SamplingOptions {
            temperature: Some(0.0),
            max_tokens: Some(max_tokens),
            ..SamplingOptions::default()
        },
        num_choices: 1,
        constraint: None,
        search: Search::Sample,
        output: OutputOptions::default(),
        priority: 0,
        truncation: None,
        cache_salt: None,
        timeout: None,
        share: Share::default(),
    }
}

/// One whole stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub events: Vec<Event>,
}

impl Answer {
    /// The text of a choice.
    pub fn text(&self, choice: u32) -> String {
        let pieces = self.events.iter().filter_map(|event| match event {
            Event::Piece(piece) if piece.choice == choice => match &piece.delta {
                Delta::Text(text) => Some(text.as_str()),
                _ => None,
            },
            _ => None,
        });
        pieces.collect()
    }

    /// Why a choice ended.
    pub fn end(&self, choice: u32) -> (FinishReason, Option<StopCause>) {
        let ends = self.events.iter().find_map(|event| match event {
            Event::Ended { choice: ended, reason, stop } if *ended == choice => Some((*reason, stop.clone())),
            _ => None,
        });
        ends.unwrap_or_else(|| panic!("choice {choice} did not end in {:?}", self.events))
    }

    pub fn usage(&self) -> Usage {
        match self.events.last() {
            Some(Event::Finished(finished)) => finished.usage,
            other => panic!("the answer ended with {other:?}"),
        }
    }

    pub fn failure(&self) -> Failure {
        match self.events.last() {
            Some(Event::Failed(failure)) => failure.clone(),
            other => panic!("the answer ended with {other:?}"),
        }
    }

    /// What is the same however busy the server is and whatever it did before: all but the waiting, what was cached, and
    /// how the pieces of several choices fell between each other.
    pub fn substance(&self) -> Vec<Event> {
        let events =
            self.events.iter().filter(|event| !matches!(event, Event::Queued | Event::Loading { .. }));
        let without_cached = |event: &Event| match event {
            Event::Finished(Finished { usage }) => {
                Event::Finished(Finished { usage: Usage { cached_tokens: 0, ..*usage } })
            }
            other => other.clone(),
        };
        let mut events = events.map(without_cached).collect::<Vec<_>>();
        events.sort_by_key(|event| match event {
            Event::Piece(piece) => (1, piece.choice),
            Event::Ended { choice, .. } => (1, *choice),
            Event::Finished(_) | Event::Failed(_) => (2, 0),
            _ => (0, 0),
        });
        events
    }
}

/// Reads a stream to its end, holding it to the grammar.
pub async fn read_all(num_choices: u32, mut stream: EventStream) -> Answer {
    let mut grammar = EventGrammar::new(num_choices);
    let mut events = Vec::new();
    while let Some(event) = next(&mut stream).await {
        if let Err(why) = grammar.check(&event) {
            panic!("{why}, after {events:?}");
        }
        events.push(event);
    }
    assert_eq!(grammar.close(), Ok(()), "after {events:?}");
    Answer { events }
}

pub async fn next(stream: &mut EventStream) -> Option<Event> {
    tokio::time::timeout(TOO_LONG, stream.events.recv()).await.expect("the stream goes on")
}

/// Reads on until the answer has begun.
pub async fn read_started(stream: &mut EventStream) {
    while !matches!(next(stream).await.expect("the stream is open"), Event::Started(_)) {}
}

pub async fn drain<T>(mut events: mpsc::Receiver<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(event) = tokio::time::timeout(TOO_LONG, events.recv()).await.expect("the stream goes on") {
        all.push(event);
    }
    all
}

/// Waits for a condition.
pub async fn eventually(what: &'static str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(TOO_LONG, poll).await.is_ok(), "it never came to pass that {what}");
}
