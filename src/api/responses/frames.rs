//! A response in server-sent events: `event:` and `data:` for each, comments while nothing happens, no `[DONE]`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use actix_web_lab::sse::{Data, Event as Frame};
use candlewick_protocol::{Event, LoggedEvent};
use futures::stream::{self, Stream, StreamExt};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::tale::Tale;
use crate::sse::Idle;
use crate::to_wire::ResponseWriter;
use crate::wire::responses::NumberedEvent;

struct Teller {
    tale: Tale,
    writer: ResponseWriter,
    /// Events up to this number are not told again.
    after: Option<u64>,
    ready: VecDeque<Frame>,
    is_over: bool,
    idle: Idle,
    gone: CancellationToken,
}

/// The frames of a response. Events up to the number `after` are left out: their reader has them. Ends early, and drops
/// the tale, once `gone` is cancelled.
pub fn frames(
    tale: Tale,
    writer: ResponseWriter,
    after: Option<u64>,
    keep_alive: Duration,
    gone: CancellationToken,
) -> impl Stream<Item = Frame> {
    let (ready, idle) = (VecDeque::new(), Idle::new(keep_alive));
    let mut teller = Teller { tale, writer, after, ready, is_over: false, idle, gone };
    let opening = teller.writer.open();
    teller.send(opening);
    stream::unfold(teller, |mut teller| async move { teller.next().await.map(|frame| (frame, teller)) })
}

impl Teller {
    async fn next(&mut self) -> Option<Frame> {
        while self.ready.is_empty() {
            if self.is_over {
                return None;
            }
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return None,
                entry = self.tale.next() => self.hear(entry),
                () = self.idle.too_long() => self.ready.push_back(self.idle.comment()),
            }
        }
        self.idle.spoke();
        self.ready.pop_front()
    }

    fn hear(&mut self, entry: Option<LoggedEvent>) {
        let Some(entry) = entry else {
            self.is_over = true;
            return;
        };
        match &entry.event {
            Event::Loading { stage, progress } => self.ready.extend(self.idle.loading(*stage, *progress)),
            Event::Started(_) => self.idle.started(),
            _ => {}
        }
        // A panic must not cost the client its last word.
        match catch_unwind(AssertUnwindSafe(|| self.writer.take(&entry))) {
            Ok(events) => self.send(events),
            Err(_) => {
                tracing::error!("writing a response panicked");
                let last = self.writer.error("internal_error", "writing the answer failed");
                self.send(last);
            }
        }
        self.is_over = self.writer.is_over();
    }

    fn send(&mut self, events: Vec<NumberedEvent>) {
        let is_new = |event: &NumberedEvent| self.after.is_none_or(|after| event.sequence_number > after);
        self.ready.extend(events.iter().filter(|event| is_new(event)).map(frame));
    }
}

fn frame(event: &NumberedEvent) -> Frame {
    let json = serde_json::to_value(event).expect("an event is text, numbers and lists");
    let name = json.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    Data::new(json.to_string()).event(name).into()
}
