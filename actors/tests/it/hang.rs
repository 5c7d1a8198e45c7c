//! What hangs is given up, and everybody else goes on: steps, batchers, requests, prompts, loads.

use std::time::Duration;

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{ErrorKind, FailAction, FailPlace, FailRule, GenerationRequest, LoadEvent};

use crate::support::*;

/// Short for a server, and far more than a fake step takes.
const HANG_TIMEOUT: Duration = Duration::from_millis(400);

async fn impatient() -> World {
    let settings =
        TreeSettings { hang_timeout: HANG_TIMEOUT, load_stall_timeout: HANG_TIMEOUT, ..settings() };
    World::new(FakeRule::default(), settings).await
}

fn fail(place: FailPlace, action: FailAction, skip: u64) -> FailRule {
    FailRule { skip, ..FailRule::once(place, action) }
}

/// Sampled, scored, two choices: all that a lost step could disturb.
fn demanding() -> GenerationRequest {
    let mut request = request("the same prompt", 30);
    request.num_choices = 2;
    request.sampling.temperature = Some(0.9);
    request.sampling.seed = Some(11);
    request.output.logprobs = Some(1);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_hangs_is_done_again_and_what_it_still_brings_is_dropped() {
    let world = impatient().await;
    let undisturbed = world.answer(demanding()).await.substance();
    for skip in [0, 9] {
        world.failpoints.arm(fail(FailPlace::Stepper, FailAction::Hang, skip));
        assert_eq!(world.answer(demanding()).await.substance(), undisturbed);
        assert_eq!(world.metric("candlewick_threads_lost{model_name=\"fake/a\"} "), 1.0);
        world.failpoints.disarm();
        eventually("the thread that was lost has ended", || {
            world.metric("candlewick_threads_lost{model_name=\"fake/a\"} ") == 0.0
        })
        .await;
        assert_eq!(world.answer(demanding()).await.substance(), undisturbed);
    }
    assert_eq!(world.metric("candlewick_batchers_hung_total{model_name=\"fake/a\"} "), 2.0);
    assert_eq!(world.factory.num_loads(), 1, "the weights were kept");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batcher_or_thread_that_hangs_or_is_killed_is_replaced() {
    let world = impatient().await;
    let undisturbed = world.answer(demanding()).await.substance();
    let places = [
        (FailPlace::Batcher, FailAction::Hang),
        (FailPlace::Batcher, FailAction::Kill),
        (FailPlace::Stepper, FailAction::Kill),
    ];
    for (number, (place, action)) in (1_u8..).zip(places) {
        world.failpoints.arm(fail(place, action, 7));
        assert_eq!(world.answer(demanding()).await.substance(), undisturbed, "{place} {action:?}");
        let restarts = world.metric("candlewick_batcher_restarts_total{model_name=\"fake/a\"} ");
        assert_eq!(restarts, f64::from(number), "{place} {action:?}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waits_at_another_model_notices_nothing() {
    let world = impatient().await;
    let mut other = demanding();
    other.model = Some(model("fake/b"));
    let undisturbed = world.answer(other.clone()).await.substance();
    let rule = FailRule { model: Some("fake/a".into()), ..fail(FailPlace::Stepper, FailAction::Hang, 0) };
    world.failpoints.arm(rule);
    let hung = world.submit(demanding()).await;
    eventually("the step hangs", || world.failpoints.num_struck() == 1).await;
    assert_eq!(world.answer(other).await.substance(), undisturbed);
    assert_eq!(world.metric("candlewick_batcher_restarts_total{model_name=\"fake/b\"} "), 0.0);
    read_all(2, hung).await.usage();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_told_so_and_alone() {
    let world = impatient().await;
    let undisturbed = world.answer(demanding()).await.substance();
    for place in [FailPlace::Request, FailPlace::Tokenizer] {
        let before = world.failpoints.num_struck();
        world.failpoints.arm(fail(place, FailAction::Hang, 0));
        let stream = world.submit(demanding()).await;
        eventually("it hangs", || world.failpoints.num_struck() > before).await;
        assert_eq!(world.answer(demanding()).await.substance(), undisturbed);
        let failure = read_all(2, stream).await.failure();
        assert_eq!(failure.kind, ErrorKind::Internal);
        assert!(failure.message.contains("request same for all"), "{failure}");
        world.failpoints.disarm();
    }
    assert_eq!(world.metric("candlewick_batcher_restarts_total{model_name=\"fake/a\"} "), 0.0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_stands_still_is_given_up() {
    let world = impatient().await;
    world.failpoints.arm(fail(FailPlace::Loader, FailAction::Hang, 0));
    let waiting = world.submit(request("hi", 5)).await;
    let events = world.load("fake/a").await;
    let Some(LoadEvent::Failed { failure, .. }) = events.last() else { panic!("{events:?}") };
    assert!(failure.message.contains("not come any further"), "{failure}");
    assert_eq!(read_all(1, waiting).await.failure().kind, failure.kind);
    assert!(matches!(world.load("fake/a").await.last(), Some(LoadEvent::Ready { .. })));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_which_every_step_hangs_is_given_up() {
    let settings = TreeSettings { max_restarts: 1, restart_window: Duration::from_millis(1), ..settings() };
    let world =
        World::new(FakeRule::default(), TreeSettings { hang_timeout: HANG_TIMEOUT / 4, ..settings }).await;
    world.failpoints.arm(FailRule { times: 9, ..fail(FailPlace::Stepper, FailAction::Hang, 0) });
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(world.submit(request("hi", 5)).await);
    }
    for stream in streams {
        let failure = read_all(1, stream).await.failure();
        assert_eq!(failure.kind, ErrorKind::Unavailable);
        assert!(failure.message.contains("hangs"), "{failure}");
    }
    world.close().await;
}
