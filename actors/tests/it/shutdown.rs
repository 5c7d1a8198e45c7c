//! The server stops: those in flight may finish, the rest get a last word, and nothing is left.

use std::time::Duration;

use candlewick_protocol::ErrorKind;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn in_the_grace_time_streams_finish() {
    let world = World::letters().await;
    let stream = world.submit(request("hi", 100)).await;
    let reader = tokio::spawn(read_all(1, stream));
    world.gateway.shutdown(Duration::from_secs(60)).await;
    assert_eq!(reader.await.expect("the reader does not panic").text(0).len(), 100);
    assert_eq!(world.gateway.num_actors(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_time_they_get_a_last_word() {
    let world = World::letters().await;
    let mut stream = world.submit(request("hi", 2000)).await;
    read_started(&mut stream).await;
    world.gateway.shutdown(Duration::ZERO).await;
    let mut last = None;
    while let Some(event) = next(&mut stream).await {
        last = Some(event);
    }
    assert!(
        matches!(&last, Some(candlewick_protocol::Event::Failed(failure)) if failure.kind == ErrorKind::Unavailable),
        "{last:?}"
    );
    assert_eq!((world.gateway.num_actors(), world.gateway.num_in_flight()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_admitted_while_it_stops() {
    let world = World::letters().await;
    world.factory.load_gate.close();
    let stream = world.submit(request("hi", 5)).await;
    let gateway = world.gateway.clone();
    let stopping = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(60)).await });
    let is_draining = || !at_once(world.gateway.status()).ready;
    eventually("the server is draining", is_draining).await;
    let failure = world.gateway.submit(request("late", 5)).await.err().expect("the door is closed");
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    let events = world.load("fake/b").await;
    assert!(matches!(
        events.as_slice(),
        [candlewick_protocol::LoadEvent::Failed { failure, .. }] if failure.kind == ErrorKind::Unavailable
    ));
    world.factory.load_gate.open();
    assert_eq!(read_all(1, stream).await.text(0).len(), 5);
    stopping.await.expect("shutdown does not panic");
    assert_eq!(world.gateway.num_actors(), 0);
}

/// `status` answers from memory: it is ready at the first poll.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    futures::FutureExt::now_or_never(future).expect("no actor is asked")
}
