//! A client that leaves is cancelled wherever its request is.

use candlewick_actors::TreeSettings;
use candlewick_engine::fake::FakeRule;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn while_its_model_loads() {
    let world = World::letters().await;
    world.factory.load_gate.close();
    let stream = world.submit(request("hi", 5)).await;
    world.factory.load_gate.wait_held();
    drop(stream);
    eventually("the request is gone", || world.gateway.num_in_flight() == 0).await;
    world.factory.load_gate.open();
    eventually("the load goes on", || world.metric("candlewick_models_loaded ") == 1.0).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_waits_for_a_place() {
    let world = World::new(FakeRule::default(), TreeSettings { max_running: 1, ..settings() }).await;
    world.factory.control.step_gate.close();
    let running = world.submit(request("one", 5)).await;
    world.factory.control.step_gate.wait_held();
    let mut queued = world.submit(request("two", 5)).await;
    next(&mut queued).await.expect("it is told that it waits");
    drop(queued);
    eventually("the queued request is gone", || world.gateway.num_in_flight() == 1).await;
    world.factory.control.step_gate.open();
    assert_eq!(read_all(1, running).await.text(0).len(), 5);
    assert_eq!(world.factory.control.num_steps(), 5, "nothing was computed for who had left");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_step_with_it_is_in_flight() {
    let world = World::letters().await;
    world.factory.control.step_gate.close();
    world.factory.control.step_gate.let_pass(3);
    let mut stream = world.submit(request("hi", 1000)).await;
    read_started(&mut stream).await;
    eventually("a step is held", || world.factory.control.num_steps() == 4).await;
    drop(stream);
    eventually("the request is gone before the step is", || world.gateway.num_in_flight() == 0).await;
    world.factory.control.step_gate.open();
    world.idle().await;
    // Word of it may reach the batcher just after the step has.
    assert!(world.factory.control.num_steps() <= 5, "it was cancelled within a step");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_reader_is_slow() {
    let world = World::letters().await;
    let mut stream = world.submit(request("hi", 1000)).await;
    read_started(&mut stream).await;
    // Another runs past it: the first is paused by then.
    world.answer(request("other", 200)).await;
    drop(stream);
    world.idle().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_at_once_and_a_third_of_them_leave() {
    let world = World::letters().await;
    let length = |index: usize| 10 + (index as u32 * 7) % 60;
    let mut solo = Vec::new();
    for index in 0..64 {
        solo.push(world.answer(request(&format!("prompt {index}"), length(index))).await.text(0));
    }
    let mut clients = Vec::new();
    for index in 0..64 {
        let mut stream = world.submit(request(&format!("prompt {index}"), length(index))).await;
        clients.push(tokio::spawn(async move {
            if index % 3 == 0 {
                read_started(&mut stream).await;
                return None;
            }
            Some(read_all(1, stream).await.text(0))
        }));
    }
    for (index, client) in clients.into_iter().enumerate() {
        if let Some(text) = client.await.expect("no client panics") {
            assert_eq!(text, solo[index], "survivor {index} was not disturbed");
        }
    }
    world.idle().await;
    // Root, registry, supervisor, batcher, and the stepper's thread.
    eventually("no request's actor is left", || world.gateway.num_actors() == 5).await;
    world.close().await;
}
