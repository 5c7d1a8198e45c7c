//! One continuation: its tokens, its text, and what of them was told.

use candlewick_engine::SampledToken;
use candlewick_engine::text::OutputStream;
use candlewick_protocol::{Delta, Event, Piece, TokenLogprob};

use super::GenerationArgs;

/// One continuation.
pub(super) struct Choice {
    pub(super) output: Vec<u32>,
    pub(super) stream: OutputStream,
    /// The sum of the log-probabilities of its tokens, where those are known.
    logprob: f64,
    /// Tokens and log-probabilities that no piece has carried yet.
    untold_ids: Vec<u32>,
    pub(super) untold_logprobs: Vec<TokenLogprob>,
    /// What is to be told once there are tokens enough (`stream_interval`).
    untold_deltas: Vec<Delta>,
    interval: usize,
    /// Tokens that have no text are told too.
    tells_all_ids: bool,
    is_begun: bool,
    pub(super) is_ended: bool,
}

impl Choice {
    pub(super) fn new(args: &GenerationArgs) -> Self {
        Self {
            output: Vec::new(),
            stream: OutputStream::new(args.processor.clone(), &args.prompt, &args.params),
            logprob: 0.0,
            untold_ids: Vec::new(),
            untold_logprobs: Vec::new(),
            untold_deltas: Vec::new(),
            interval: args.output.stream_interval as usize,
            tells_all_ids: args.output.token_ids,
            is_begun: false,
            is_ended: false,
        }
    }

    /// Takes the next token; its text is told by [`tell`](Self::tell).
    pub(super) fn take(&mut self, token: &SampledToken) {
        self.output.push(token.token_id);
        self.untold_ids.push(token.token_id);
        self.logprob += token.score.as_ref().map_or(0.0, |score| f64::from(score.logprob));
    }

    /// The mean log-probability of its tokens; of none, that of certainty.
    pub(super) fn mean_logprob(&self) -> f64 {
        if self.output.is_empty() { 0.0 } else { self.logprob / self.output.len() as f64 }
    }

    /// Turns deltas into pieces: the first at once, further ones each time that tokens enough have come, and all of it with
    /// the last. Tokens and log-probabilities go with the first piece; without any, they wait for the next, except that
    /// log-probabilities are never later than they must.
    pub(super) fn tell(&mut self, index: u32, deltas: Vec<Delta>, is_last: bool, events: &mut Vec<Event>) {
        for delta in deltas {
            self.hold(delta);
        }
        let is_due = is_last || !self.is_begun || self.untold_ids.len() >= self.interval;
        if !is_due {
            return;
        }
        let owes_ids = is_last && self.tells_all_ids && !self.untold_ids.is_empty();
        if self.untold_deltas.is_empty() && (owes_ids || !self.untold_logprobs.is_empty()) {
            self.untold_deltas.push(Delta::Text(String::new()));
        }
        self.is_begun |= !self.untold_deltas.is_empty();
        events.extend(self.untold_deltas.drain(..).map(|delta| {
            Event::Piece(Piece {
                choice: index,
                delta,
                logprobs: std::mem::take(&mut self.untold_logprobs),
                token_ids: std::mem::take(&mut self.untold_ids),
            })
        }));
    }

    /// Neighbours of one kind become one.
    fn hold(&mut self, delta: Delta) {
        if delta.is_empty() {
            return;
        }
        match (self.untold_deltas.last_mut(), &delta) {
            (Some(Delta::Text(held)), Delta::Text(new))
            | (Some(Delta::Reasoning(held)), Delta::Reasoning(new)) => held.push_str(new),
            (
                Some(Delta::ToolArguments { index: at, fragment: held }),
                Delta::ToolArguments { index, fragment },
            ) if at == index => held.push_str(fragment),
            _ => self.untold_deltas.push(delta),
        }
    }
}
