//! Events → whole answers, for requests that do not stream.

use candlewick_protocol::{
    Delta, Event, Failure, FinishReason, Piece, Started, StopCause, TokenLogprob, TopLogprob, Usage,
};
use futures::StreamExt;

use crate::generation::{Generation, cut_off};

/// All that one source said.
#[derive(Debug)]
pub struct Collected {
    /// What was known at the start.
    pub started: Started,
    /// The choices, by index.
    pub choices: Vec<CollectedChoice>,
    /// Token counts.
    pub usage: Usage,
}

/// All that was said in one choice.
#[derive(Debug)]
pub struct CollectedChoice {
    /// From zero.
    pub index: u32,
    /// The answer.
    pub text: String,
    /// The reasoning.
    pub reasoning: String,
    /// The tool calls, in order.
    pub calls: Vec<CollectedCall>,
    /// The tokens with log-probabilities, if those were asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// The tokens.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What ended it.
    pub stop: Option<StopCause>,
}

/// A tool call with all its arguments.
#[derive(Debug)]
pub struct CollectedCall {
    /// Unique id.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// One source while it speaks.
struct Listener {
    keep: Keep,
    started: Option<Started>,
    choices: Vec<CollectedChoice>,
    num_ended: usize,
    usage: Option<Usage>,
}

/// What to keep of what is said.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Choices of each source.
    pub num_choices: u32,
    /// Tokens with log-probabilities.
    pub logprobs: bool,
    /// Reasoning, its tokens too; a stream leaves out the same.
    pub reasoning: bool,
}

/// Listens to all sources until each has had its last word. The first failure is the failure of all; one of them may be that
/// what was said has come to more bytes than `may_keep` allows.
pub async fn collect(
    mut generation: Generation,
    num_sources: usize,
    keep: Keep,
    may_keep: impl Fn(u64) -> Result<(), Failure>,
) -> Result<Vec<Collected>, Failure> {
    let mut num_bytes = 0;
    let mut listeners: Vec<Listener> = (0..num_sources).map(|_| Listener::new(keep)).collect();
    let mut num_open = num_sources;
    while num_open > 0 {
        let Some((source, event)) = generation.next().await else { break };
        let listener = &mut listeners[source];
        match event {
            // After its last word, a channel may close when it likes.
            None if listener.usage.is_some() => {}
            None => return Err(cut_off()),
            Some(Event::Failed(failure)) => return Err(failure),
            Some(Event::Queued | Event::Loading { .. }) => {}
            Some(Event::Started(started)) => listener.started = Some(started),
            Some(Event::Piece(piece)) => {
                num_bytes += size(&piece);
                may_keep(num_bytes)?;
                listener.piece(piece);
            }
            Some(Event::Ended { choice, reason, stop }) => listener.ended(choice, reason, stop),
            Some(Event::Finished(finished)) => {
                listener.usage = Some(finished.usage);
                num_open -= 1;
            }
        }
    }
    listeners.into_iter().map(|listener| listener.into_collected().ok_or_else(cut_off)).collect()
}

/// What a piece takes in memory, in bytes.
fn size(piece: &Piece) -> u64 {
    let text = match &piece.delta {
        Delta::Text(text) | Delta::Reasoning(text) | Delta::ToolArguments { fragment: text, .. } => {
            text.len()
        }
        Delta::ToolCall { id, name, .. } => id.len() + name.len(),
    };
    let top = |top: &TopLogprob| size_of::<TopLogprob>() + top.text.len() + top.bytes.len();
    let logprob = |token: &TokenLogprob| {
        size_of::<TokenLogprob>()
            + token.text.len()
            + token.bytes.len()
            + token.top.iter().map(top).sum::<usize>()
    };
    let logprobs: usize = piece.logprobs.iter().map(logprob).sum();
    (text + size_of_val(&*piece.token_ids) + logprobs) as u64
}

impl Listener {
    fn new(keep: Keep) -> Self {
        let choices = (0..keep.num_choices).map(|index| CollectedChoice {
            index,
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            logprobs: keep.logprobs.then(Vec::new),
            token_ids: Vec::new(),
            reason: FinishReason::Stop,
            stop: None,
        });
        Self { keep, started: None, choices: choices.collect(), num_ended: 0, usage: None }
    }

    fn piece(&mut self, piece: Piece) {
        if !self.keep.reasoning && matches!(piece.delta, Delta::Reasoning(_)) {
            return;
        }
        let Some(choice) = self.choices.get_mut(piece.choice as usize) else { return };
        choice.token_ids.extend(piece.token_ids);
        if let Some(logprobs) = &mut choice.logprobs {
            logprobs.extend(piece.logprobs);
        }
        match piece.delta {
            Delta::Text(text) => choice.text.push_str(&text),
            Delta::Reasoning(text) => choice.reasoning.push_str(&text),
            Delta::ToolCall { id, name, .. } => {
                choice.calls.push(CollectedCall { id, name, arguments: String::new() });
            }
            Delta::ToolArguments { index, fragment } => {
                if let Some(call) = choice.calls.get_mut(index as usize) {
                    call.arguments.push_str(&fragment);
                }
            }
        }
    }

    fn ended(&mut self, choice: u32, reason: FinishReason, stop: Option<StopCause>) {
        if let Some(choice) = self.choices.get_mut(choice as usize) {
            choice.reason = reason;
            choice.stop = stop;
            self.num_ended += 1;
        }
    }

    /// `None` if the source broke the grammar of events.
    fn into_collected(self) -> Option<Collected> {
        let is_whole = self.num_ended == self.choices.len();
        is_whole.then_some(Collected { started: self.started?, choices: self.choices, usage: self.usage? })
    }
}
