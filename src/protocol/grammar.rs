//! The grammar of [`Event`], as a checker: it reads a stream as it passes and says where it goes wrong.
//!
//! Used by tests of every room that makes or reads streams, and by debug assertions; it keeps no events.

use crate::{Delta, Event};

/// Follows one stream of events and finds the first that may not stand where it stands.
#[derive(Debug, Clone)]
pub struct EventGrammar {
    phase: Phase,
    choices: Vec<Choice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Generating,
    Over,
}

#[derive(Debug, Clone, Default)]
struct Choice {
    ended: bool,
    num_tool_calls: u32,
}

impl EventGrammar {
    /// For a request with so many choices.
    pub fn new(num_choices: u32) -> Self {
        Self { phase: Phase::Waiting, choices: vec![Choice::default(); num_choices as usize] }
    }

    /// Takes the next event; the text says what is wrong with it.
    pub fn check(&mut self, event: &Event) -> Result<(), String> {
        match (self.phase, event) {
            (Phase::Over, _) => Err(format!("{event:?} came after the last word")),
            (_, Event::Failed(_)) => {
                self.phase = Phase::Over;
                Ok(())
            }
            (Phase::Waiting, Event::Queued | Event::Loading { .. }) => Ok(()),
            (Phase::Waiting, Event::Started(_)) => {
                self.phase = Phase::Generating;
                Ok(())
            }
            (Phase::Waiting, _) => Err(format!("{event:?} came before `Started`")),
            (Phase::Generating, Event::Queued | Event::Loading { .. } | Event::Started(_)) => {
                Err(format!("{event:?} came after `Started`"))
            }
            (Phase::Generating, Event::Piece(piece)) => {
                if piece.delta.is_empty() && piece.logprobs.is_empty() && piece.token_ids.is_empty() {
                    return Err(format!("{event:?} adds nothing"));
                }
                self.open_choice(piece.choice)?.take(&piece.delta)
            }
            (Phase::Generating, Event::Ended { choice, .. }) => {
                self.open_choice(*choice)?.ended = true;
                Ok(())
            }
            (Phase::Generating, Event::Finished(_)) => {
                if let Some(open) = self.choices.iter().position(|choice| !choice.ended) {
                    return Err(format!("`Finished` came while choice {open} had not ended"));
                }
                self.phase = Phase::Over;
                Ok(())
            }
        }
    }

    /// The stream is closed: was its last event a last word?
    pub fn close(&self) -> Result<(), String> {
        match self.phase {
            Phase::Over => Ok(()),
            Phase::Waiting | Phase::Generating => {
                Err("the stream closed without `Finished` or `Failed`".into())
            }
        }
    }

    /// Checks a whole stream that is closed.
    pub fn check_all<'a>(
        num_choices: u32,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> Result<(), String> {
        let mut grammar = Self::new(num_choices);
        for event in events {
            grammar.check(event)?;
        }
        grammar.close()
    }

    fn open_choice(&mut self, choice: u32) -> Result<&mut Choice, String> {
        let num_choices = self.choices.len();
        let state = self.choices.get_mut(choice as usize);
        let state = state.ok_or_else(|| format!("choice {choice} of {num_choices} does not exist"))?;
        if state.ended { Err(format!("choice {choice} went on after its end")) } else { Ok(state) }
    }
}

impl Choice {
    /// Calls are numbered from zero without gaps, and arguments belong to a call that was opened.
    fn take(&mut self, delta: &Delta) -> Result<(), String> {
        match delta {
            Delta::Text(_) | Delta::Reasoning(_) => Ok(()),
            Delta::ToolCall { index, .. } if *index == self.num_tool_calls => {
                self.num_tool_calls += 1;
                Ok(())
            }
            Delta::ToolCall { index, .. } => {
                Err(format!("tool call {index} came where call {} was due", self.num_tool_calls))
            }
            Delta::ToolArguments { index, .. } if *index < self.num_tool_calls => Ok(()),
            Delta::ToolArguments { index, .. } => {
                Err(format!("arguments came for tool call {index}, which is not open"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Failure, FinishReason, Finished, Piece, Started, Usage};

    fn started() -> Event {
        Event::Started(Started {
            model: "org/m@main".into(),
            prompt_token_ids: vec![1],
            prompt_logprobs: None,
            prompt_text: None,
        })
    }

    fn piece(choice: u32, text: &str) -> Event {
        Event::Piece(Piece { choice, delta: Delta::Text(text.into()), logprobs: vec![], token_ids: vec![7] })
    }

    fn ended(choice: u32) -> Event {
        Event::Ended { choice, reason: FinishReason::Stop, stop: None }
    }

    fn finished() -> Event {
        Event::Finished(Finished { usage: Usage::default() })
    }

    fn failed() -> Event {
        Event::Failed(Failure::new(ErrorKind::Internal, "it broke"))
    }

    #[track_caller]
    fn check(num_choices: u32, events: &[Event], expected: Result<(), &str>) {
        let found = EventGrammar::check_all(num_choices, events);
        match expected {
            Ok(()) => assert_eq!(found, Ok(())),
            Err(text) => assert!(found.as_ref().is_err_and(|why| why.contains(text)), "{found:?}"),
        }
    }

    #[test]
    fn whole_streams_pass() {
        let whole = [Event::Queued, started(), piece(1, "a"), ended(1), piece(0, "b"), ended(0), finished()];
        check(2, &whole, Ok(()));
        check(1, &[failed()], Ok(()));
        check(1, &[started(), piece(0, "a"), failed()], Ok(()));
    }

    #[test]
    fn broken_streams_are_found_out() {
        check(1, &[started(), piece(0, "a")], Err("closed without"));
        check(1, &[piece(0, "a")], Err("before `Started`"));
        check(1, &[started(), Event::Queued], Err("after `Started`"));
        check(1, &[started(), ended(0), piece(0, "a")], Err("after its end"));
        check(1, &[started(), ended(0), ended(0)], Err("after its end"));
        check(2, &[started(), ended(0), finished()], Err("choice 1 had not ended"));
        let nothing =
            Piece { choice: 0, delta: Delta::Text(String::new()), logprobs: vec![], token_ids: vec![] };
        check(1, &[started(), Event::Piece(nothing)], Err("adds nothing"));
        check(1, &[started(), piece(3, "a")], Err("does not exist"));
        check(1, &[started(), ended(0), finished(), failed()], Err("after the last word"));
    }
}
