//! The generations behind one answer, as one stream of events.
//!
//! A chat has one source; completions have one for each prompt. Dropping the stream cancels all of them.

use std::pin::Pin;
use std::time::Duration;

use candlewick_actors::EventStream;
use candlewick_protocol::{ErrorKind, Event, Failure, LoadStage};
use futures::stream::{self, Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

/// News of one source: its number and the event, or `None` if its channel closed.
pub type News = (usize, Option<Event>);

/// The merged events of all sources, each in its own order.
pub type Generation = Pin<Box<dyn Stream<Item = News>>>;

/// Merges the events of sources.
pub fn merge(sources: Vec<EventStream>) -> Generation {
    let sources = sources.into_iter().enumerate().map(|(source, events)| {
        let events = stream::unfold(Some(events.events), move |events| async move {
            let mut events = events?;
            let event = events.recv().await;
            let rest = event.is_some().then_some(events);
            Some(((source, event), rest))
        });
        events.boxed_local()
    });
    Box::pin(stream::select_all(sources))
}

/// What a client is told of a source that ended without a last word.
pub fn cut_off() -> Failure {
    Failure::new(
        ErrorKind::Internal,
        "the generation ended without a last word; sending the request again may help",
    )
}

/// Waits a moment for the first real word of each of `num_sources`, so that a failure that is known early becomes an HTTP
/// status instead of an error inside a stream.
///
/// Waits no longer than `patience`, and not at all once a load is past looking the model up: such a load takes long and
/// the client wants its headers. Returns the generation with what was heard put back in front.
pub async fn first_word(
    mut generation: Generation,
    num_sources: usize,
    patience: Duration,
) -> Result<Generation, Failure> {
    let deadline = Instant::now() + patience;
    let mut heard: Vec<News> = Vec::new();
    let mut num_started = 0;
    while num_started < num_sources {
        let Ok(news) = timeout_at(deadline, generation.next()).await else { break };
        let Some((source, event)) = news else { break };
        let mut is_loading = false;
        match &event {
            None => return Err(cut_off()),
            Some(Event::Failed(failure)) => return Err(failure.clone()),
            Some(Event::Queued) => {}
            Some(Event::Loading { stage, .. }) => is_loading = *stage > LoadStage::Config,
            Some(Event::Started(_)) => num_started += 1,
            // A source that has started may run ahead of one that has not; what it says is kept. Its channel is
            // bounded, and so is the time.
            Some(_) => {}
        }
        heard.push((source, event));
        if is_loading {
            break;
        }
    }
    Ok(Box::pin(stream::iter(heard).chain(generation)))
}
