//! A request that is not answered within its time is given up, wherever it is by then.

use std::time::Duration;

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{ErrorKind, Event, Failure, GenerationRequest};

use crate::support::*;

/// Passes soon, and not before what was submitted before it is where the test has it.
const SOON: Duration = Duration::from_millis(50);

fn hurried(prompt: &str, max_tokens: u32) -> GenerationRequest {
    GenerationRequest { timeout: Some(SOON), ..request(prompt, max_tokens) }
}

#[track_caller]
fn check_timeout(failure: &Failure, part: &str) {
    assert_eq!(failure.kind, ErrorKind::Timeout, "{failure}");
    assert!(
        failure.message.contains("timeout of 0.05 s passed") && failure.message.contains(part),
        "{failure}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_too_long_is_never_computed() {
    let world = World::new(FakeRule::default(), TreeSettings { max_running: 1, ..settings() }).await;
    world.factory.control.keep_plans();
    world.factory.control.step_gate.close();
    let first = world.submit(request("first", 5)).await;
    world.factory.control.step_gate.wait_held();
    let mut late = world.submit(hurried("late", 5)).await;
    assert_eq!(next(&mut late).await, Some(Event::Queued));
    let answer = read_all(1, late).await;
    check_timeout(&answer.failure(), "while it waited for a place in the batch: nothing of it was generated");
    world.factory.control.step_gate.open();
    assert_eq!(read_all(1, first).await.text(0).len(), 5);
    let requests: std::collections::BTreeSet<_> = world
        .factory
        .control
        .plans()
        .iter()
        .flat_map(|plan| plan.chunks.iter().map(|chunk| chunk.sequence.request))
        .collect();
    assert_eq!(requests.len(), 1, "only the first was ever in a step");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_work_is_ended_and_gives_back_what_it_holds() {
    let world = World::letters().await;
    world.load("fake/a").await;
    let mut endless = GenerationRequest { num_choices: 2, ..hurried("on and on", 500) };
    endless.sampling.ignore_eos = true;
    world.factory.control.step_gate.close();
    let stream = world.submit(endless).await;
    world.factory.control.step_gate.let_pass(3);
    let answer = read_all(2, stream).await;
    check_timeout(&answer.failure(), "tokens were generated");
    assert!(!answer.text(0).is_empty(), "what came in time was told");
    world.factory.control.step_gate.open();
    world.idle().await;
    assert_eq!(world.answer(request("another", 5)).await.text(0).len(), 5);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_not_waited_for_longer_and_goes_on() {
    let world = World::letters().await;
    world.factory.load_gate.close();
    let answer = world.answer(hurried("hi", 5)).await;
    check_timeout(&answer.failure(), "while its model was being loaded");
    world.factory.load_gate.open();
    assert_eq!(world.answer(request("hi", 5)).await.text(0).len(), 5);
    assert_eq!(world.factory.num_loads(), 1, "nobody began it anew");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_set_a_time_and_the_shorter_one_holds() {
    let world =
        World::new(FakeRule::default(), TreeSettings { request_timeout: Some(SOON), ..settings() }).await;
    world.factory.load_gate.close();
    for own in [None, Some(Duration::from_secs(3600))] {
        let answer = world.answer(GenerationRequest { timeout: own, ..request("hi", 5) }).await;
        check_timeout(&answer.failure(), "while its model was being loaded");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_survives_a_crash() {
    let world = World::letters().await;
    world.load("fake/a").await;
    world.factory.control.break_next_step(candlewick_engine::fake::Fault::Panic);
    world.factory.control.step_gate.close();
    let mut timed = request("hi", 500);
    timed.timeout = Some(Duration::from_millis(500));
    let stream = world.submit(timed).await;
    world.factory.control.step_gate.wait_held();
    // The step that is held breaks; its successor in the next batcher is held again.
    world.factory.control.step_gate.let_pass(1);
    eventually("a step was begun anew", || world.factory.control.num_steps() == 2).await;
    let failure = read_all(1, stream).await.failure();
    assert_eq!(failure.kind, ErrorKind::Timeout, "{failure}");
    world.factory.control.step_gate.open();
    world.close().await;
}
