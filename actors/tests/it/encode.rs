//! Requests to encode texts: packed together, answered alone, over crashes and hangs.

use std::sync::Arc;
use std::time::Duration;

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::{FAKE_DIMENSIONS, FakeFactory, Fault, fake_vector};
use candlewick_protocol::{
    EncodeAnswer, EncodeInput, EncodeInputs, EncodeOutput, EncodeRequest, EncodeWork, ErrorKind, FailAction,
    FailPlace, FailRule, Failure, PromptTruncation, Share, TruncationSide,
};
use tokio::task::JoinHandle;

use crate::support::*;

async fn encoders(settings: TreeSettings) -> Arc<World> {
    Arc::new(World::of(FakeFactory::of_encoders(), settings).await)
}

fn embed(texts: &[&str]) -> EncodeRequest {
    let input = |text: &&str| EncodeInput::Text { text: (*text).into(), add_special_tokens: true };
    let inputs =
        EncodeInputs { inputs: texts.iter().map(input).collect(), param: "input".into(), is_list: true };
    EncodeRequest {
        request_id: "same for all".into(),
        model: Some(model("fake/a")),
        work: EncodeWork::Embed {
            inputs,
            of_tokens: false,
            dimensions: None,
            normalize: None,
            prompt_name: None,
        },
        truncation: None,
        timeout: None,
        share: Share::default(),
    }
}

/// What the fake encoder makes of texts, whose tokens are their bytes.
fn expected(texts: &[&str]) -> Vec<Vec<f32>> {
    let vector = |text: &&str| fake_vector(&text.bytes().map(u32::from).collect::<Vec<_>>());
    texts.iter().map(vector).collect()
}

#[track_caller]
fn check(answer: Result<EncodeAnswer, Failure>, texts: &[&str]) {
    let answer = answer.unwrap_or_else(|failure| panic!("{failure}"));
    let EncodeOutput::Vectors(vectors) = answer.output else { panic!("{:?}", answer.output) };
    assert_eq!(vectors.iter().map(|rows| rows.values.clone()).collect::<Vec<_>>(), expected(texts));
    assert_eq!(answer.num_tokens, texts.iter().map(|text| text.len() as u64).sum::<u64>());
    assert_eq!(answer.model, "fake/a@main");
}

fn begin(world: &Arc<World>, request: EncodeRequest) -> JoinHandle<Result<EncodeAnswer, Failure>> {
    let world = world.clone();
    tokio::spawn(async move { world.gateway.encode(request).await })
}

async fn close(world: Arc<World>) {
    Arc::into_inner(world).expect("all requests have ended").close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_request_is_one_pass_and_those_that_come_meanwhile_follow() {
    let world = encoders(settings()).await;
    world.factory.control.keep_passes();
    check(world.gateway.encode(embed(&["one", "two"])).await, &["one", "two"]);
    assert_eq!(world.factory.control.num_steps(), 1, "nobody was waited for");

    world.factory.control.step_gate.close();
    let first = begin(&world, embed(&["first"]));
    world.factory.control.step_gate.wait_held();
    let texts = [["a", "bb"], ["ccc", "d"], ["ee", "fff"]];
    let others: Vec<_> = texts.iter().map(|texts| begin(&world, embed(texts))).collect();
    let series = "vllm:num_requests_waiting{model_name=\"fake/a\"} ";
    eventually("three wait", || world.metric(series) == 3.0).await;
    world.factory.control.step_gate.open();
    check(first.await.expect("no panic"), &["first"]);
    for (other, texts) in others.into_iter().zip(&texts) {
        check(other.await.expect("no panic"), texts);
    }
    let passes = world.factory.control.passes();
    assert_eq!(passes[..2].concat().len(), 3, "{passes:?}");
    assert_eq!(passes[2..].concat().len(), 6, "{passes:?}");
    assert_eq!(world.metric(series), 0.0);
    assert_eq!(
        world.metric("vllm:request_success_total{finished_reason=\"stop\",model_name=\"fake/a\"} "),
        5.0
    );
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_texts_are_cut_into_passes_within_the_budget() {
    let world = encoders(TreeSettings { max_step_tokens: 10, ..settings() }).await;
    let texts = ["aaaa", "bbbb", "cccc", "dddddddddddddd", "e"];
    check(world.gateway.encode(embed(&texts)).await, &texts);
    assert_eq!(world.factory.control.num_steps(), 4);
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_not_encoded() {
    let world = encoders(settings()).await;
    world.factory.control.keep_passes();
    world.factory.control.step_gate.close();
    let first = begin(&world, embed(&["first"]));
    world.factory.control.step_gate.wait_held();
    let leaves = begin(&world, embed(&["never"]));
    eventually("both are in flight", || world.gateway.num_in_flight() == 2).await;
    leaves.abort();
    eventually("one is gone", || world.gateway.num_in_flight() == 1).await;
    world.factory.control.step_gate.open();
    check(first.await.expect("no panic"), &["first"]);
    check(world.gateway.encode(embed(&["next"])).await, &["next"]);
    let requests: std::collections::BTreeSet<_> =
        world.factory.control.passes().into_iter().flatten().map(|text| text.request).collect();
    assert_eq!(requests.len(), 2, "who had left was in no pass");
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_a_pass_and_no_answer() {
    for fault in [Fault::Panic, Fault::Error] {
        let world = encoders(TreeSettings { max_step_tokens: 4, ..settings() }).await;
        world.factory.control.keep_passes();
        world.factory.control.break_step(1, fault);
        let texts = ["aaaa", "bbbb", "cccc"];
        check(world.gateway.encode(embed(&texts)).await, &texts);
        assert_eq!(world.metric("candlewick_batcher_restarts_total{model_name=\"fake/a\"} "), 1.0);
        assert_eq!(world.factory.num_loads(), 1, "the weights were kept");
        let indices: Vec<_> = world.factory.control.passes().iter().map(|pass| pass[0].index).collect();
        assert_eq!(indices, [0, 1, 1, 2], "what was encoded is not encoded again");
        close(world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_poisonous_request_fails_alone() {
    let world = encoders(settings()).await;
    check(world.gateway.encode(embed(&["before"])).await, &["before"]);
    world.factory.control.poison(u32::from(b'~'), Fault::Panic);
    world.factory.control.step_gate.close();
    let poison = begin(&world, embed(&["fine", "~"]));
    let texts = ["a", "b", "c", "d"];
    let others: Vec<_> = texts.iter().map(|text| begin(&world, embed(&[text, text]))).collect();
    eventually("all are in flight", || world.gateway.num_in_flight() == 5).await;
    world.factory.control.step_gate.open();
    let failure = poison.await.expect("no panic").expect_err("it crashes whatever it is in");
    assert_eq!(failure.kind, ErrorKind::Internal);
    assert!(failure.message.contains("panicked") && failure.message.contains("same for all"), "{failure}");
    for (other, text) in others.into_iter().zip(texts) {
        check(other.await.expect("no panic"), &[text, text]);
    }
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_or_is_killed_is_replaced() {
    let world = encoders(TreeSettings { hang_timeout: Duration::from_millis(400), ..settings() }).await;
    let places = [
        (FailPlace::Stepper, FailAction::Hang),
        (FailPlace::Stepper, FailAction::Kill),
        (FailPlace::Batcher, FailAction::Hang),
        (FailPlace::Batcher, FailAction::Kill),
    ];
    for (number, (place, action)) in (1_u8..).zip(places) {
        check(world.gateway.encode(embed(&["calm"])).await, &["calm"]);
        world.failpoints.arm(FailRule::once(place, action));
        check(world.gateway.encode(embed(&["over it"])).await, &["over it"]);
        let restarts = world.metric("candlewick_batcher_restarts_total{model_name=\"fake/a\"} ");
        assert_eq!(restarts, f64::from(number), "{place} {action:?}");
        world.failpoints.disarm();
    }
    world.failpoints.arm(FailRule::once(FailPlace::Request, FailAction::Panic));
    let failure = world.gateway.encode(embed(&["lost"])).await.expect_err("its actor crashes");
    assert_eq!(failure.kind, ErrorKind::Internal);
    check(world.gateway.encode(embed(&["after"])).await, &["after"]);
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_and_a_time_that_passes_are_told() {
    let world = encoders(TreeSettings { load_failure_ttl: Duration::ZERO, ..settings() }).await;
    world.factory.break_next_load(Fault::Panic);
    let failure = world.gateway.encode(embed(&["x"])).await.expect_err("the load fails");
    assert!(failure.message.contains("told to panic"), "{failure}");

    world.factory.control.step_gate.close();
    let late = EncodeRequest { timeout: Some(Duration::from_millis(50)), ..embed(&["x", "y"]) };
    world.load("fake/a").await;
    let failure = world.gateway.encode(late).await.expect_err("its time passes");
    assert_eq!(failure.kind, ErrorKind::Timeout);
    assert!(failure.message.contains("0 of its 2 texts"), "{failure}");
    world.factory.control.step_gate.open();
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_model_says_what_it_can_do() {
    let world = encoders(settings()).await;
    let failure = world.answer(request("hi", 5)).await.failure();
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::Unsupported, Some("model")));
    assert!(failure.message.contains("/v1/embeddings"), "{failure}");
    check(world.gateway.encode(embed(&["hi"])).await, &["hi"]);
    let cards = world.gateway.list().await;
    assert_eq!(cards[0].max_model_len, Some(2048), "{cards:?}");
    close(world).await;

    let world = World::letters().await;
    let failure = world.gateway.encode(embed(&["hi"])).await.expect_err("it generates");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::Unsupported, Some("model")));
    assert!(failure.message.contains("/v1/chat/completions"), "{failure}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_is_refused_by_its_place_or_cut_where_asked() {
    let world = encoders(TreeSettings { max_model_len: Some(4), ..settings() }).await;
    let failure = world.gateway.encode(embed(&["fits", "does not"])).await.expect_err("too long");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::ContextOverflow, Some("input.1")));
    assert!(failure.message.contains("8 tokens") && failure.message.contains("at most 4"), "{failure}");
    for (num_tokens, side, cut) in
        [(None, TruncationSide::Right, "does"), (Some(3), TruncationSide::Left, "not")]
    {
        let truncation = Some(PromptTruncation { num_tokens, side });
        let request = EncodeRequest { truncation, ..embed(&["does not"]) };
        check(world.gateway.encode(request).await, &[cut]);
    }
    let failure = world.gateway.encode(embed(&[""])).await.expect_err("nothing to encode");
    assert_eq!((failure.kind, failure.param.as_deref()), (ErrorKind::InvalidRequest, Some("input.0")));

    let mut short = embed(&["ab"]);
    let EncodeWork::Embed { dimensions, .. } = &mut short.work else { unreachable!() };
    *dimensions = Some(FAKE_DIMENSIONS as u32 + 1);
    let failure = world.gateway.encode(short).await.expect_err("more than there are");
    assert_eq!(failure.param.as_deref(), Some("dimensions"));
    close(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_place_or_no_model_is_counted() {
    let failures =
        |kind: &str| format!("candlewick_request_failures_total{{kind=\"{kind}\",model_name=\"fake/a\"}} ");
    let world = encoders(TreeSettings { max_running: 1, max_queued: 0, ..settings() }).await;
    world.factory.control.step_gate.close();
    let first = begin(&world, embed(&["first"]));
    world.factory.control.step_gate.wait_held();
    let failure = world.gateway.encode(embed(&["second"])).await.expect_err("there is one place");
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert_eq!(world.metric(&failures("overloaded")), 1.0);
    world.factory.control.step_gate.open();
    check(first.await.expect("it is answered"), &["first"]);
    world.gateway.unload(&model("fake/a"), true).await.expect("it is there");

    eventually("its place is free", || world.gateway.num_in_flight() == 0).await;
    world.factory.break_next_load(Fault::Error);
    world.gateway.encode(embed(&["third"])).await.expect_err("the load fails");
    eventually("its place is free", || world.gateway.num_in_flight() == 0).await;
    world.gateway.encode(embed(&["fourth"])).await.expect_err("the failure is remembered");
    assert_eq!(world.metric(&failures("internal")), 2.0);
    close(world).await;
}
