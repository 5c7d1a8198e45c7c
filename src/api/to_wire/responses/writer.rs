//! What happened → a response and the events of its stream. Pure: the same log makes the same response and the same
//! events, whole or streamed, at once or after a restart.
//!
//! Grammar: `created [queued] in_progress item* (completed | incomplete | failed)`, where an item is opened, told and
//! closed before the next. The parts of an item come in the order that OpenAI gives its kind. `failed` may come at any
//! place after `created`, and then leaves the open item as it is.

use candlewick_protocol::{
    Delta, ErrorKind, Event, Failure, FinishReason, LoggedEvent, Piece, ResponseRecord, TokenLogprob, Usage,
};

use super::{ItemIds, ResponseHead};
use crate::to_wire::logprobs::chat_logprobs;
use crate::wire::chat::ChatTokenLogprob;
use crate::wire::responses::{
    ContentPart, IncompleteDetails, InputTokensDetails, ItemPlace, NumberedEvent, OutputItem,
    OutputTokensDetails, PartPlace, Response, ResponseError, ResponseEvent, ResponseUsage, Status,
};

/// Makes one response.
pub struct ResponseWriter {
    response: Response,
    ids: ItemIds,
    logprobs: bool,
    tokens_as_token_ids: bool,
    hide_reasoning: bool,
    next_number: u64,
    is_started: bool,
    /// The last item has not been closed.
    is_open: bool,
    /// Tokens whose text is yet to come.
    untold: Vec<ChatTokenLogprob>,
    reason: FinishReason,
}

/// The three kinds of items, as far as a delta has to choose.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Message,
    Reasoning,
    Call,
}

impl ResponseWriter {
    /// A response of which nothing has happened yet.
    pub fn new(record: &ResponseRecord) -> Self {
        let head = ResponseHead::of(&record.head);
        Self {
            response: Response {
                id: record.id.clone(),
                object: "response",
                created_at: record.created_at,
                completed_at: None,
                status: if record.background { Status::Queued } else { Status::InProgress },
                error: None,
                incomplete_details: None,
                output: Vec::new(),
                output_text: String::new(),
                usage: None,
                echo: head.echo,
            },
            ids: ItemIds::of(&record.id),
            logprobs: head.logprobs,
            tokens_as_token_ids: head.tokens_as_token_ids,
            hide_reasoning: head.hide_reasoning,
            next_number: 0,
            is_started: !record.background,
            is_open: false,
            untold: Vec::new(),
            reason: FinishReason::Stop,
        }
    }

    /// The response, as far as it has come.
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// The response, as far as it has come.
    pub fn into_response(self) -> Response {
        self.response
    }

    /// Whether it has had its last word.
    pub fn is_over(&self) -> bool {
        !matches!(self.response.status, Status::Queued | Status::InProgress)
    }

    /// What a stream begins with, before anything has happened.
    pub fn open(&mut self) -> Vec<NumberedEvent> {
        let created = ResponseEvent::Created { response: self.snapshot() };
        let second = match self.response.status {
            Status::Queued => ResponseEvent::Queued { response: self.snapshot() },
            _ => ResponseEvent::InProgress { response: self.snapshot() },
        };
        self.number(vec![created, second])
    }

    /// What an event adds.
    pub fn take(&mut self, entry: &LoggedEvent) -> Vec<NumberedEvent> {
        if self.is_over() {
            return Vec::new();
        }
        let mut told = Vec::new();
        match &entry.event {
            Event::Queued | Event::Loading { .. } => {}
            Event::Started(_) => self.start(&mut told),
            Event::Piece(piece) => self.piece(piece, &mut told),
            Event::Ended { reason, .. } => self.end(*reason, &mut told),
            Event::Finished(finished) => self.finish(entry.at, &finished.usage, &mut told),
            Event::Failed(failure) => self.fail(failure, &mut told),
        }
        self.number(told)
    }

    /// The last word of a stream that cannot be told to its end.
    pub fn error(&mut self, code: &'static str, message: &str) -> Vec<NumberedEvent> {
        self.response.status = Status::Failed;
        self.number(vec![ResponseEvent::Error { code, message: message.to_owned(), param: None }])
    }

    fn start(&mut self, told: &mut Vec<ResponseEvent>) {
        if !self.is_started {
            self.is_started = true;
            self.response.status = Status::InProgress;
            told.push(ResponseEvent::InProgress { response: self.snapshot() });
        }
    }

    fn piece(&mut self, piece: &Piece, told: &mut Vec<ResponseEvent>) {
        match &piece.delta {
            Delta::Text(text) => {
                let tokens = self.tokens(&piece.logprobs);
                self.untold.extend(tokens);
                // Tokens whose text is held back are told with the text that comes of them.
                if !text.is_empty() {
                    self.text(text, told);
                }
            }
            Delta::Reasoning(_) if self.hide_reasoning => {}
            Delta::Reasoning(text) => self.reasoning(text, told),
            Delta::ToolCall { id, name, .. } => self.call(id, name, told),
            Delta::ToolArguments { fragment, .. } => self.arguments(fragment, told),
        }
    }

    fn text(&mut self, delta: &str, told: &mut Vec<ResponseEvent>) {
        if self.open_kind() != Some(Kind::Message) {
            self.close(Status::Completed, told);
            let id = self.ids.output("msg", self.response.output.len());
            let empty =
                ContentPart::OutputText { annotations: [], logprobs: Vec::new(), text: String::new() };
            let item =
                |content| OutputItem::Message { id, role: "assistant", status: Status::InProgress, content };
            self.open_with_part(item, empty, told);
        }
        let tokens = std::mem::take(&mut self.untold);
        let place = self.part_place();
        if let Some(ContentPart::OutputText { text, logprobs, .. }) = self.open_part() {
            text.push_str(delta);
            logprobs.extend(tokens.iter().cloned());
        }
        self.response.output_text.push_str(delta);
        told.push(ResponseEvent::TextDelta { place, delta: delta.to_owned(), logprobs: tokens });
    }

    fn reasoning(&mut self, delta: &str, told: &mut Vec<ResponseEvent>) {
        if self.open_kind() != Some(Kind::Reasoning) {
            self.close(Status::Completed, told);
            let id = self.ids.output("rs", self.response.output.len());
            let item = |content| OutputItem::Reasoning {
                id,
                summary: [],
                content,
                encrypted_content: None,
                status: Status::InProgress,
            };
            self.open_with_part(item, ContentPart::ReasoningText { text: String::new() }, told);
        }
        let place = self.part_place();
        if let Some(ContentPart::ReasoningText { text }) = self.open_part() {
            text.push_str(delta);
        }
        told.push(ResponseEvent::ReasoningDelta { place, delta: delta.to_owned() });
    }

    fn call(&mut self, call_id: &str, name: &str, told: &mut Vec<ResponseEvent>) {
        self.close(Status::Completed, told);
        let item = OutputItem::FunctionCall {
            id: self.ids.output("fc", self.response.output.len()),
            call_id: call_id.to_owned(),
            name: name.to_owned(),
            arguments: String::new(),
            status: Status::InProgress,
        };
        self.add(item, told);
    }

    fn arguments(&mut self, delta: &str, told: &mut Vec<ResponseEvent>) {
        // Arguments follow their call, so the open item is theirs.
        if let (true, Some(OutputItem::FunctionCall { arguments, .. })) =
            (self.is_open, self.response.output.last_mut())
        {
            arguments.push_str(delta);
            let place = self.item_place();
            told.push(ResponseEvent::ArgumentsDelta { place, delta: delta.to_owned() });
        }
    }

    fn end(&mut self, reason: FinishReason, told: &mut Vec<ResponseEvent>) {
        self.reason = reason;
        let is_cut = reason == FinishReason::Length;
        if self.response.output.is_empty() && !is_cut {
            // The model had nothing to say, and said it.
            self.empty_message(told);
        }
        self.close(if is_cut { Status::Incomplete } else { Status::Completed }, told);
    }

    /// A message without a delta: there was nothing to tell.
    fn empty_message(&mut self, told: &mut Vec<ResponseEvent>) {
        let tokens = std::mem::take(&mut self.untold);
        self.text("", told);
        // An empty delta tells nothing.
        told.pop();
        self.untold = tokens;
    }

    fn finish(&mut self, at: u64, usage: &Usage, told: &mut Vec<ResponseEvent>) {
        self.response.usage = Some(ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
        });
        if self.reason == FinishReason::Length {
            self.response.status = Status::Incomplete;
            self.response.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
            told.push(ResponseEvent::Incomplete { response: self.snapshot() });
        } else {
            self.response.status = Status::Completed;
            self.response.completed_at = Some(at);
            told.push(ResponseEvent::Completed { response: self.snapshot() });
        }
    }

    /// The item that was open stays open: what it holds is not all that it should have held.
    fn fail(&mut self, failure: &Failure, told: &mut Vec<ResponseEvent>) {
        if self.is_open {
            self.tell_late_tokens(told);
        }
        if self.is_open
            && let Some(item) = self.response.output.last_mut()
        {
            *status_of(item) = Status::Incomplete;
        }
        if failure.kind == ErrorKind::Cancelled {
            self.response.status = Status::Cancelled;
        } else {
            self.response.status = Status::Failed;
            self.response.error =
                Some(ResponseError { code: code(failure.kind), message: failure.message.clone() });
        }
        told.push(ResponseEvent::Failed { response: self.snapshot() });
    }

    fn open_with_part(
        &mut self,
        item: impl FnOnce(Vec<ContentPart>) -> OutputItem,
        part: ContentPart,
        told: &mut Vec<ResponseEvent>,
    ) {
        self.add(item(Vec::new()), told);
        if let Some(content) = self.response.output.last_mut().and_then(content_of) {
            content.push(part.clone());
        }
        told.push(ResponseEvent::PartAdded { place: self.part_place(), part });
    }

    fn add(&mut self, item: OutputItem, told: &mut Vec<ResponseEvent>) {
        told.push(ResponseEvent::ItemAdded { output_index: self.response.output.len(), item: item.clone() });
        self.response.output.push(item);
        self.is_open = true;
    }

    /// Closes the open item, if there is one.
    fn close(&mut self, status: Status, told: &mut Vec<ResponseEvent>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        self.tell_late_tokens(told);
        let Some(item) = self.response.output.last_mut() else { return };
        *status_of(item) = status;
        let item = item.clone();
        match &item {
            OutputItem::Message { content, .. } | OutputItem::Reasoning { content, .. } => {
                for part in content {
                    let place = self.part_place();
                    told.push(match part {
                        ContentPart::OutputText { text, logprobs, .. } => ResponseEvent::TextDone {
                            place: place.clone(),
                            text: text.clone(),
                            logprobs: logprobs.clone(),
                        },
                        ContentPart::ReasoningText { text } => {
                            ResponseEvent::ReasoningDone { place: place.clone(), text: text.clone() }
                        }
                    });
                    told.push(ResponseEvent::PartDone { place, part: part.clone() });
                }
            }
            OutputItem::FunctionCall { name, arguments, .. } => {
                told.push(ResponseEvent::ArgumentsDone {
                    place: self.item_place(),
                    name: name.clone(),
                    arguments: arguments.clone(),
                });
            }
        }
        let output_index = self.response.output.len() - 1;
        told.push(ResponseEvent::ItemDone { output_index, item });
    }

    /// Tokens that came to no text, such as those of a stop string: told before the message they were part of is closed.
    fn tell_late_tokens(&mut self, told: &mut Vec<ResponseEvent>) {
        let is_message = matches!(self.response.output.last(), Some(OutputItem::Message { .. }));
        if !is_message || self.untold.is_empty() {
            return;
        }
        let tokens = std::mem::take(&mut self.untold);
        let place = self.part_place();
        if let Some(ContentPart::OutputText { logprobs, .. }) = self.open_part() {
            logprobs.extend(tokens.iter().cloned());
        }
        told.push(ResponseEvent::TextDelta { place, delta: String::new(), logprobs: tokens });
    }

    fn tokens(&self, tokens: &[TokenLogprob]) -> Vec<ChatTokenLogprob> {
        if self.logprobs { chat_logprobs(tokens, self.tokens_as_token_ids).content } else { Vec::new() }
    }

    fn open_kind(&self) -> Option<Kind> {
        let item = self.response.output.last().filter(|_| self.is_open)?;
        Some(match item {
            OutputItem::Message { .. } => Kind::Message,
            OutputItem::Reasoning { .. } => Kind::Reasoning,
            OutputItem::FunctionCall { .. } => Kind::Call,
        })
    }

    fn open_part(&mut self) -> Option<&mut ContentPart> {
        content_of(self.response.output.last_mut()?)?.last_mut()
    }

    /// Of the last item.
    fn item_place(&self) -> ItemPlace {
        let item_id = match self.response.output.last() {
            Some(
                OutputItem::Message { id, .. }
                | OutputItem::Reasoning { id, .. }
                | OutputItem::FunctionCall { id, .. },
            ) => id.clone(),
            None => String::new(),
        };
        ItemPlace { item_id, output_index: self.response.output.len().saturating_sub(1) }
    }

    /// Of the last item's only part.
    fn part_place(&self) -> PartPlace {
        PartPlace { item: self.item_place(), content_index: 0 }
    }

    fn snapshot(&self) -> Box<Response> {
        Box::new(self.response.clone())
    }

    fn number(&mut self, events: Vec<ResponseEvent>) -> Vec<NumberedEvent> {
        let first = self.next_number;
        self.next_number += events.len() as u64;
        (first..)
            .zip(events)
            .map(|(sequence_number, event)| NumberedEvent { event, sequence_number })
            .collect()
    }
}

fn content_of(item: &mut OutputItem) -> Option<&mut Vec<ContentPart>> {
    match item {
        OutputItem::Message { content, .. } | OutputItem::Reasoning { content, .. } => Some(content),
        OutputItem::FunctionCall { .. } => None,
    }
}

fn status_of(item: &mut OutputItem) -> &mut Status {
    match item {
        OutputItem::Message { status, .. }
        | OutputItem::Reasoning { status, .. }
        | OutputItem::FunctionCall { status, .. } => status,
    }
}

/// OpenAI's few words for why a response failed.
fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Overloaded => "rate_limit_exceeded",
        ErrorKind::InvalidRequest | ErrorKind::ContextOverflow | ErrorKind::Unsupported => "invalid_prompt",
        ErrorKind::ModelNotFound
        | ErrorKind::Forbidden
        | ErrorKind::Conflict
        | ErrorKind::Unavailable
        | ErrorKind::Draining
        | ErrorKind::OutOfMemory
        | ErrorKind::Timeout
        | ErrorKind::Cancelled
        | ErrorKind::Internal => "server_error",
    }
}
