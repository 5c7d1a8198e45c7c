//! A batcher that crashes: streams go on, the guilty request fails alone, and a model that keeps crashing is given up.

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::{FakeRule, Fault};
use candlewick_protocol::{ErrorKind, GenerationRequest, LoadEvent, ModelStatus};

use crate::support::*;

/// Sampled, scored, two choices: all that a crash could disturb.
fn demanding() -> GenerationRequest {
    let mut request = request("the same prompt", 40);
    request.num_choices = 2;
    request.sampling.temperature = Some(0.9);
    request.sampling.repetition_penalty = Some(1.2);
    request.sampling.seed = Some(11);
    request.output.logprobs = Some(1);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_a_crash_is_the_stream_without_one() {
    let calm = World::letters().await;
    let undisturbed = calm.answer(demanding()).await;
    calm.close().await;

    for fault in [Fault::Panic, Fault::Error] {
        let world = World::letters().await;
        // Early and late, and apart enough that steps between them succeed.
        for step in [1, 17] {
            world.factory.control.break_step(step, fault);
        }
        let answer = world.answer(demanding()).await;
        assert_eq!(answer.substance(), undisturbed.substance());
        assert_eq!(world.metric("candlewick_batcher_restarts_total{model_name=\"fake/a\"} "), 2.0);
        assert_eq!(world.factory.num_loads(), 1, "the weights were kept");
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_of_a_batch_goes_on() {
    let world = World::letters().await;
    let prompts = (0..6).map(|index| format!("prompt {index}")).collect::<Vec<_>>();
    let mut solo = Vec::new();
    for prompt in &prompts {
        solo.push(world.answer(request(prompt, 50)).await.substance());
    }
    world.factory.control.step_gate.close();
    let mut streams = Vec::new();
    for prompt in &prompts {
        streams.push(world.submit(request(prompt, 50)).await);
    }
    let begun = world.factory.control.num_steps();
    for step in [begun + 10, begun + 30] {
        world.factory.control.break_step(step, Fault::Panic);
    }
    world.factory.control.step_gate.open();
    let readers = streams.into_iter().map(|stream| tokio::spawn(read_all(1, stream)));
    for (reader, solo) in readers.collect::<Vec<_>>().into_iter().zip(solo) {
        assert_eq!(reader.await.expect("no reader panics").substance(), solo);
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_poisonous_request_fails_alone() {
    let world = World::letters().await;
    let prompts = (0..5).map(|index| format!("harmless {index}")).collect::<Vec<_>>();
    let mut solo = Vec::new();
    for prompt in &prompts {
        solo.push(world.answer(request(prompt, 30)).await.substance());
    }
    world.factory.control.poison(u32::from(b'~'), Fault::Panic);
    world.factory.control.step_gate.close();
    let mut streams = Vec::new();
    for prompt in &prompts {
        streams.push(world.submit(request(prompt, 30)).await);
    }
    let poison = world.submit(request("~", 30)).await;
    world.factory.control.step_gate.open();
    let readers = streams.into_iter().map(|stream| tokio::spawn(read_all(1, stream))).collect::<Vec<_>>();
    let failure = read_all(1, poison).await.failure();
    assert_eq!(failure.kind, ErrorKind::Internal);
    assert!(failure.message.contains("panicked"), "{failure}");
    for (reader, solo) in readers.into_iter().zip(solo) {
        assert_eq!(reader.await.expect("no reader panics").substance(), solo);
    }
    assert_eq!(world.answer(request("after", 5)).await.text(0).len(), 5);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_keeps_crashing_is_given_up_and_others_go_on() {
    let world = World::new(FakeRule::default(), TreeSettings { max_restarts: 0, ..settings() }).await;
    let mut other = request("other", 5);
    other.model = Some(model("fake/b"));
    assert_eq!(world.answer(other.clone()).await.text(0).len(), 5);

    world.factory.control.break_next_step(Fault::Panic);
    let failure = world.answer(request("hi", 5)).await.failure();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    assert!(failure.retry_after.is_some() && failure.message.contains("told to panic"), "{failure}");
    let status = world.gateway.status().await;
    assert!(status.models.contains(&("fake/a@main".into(), ModelStatus::Failed)), "{status:?}");
    let again = world.answer(request("hi", 5)).await.failure();
    assert_eq!((again.kind, &again.message), (failure.kind, &failure.message), "told at once");
    assert!(again.retry_after < failure.retry_after, "there is less to wait for");
    assert_eq!(world.answer(other).await.text(0).len(), 5);

    let events = world.load("fake/a").await;
    assert!(matches!(events.last(), Some(LoadEvent::Ready { cached: false, .. })), "{events:?}");
    assert_eq!(world.answer(request("hi", 5)).await.text(0).len(), 5);
    world.close().await;
}
