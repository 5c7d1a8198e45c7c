//! `<think>` … `</think>` before an answer.
//!
//! Line ends after `<think>`, before `</think>` and after it belong to the markup and are dropped, streamed or not.
//! Reasoning that is never closed is reasoning to the end. The tags count only at the start of an output: a model that
//! explains them in its answer is not misread.

use super::partial_tag;

pub(super) const OPEN: &str = "<think>";
pub(super) const CLOSE: &str = "</think>";

/// A part of an output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Reasoning.
    Reasoning(String),
    /// The answer.
    Answer(String),
}

/// Tells reasoning from the answer.
pub(super) struct ReasoningParser {
    state: State,
    /// Text whose meaning is not certain yet.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but space so far, and perhaps a part of the opening tag.
    Start,
    /// After the opening tag, before anything else.
    Opened,
    /// Within reasoning.
    Inside,
    /// After the closing tag, before anything else.
    Closed,
    /// Within the answer.
    Answer,
}

impl ReasoningParser {
    pub(super) fn new(starts_inside: bool) -> Self {
        Self { state: if starts_inside { State::Opened } else { State::Start }, held: String::new() }
    }

    pub(super) fn is_inside(&self) -> bool {
        matches!(self.state, State::Opened | State::Inside)
    }

    /// Takes more text; what is certain now.
    pub(super) fn push(&mut self, text: &str) -> Vec<Segment> {
        self.held.push_str(text);
        let mut segments = Vec::new();
        loop {
            let before = self.state;
            segments.extend(self.step());
            if self.state == before {
                return segments;
            }
        }
    }

    /// There is no more text.
    pub(super) fn finish(&mut self) -> Option<Segment> {
        let rest = std::mem::take(&mut self.held);
        match (self.state, rest.is_empty()) {
            (_, true) => None,
            (State::Opened | State::Inside, _) => Some(Segment::Reasoning(rest)),
            _ => Some(Segment::Answer(rest)),
        }
    }

    /// Goes on by at most one state.
    fn step(&mut self) -> Option<Segment> {
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(OPEN) {
                    self.held = rest.to_owned();
                    self.state = State::Opened;
                } else if !OPEN.starts_with(text) {
                    self.state = State::Answer;
                }
                None
            }
            State::Opened => {
                self.skip_line_ends(State::Inside);
                None
            }
            State::Closed => {
                self.skip_line_ends(State::Answer);
                None
            }
            State::Inside => {
                let (end, next, state) = match self.held.find(CLOSE) {
                    Some(at) => (at, at + CLOSE.len(), State::Closed),
                    None => {
                        let end = self.held.len() - partial_tag(&self.held, CLOSE);
                        let end = self.held[..end].trim_end_matches('\n').len();
                        (end, end, State::Inside)
                    }
                };
                let reasoning = self.held[..end].to_owned();
                self.held.drain(..next);
                self.state = state;
                Some(Segment::Reasoning(if state == State::Closed {
                    reasoning.trim_end_matches('\n').into()
                } else {
                    reasoning
                }))
                .filter(|segment| *segment != Segment::Reasoning(String::new()))
            }
            State::Answer => {
                Some(std::mem::take(&mut self.held)).filter(|text| !text.is_empty()).map(Segment::Answer)
            }
        }
    }

    fn skip_line_ends(&mut self, next: State) {
        let num_line_ends = self.held.len() - self.held.trim_start_matches('\n').len();
        self.held.drain(..num_line_ends);
        if !self.held.is_empty() {
            self.state = next;
        }
    }
}
