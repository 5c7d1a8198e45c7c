//! A draft model from outside: a client is told the same, and sooner; and whatever becomes of the draft model, no request is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candlewick_actors::{Gateway, TreeParts, TreeSettings};
use candlewick_engine::fake::{FakeFactory, FakeRule, FakeSource, Fault};
use candlewick_engine::{
    KvCacheShape, LoadError, LoadOptions, Model, ModelFactory, ModelFiles, ModelInfo, ModelSource,
    SpeculationLimits, StepError, StepOutcome, StepPlan, Weights,
};
use candlewick_protocol::{Event, Failpoints, GenerationRequest, LoadEvent};
use serde_json::Value;

use crate::support::*;

/// Letters by all before them, drawn where there is temperature: no text tells what comes.
fn letters() -> FakeRule {
    FakeRule::default()
}

/// By the draft model alone: so many tokens never come again.
const BY_DRAFT: SpeculationLimits = SpeculationLimits { max_draft_tokens: 4, ngram_min: 900, ngram_max: 900 };

/// A model whose steps take a millisecond, so that it is a draft model's time that is well spent.
struct Slow(Arc<dyn Weights>);

struct SlowModel(Box<dyn Model>);

impl Weights for Slow {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn start(&self, cache: KvCacheShape) -> Result<Box<dyn Model>, StepError> {
        Ok(Box::new(SlowModel(self.0.start(cache)?)))
    }
}

impl Model for SlowModel {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, StepError> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        self.0.step(plan)
    }
}

/// Makes a model first, and then its draft model.
struct PairFactory {
    large: FakeFactory,
    small: FakeFactory,
    num_loads: AtomicU64,
}

impl ModelFactory for PairFactory {
    fn check(&self, config: &Value) -> Result<(), LoadError> {
        self.large.check(config)
    }

    fn weight_bytes(&self, files: &ModelFiles, options: &LoadOptions) -> Result<u64, LoadError> {
        self.large.weight_bytes(files, options)
    }

    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        match self.num_loads.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Arc::new(Slow(self.large.load(files, options, on_progress)?))),
            _ => self.small.load(files, options, on_progress),
        }
    }
}

struct Pair {
    gateway: Gateway,
    factory: Arc<PairFactory>,
}

impl Pair {
    async fn new(small: FakeRule, change: impl FnOnce(&mut TreeSettings)) -> Self {
        let factory = Arc::new(PairFactory {
            large: FakeFactory::new(letters()),
            small: FakeFactory::new(small),
            num_loads: AtomicU64::new(0),
        });
        let drafts = BTreeMap::from([(model("fake/a").canonical(), model("fake/b"))]);
        let mut settings = TreeSettings { speculation: Some(BY_DRAFT), drafts, ..settings() };
        change(&mut settings);
        let sources: Vec<Arc<dyn ModelSource>> = vec![Arc::new(FakeSource::new(MODELS))];
        let parts = TreeParts {
            sources,
            factory: factory.clone(),
            settings,
            failpoints: Failpoints::new(),
            archive: None,
            memory: None,
            settings_source: None,
        };
        Self { gateway: Gateway::start(parts).await.expect("the tree starts"), factory }
    }

    async fn answers(&self) -> Vec<Answer> {
        let answer = async |request: GenerationRequest| {
            let num_choices = request.num_choices;
            read_all(num_choices, self.gateway.submit(request).await.expect("it is admitted")).await
        };
        futures::future::join_all(requests().into_iter().map(answer)).await
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.gateway.metrics_text();
        let series = format!("{name}{{model_name=\"fake/a\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&*series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no series {series} in\n{text}"))
    }

    async fn close(self) {
        self.factory.small.control.step_gate.open();
        self.gateway.shutdown(Duration::ZERO).await;
        eventually("nothing is left", || self.gateway.num_actors() == 0).await;
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.factory.small.control.step_gate.open();
    }
}

const ACCEPTED: &str = "vllm:spec_decode_num_accepted_tokens_total";
const DRAFTS: &str = "vllm:spec_decode_num_drafts_total";
const RESTARTS: &str = "candlewick_batcher_restarts_total";

fn asks(change: impl FnOnce(&mut GenerationRequest)) -> GenerationRequest {
    let mut request = request("say it", 80);
    request.output.token_ids = true;
    change(&mut request);
    request
}

fn requests() -> Vec<GenerationRequest> {
    vec![
        asks(|_| ()),
        asks(|request| request.sampling.temperature = Some(1.0)),
        asks(|request| {
            (request.num_choices, request.sampling.seed) = (3, Some(11));
            request.sampling.temperature = Some(0.7);
        }),
        asks(|request| {
            request.output.logprobs = Some(2);
            request.sampling.temperature = Some(1.0);
            request.sampling.presence_penalty = Some(0.5);
        }),
        asks(|request| request.sampling.max_tokens = Some(2)),
    ]
}

/// What the requests are answered without a draft model.
async fn expected() -> Vec<Vec<Event>> {
    let world = World::new(letters(), settings()).await;
    let mut answers = Vec::new();
    for request in requests() {
        answers.push(world.answer(request).await.substance());
    }
    world.close().await;
    answers
}

async fn check(pair: &Pair) {
    let answers: Vec<_> = pair.answers().await.iter().map(Answer::substance).collect();
    assert_eq!(answers, expected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_the_same_in_fewer_steps() {
    let pair = Pair::new(letters(), |_| ()).await;
    check(&pair).await;
    let (accepted, drafts) = (pair.metric(ACCEPTED), pair.metric(DRAFTS));
    assert!(accepted > 40.0 && drafts > 4.0, "{accepted} of {drafts} drafts");
    assert!(pair.metric("candlewick_draft_seconds_count") > 0.0);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_model_that_knows_nothing_changes_nothing() {
    let pair = Pair::new(FakeRule::says("no idea"), |settings| settings.num_blocks = Some(80)).await;
    check(&pair).await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_model_that_fails_is_done_without() {
    for fault in [Fault::Panic, Fault::Error] {
        let pair = Pair::new(letters(), |_| ()).await;
        let control = &pair.factory.small.control;
        control.break_step(9, fault);
        check(&pair).await;
        assert_eq!(pair.metric(RESTARTS), 0.0, "nobody else noticed");
        assert_eq!(control.num_steps(), 10, "it was asked until it failed");
        check(&pair).await;
        assert_eq!(control.num_steps(), 10, "it is not asked again");
        pair.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_model_that_hangs_is_done_without() {
    let pair = Pair::new(letters(), |settings| settings.hang_timeout = Duration::from_millis(300)).await;
    pair.factory.small.control.step_gate.close();
    pair.factory.small.control.step_gate.let_pass(9);
    check(&pair).await;
    assert!(pair.metric("candlewick_batchers_hung_total") >= 1.0);
    let num_steps = pair.factory.small.control.num_steps();
    check(&pair).await;
    assert_eq!(pair.factory.small.control.num_steps(), num_steps, "it is not asked again");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_go_on_after_the_model_has_crashed() {
    let pair = Pair::new(letters(), |_| ()).await;
    pair.factory.large.control.break_step(7, Fault::Panic);
    check(&pair).await;
    assert_eq!(pair.metric(RESTARTS), 1.0);
    let accepted = pair.metric(ACCEPTED);
    check(&pair).await;
    assert!(pair.metric(ACCEPTED) > accepted);
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_model_that_is_not_there_is_named() {
    let change = |settings: &mut TreeSettings| {
        settings.drafts = BTreeMap::from([(model("fake/a").canonical(), model("fake/none"))]);
    };
    let pair = Pair::new(letters(), change).await;
    let events = drain(pair.gateway.load(model("fake/a"))).await;
    let Some(LoadEvent::Failed { failure, .. }) = events.last() else { panic!("{events:?}") };
    assert!(failure.message.contains("draft model 'fake/none'"), "{}", failure.message);
    assert!(failure.message.contains("there is no fake model"), "{}", failure.message);
    pair.close().await;
}
