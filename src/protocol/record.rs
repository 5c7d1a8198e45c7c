//! A response as it is kept: what was asked, and the log of what happened.
//!
//! The log is made of [`Event`]s and not of what they looked like on the wire: whoever wrote the answer once can write
//! it again from the log, whole or as the same stream. What `api` has to know for that stands in `head` and `input`,
//! which nobody else reads.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Delta, Event, Piece, Started, TokenLogprob};

/// Stands for minus infinity and for what is no number: JSON has neither, and a log must be readable again.
const LOGPROB_MIN: f32 = -9999.0;

/// What is known of a response when it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseRecord {
    /// Unique.
    pub id: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// It goes on without its client.
    pub background: bool,
    /// The response that it goes on from.
    pub previous: Option<String>,
    /// What `api` must know to write the answer.
    pub head: Value,
    /// What was new in its input, item by item, as `api` wrote it.
    pub input: Vec<Value>,
}

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// Seconds since 1970.
    pub at: u64,
    /// What happened.
    pub event: Event,
}

impl LoggedEvent {
    /// An event as a log keeps it: without token ids, which no answer shows again. `None` for what is news only while it
    /// is new: a place in a queue, the progress of a load.
    pub fn of(at: u64, event: &Event) -> Option<Self> {
        let event = match event {
            Event::Queued | Event::Loading { .. } => return None,
            Event::Started(started) => Event::Started(Started {
                model: started.model.clone(),
                prompt_token_ids: Vec::new(),
                prompt_logprobs: None,
                prompt_text: None,
            }),
            Event::Piece(piece) => Event::Piece(Piece {
                choice: piece.choice,
                delta: piece.delta.clone(),
                logprobs: piece.logprobs.iter().cloned().map(finite).collect(),
                token_ids: Vec::new(),
            }),
            Event::Ended { .. } | Event::Finished(_) | Event::Failed(_) => event.clone(),
        };
        Some(Self { at, event })
    }

    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        matches!(self.event, Event::Finished(_) | Event::Failed(_))
    }
}

fn finite(mut token: TokenLogprob) -> TokenLogprob {
    let finite = |logprob: f32| if logprob >= LOGPROB_MIN { logprob } else { LOGPROB_MIN };
    token.logprob = token.logprob.map(finite);
    token.top.iter_mut().for_each(|top| top.logprob = finite(top.logprob));
    token
}

/// Adds an event to a log from which only the whole answer will be told: neighbouring pieces become one, so that it has
/// as many entries as the answer has parts and not as it had tokens.
pub fn log_compactly(log: &mut Vec<LoggedEvent>, entry: LoggedEvent) {
    if let (Some(LoggedEvent { event: Event::Piece(last), .. }), Event::Piece(next)) =
        (log.last_mut(), &entry.event)
        && last.choice == next.choice
        && extend(&mut last.delta, &next.delta)
    {
        last.logprobs.extend(next.logprobs.iter().cloned());
        return;
    }
    log.push(entry);
}

/// Whether `more` was of the same kind, and now is part of `delta`.
fn extend(delta: &mut Delta, more: &Delta) -> bool {
    match (delta, more) {
        (Delta::Text(text), Delta::Text(more)) | (Delta::Reasoning(text), Delta::Reasoning(more)) => {
            text.push_str(more);
        }
        (Delta::ToolArguments { index, fragment }, Delta::ToolArguments { index: same, fragment: more })
            if index == same =>
        {
            fragment.push_str(more)
        }
        _ => return false,
    }
    true
}

/// A response as it was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredResponse {
    /// What was known when it began.
    pub record: ResponseRecord,
    /// What happened, so far.
    pub log: Vec<LoggedEvent>,
}

impl StoredResponse {
    /// Whether it has had its last word.
    pub fn is_over(&self) -> bool {
        self.log.last().is_some_and(LoggedEvent::is_last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FinishReason, Finished, TopLogprob, Usage};

    fn piece(delta: Delta) -> Event {
        Event::Piece(Piece { choice: 0, delta, logprobs: Vec::new(), token_ids: vec![1] })
    }

    #[test]
    fn a_compact_log_has_one_entry_for_each_part() {
        let arguments = |fragment: &str| Delta::ToolArguments { index: 0, fragment: fragment.into() };
        let call = Delta::ToolCall { index: 0, id: "call_1".into(), name: "f".into() };
        let events = [
            Event::Queued,
            piece(Delta::Reasoning("a".into())),
            piece(Delta::Reasoning("b".into())),
            piece(Delta::Text("c".into())),
            piece(Delta::Text("d".into())),
            piece(call.clone()),
            piece(arguments("{")),
            piece(arguments("}")),
            Event::Ended { choice: 0, reason: FinishReason::ToolCalls, stop: None },
            Event::Finished(Finished { usage: Usage::default() }),
        ];
        let mut log = Vec::new();
        for event in &events {
            LoggedEvent::of(7, event).into_iter().for_each(|entry| log_compactly(&mut log, entry));
        }
        let deltas = log.iter().filter_map(|entry| match &entry.event {
            Event::Piece(piece) => Some(piece.delta.clone()),
            _ => None,
        });
        let expected = [Delta::Reasoning("ab".into()), Delta::Text("cd".into()), call, arguments("{}")];
        assert_eq!(deltas.collect::<Vec<_>>(), expected);
        assert_eq!(log.len(), 6);
        assert!(log[5].is_last());
    }

    #[test]
    fn a_log_can_be_read_again_whatever_the_log_probabilities_are() {
        let top = TopLogprob { token_id: 2, text: "b".into(), bytes: vec![98], logprob: f32::NAN };
        let token = TokenLogprob {
            token_id: 1,
            text: "a".into(),
            bytes: vec![97],
            logprob: Some(f32::NEG_INFINITY),
            rank: None,
            top: vec![top],
        };
        let event = Event::Piece(Piece {
            choice: 0,
            delta: Delta::Text("a".into()),
            logprobs: vec![token],
            token_ids: vec![1],
        });
        let entry = LoggedEvent::of(1, &event).expect("pieces are kept");
        let text = serde_json::to_string(&entry).expect("it can be written");
        assert_eq!(serde_json::from_str::<LoggedEvent>(&text).expect("and read"), entry);
    }
}
