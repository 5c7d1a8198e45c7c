//! The streams that `docs/events.md` shows are recorded, not imagined: this test makes them and compares.

use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{Delta, Event};

use crate::support::*;

/// One line for an event, as the page shows it.
fn line(event: &Event) -> String {
    match event {
        Event::Queued => "Queued".into(),
        Event::Loading { stage, progress: None } => format!("Loading {stage:?}"),
        Event::Loading { stage, progress: Some(progress) } => {
            format!("Loading {stage:?} {} of {:?} {:?}", progress.current, progress.total, progress.unit)
        }
        Event::Started(started) => format!("Started {} prompt {:?}", started.model, started.prompt_token_ids),
        Event::Piece(piece) => match &piece.delta {
            Delta::Text(text) => {
                format!("Piece choice {} {text:?} tokens {:?}", piece.choice, piece.token_ids)
            }
            other => format!("Piece choice {} {other:?}", piece.choice),
        },
        Event::Ended { choice, reason, stop } => format!("Ended choice {choice} {reason:?} {stop:?}"),
        Event::Finished(finished) => {
            format!(
                "Finished prompt {} completion {}",
                finished.usage.prompt_tokens, finished.usage.completion_tokens
            )
        }
        Event::Failed(failure) => format!("Failed {:?} {failure}", failure.kind),
    }
}

#[track_caller]
fn check(answer: &Answer) {
    let recorded = answer.events.iter().map(line).collect::<Vec<_>>().join("\n");
    let page = include_str!("../../../docs/events.md");
    assert!(page.contains(&recorded), "docs/events.md does not show this stream:\n{recorded}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_on_a_cold_model_that_ends_by_a_stop_string() {
    let world = World::new(FakeRule::says("né STOP more"), settings()).await;
    let mut with_stop = request("hi", 20);
    with_stop.sampling.stop = vec!["STOP".into()];
    check(&world.answer(with_stop).await);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_on_a_model_that_is_not_there() {
    let world = World::letters().await;
    let mut unknown = request("hi", 20);
    unknown.model = Some(model("fake/none"));
    check(&world.answer(unknown).await);
    world.close().await;
}
