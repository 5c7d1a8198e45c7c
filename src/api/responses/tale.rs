//! What happens to one response, as a stream with a certain end: from a generation, or from the log of a job.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use candlewick_actors::{EventStream, Follower};
use candlewick_protocol::{Event, LoggedEvent, ResponseRecord, log_compactly};
use futures::stream::{self, Stream, StreamExt};

use crate::backend::Backend;
use crate::generation::{Generation, cut_off, merge};

/// Events until the last word, which always comes.
pub type Tale = Pin<Box<dyn Stream<Item = LoggedEvent>>>;

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a generation tells.
pub fn of_generation(generation: Generation) -> Tale {
    let entries = generation.map(|(_, event)| {
        let event = event.unwrap_or_else(|| Event::Failed(cut_off()));
        LoggedEvent { at: now(), event }
    });
    until_last(entries)
}

/// One source, merged.
pub fn generation(events: EventStream) -> Generation {
    merge(vec![events])
}

/// What a job tells, from its beginning.
pub fn of_follower(follower: Follower) -> Tale {
    let entries = stream::unfold(follower, |mut follower| async move {
        let entry = follower.next().await;
        // Without a last word the job has crashed.
        let entry = entry.unwrap_or_else(|| LoggedEvent { at: now(), event: Event::Failed(cut_off()) });
        Some((entry, follower))
    });
    until_last(entries)
}

/// What a log tells.
pub fn of_log(log: Vec<LoggedEvent>) -> Tale {
    until_last(stream::iter(log))
}

fn until_last(entries: impl Stream<Item = LoggedEvent> + 'static) -> Tale {
    let is_over = false;
    Box::pin(entries.scan(is_over, |is_over, entry| {
        let before = std::mem::replace(is_over, entry.is_last());
        std::future::ready((!before).then_some(entry))
    }))
}

/// The same tale, written down: when its last word is told, the response is on disk, so that a client who has read it can
/// name it in the next request. A response that cannot be kept is answered all the same, and the log says why.
pub fn kept(tale: Tale, record: ResponseRecord, backend: Arc<dyn Backend>) -> Tale {
    struct Keeper {
        tale: Tale,
        log: Vec<LoggedEvent>,
        record: Option<ResponseRecord>,
        backend: Arc<dyn Backend>,
    }
    let keeper = Keeper { tale, log: Vec::new(), record: Some(record), backend };
    Box::pin(stream::unfold(keeper, |mut keeper| async move {
        let entry = keeper.tale.next().await?;
        if let Some(kept) = LoggedEvent::of(entry.at, &entry.event) {
            log_compactly(&mut keeper.log, kept);
        }
        if entry.is_last()
            && let Some(record) = keeper.record.take()
        {
            let id = record.id.clone();
            let log = std::mem::take(&mut keeper.log);
            if let Err(failure) = keeper.backend.keep_response(record, log).await {
                tracing::error!(response = %id, "a response is answered and not kept: {failure}");
            }
        }
        Some((entry, keeper))
    }))
}
