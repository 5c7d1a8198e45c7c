//! The channels of gpt-oss: an output is a row of messages, each with a header and an end,
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>`.
//!
//! `analysis` is reasoning; `final`, and `commentary` to nobody in particular, are the answer; a message
//! `to=functions.NAME`, in whatever channel, is a call, and its text the arguments. Between two messages of one kind
//! stands a line end. Text without a header is the answer.
//!
//! Source: OpenAI's harmony response format, and the chat template of `openai/gpt-oss-20b`.

use super::ReasoningMarks;
use super::reader::{Broken, Reader};

const START: &str = "<|start|>";
pub(super) const CHANNEL: &str = "<|channel|>";
pub(super) const MESSAGE: &str = "<|message|>";
const FUNCTIONS: &str = "functions.";

/// How a header begins. The prompt ends with `<|start|>assistant`, so the first may begin with what follows that.
const HEADERS: &[&str] = &[START, CHANNEL, " to=", "to="];

/// How a message ends. The last two begin the next one, and are not read.
const ENDS: &[&str] = &["<|end|>", "<|call|>", "<|return|>", START, CHANNEL];

/// A header is no longer, in bytes.
const MAX_HEADER_BYTES: usize = 256;

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] =
    &[START, CHANNEL, MESSAGE, "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"];

/// Around reasoning, and how the answer is reached from within it.
pub(super) const REASONING: ReasoningMarks = ReasoningMarks {
    open: "<|channel|>analysis<|message|>",
    close: "<|end|>",
    to_answer: "<|end|><|start|>assistant<|channel|>final<|message|>",
};

/// What a message is.
enum Kind {
    Reasoning,
    Answer,
    Call(String),
}

/// Reads to the end of the text. `has_tools`: tools may be called; if not, calls are part of the answer.
pub(super) async fn read(reader: &Reader, has_tools: bool) {
    let (mut has_reasoning, mut has_answer) = (false, false);
    while reader.peek().await.is_some() {
        let kind = match reader.which(HEADERS).await {
            Some(_) => match header(reader).await {
                Ok(header) => kind(&header, |name| has_tools && reader.allows(name)),
                Err(Broken) => Kind::Answer,
            },
            None => Kind::Answer,
        };
        match kind {
            Kind::Call(name) => {
                // It was asked for what is allowed before it became a call.
                if reader.call(name).is_ok() {
                    arguments(reader).await;
                    reader.end_call();
                }
            }
            Kind::Reasoning => {
                reader.set_reasoning(true);
                has_reasoning |= words(reader, Reader::reasoning, has_reasoning).await;
                reader.set_reasoning(false);
            }
            Kind::Answer => has_answer |= words(reader, Reader::text, has_answer).await,
        }
        if let Some(end @ 0..3) = reader.which(ENDS).await {
            reader.take(ENDS[end]).await;
        }
    }
}

/// Reads a header, and the mark behind it. One that goes on without end is text; one that the end of the text cuts is
/// markup all the same.
async fn header(reader: &Reader) -> Result<String, Broken> {
    reader.attempt(String::new());
    let mut header = String::new();
    loop {
        if reader.take(MESSAGE).await {
            reader.forget();
            return Ok(header);
        }
        if header.len() > MAX_HEADER_BYTES {
            reader.give_up();
            return Err(Broken);
        }
        match reader.next().await {
            Some(char) => header.push(char),
            None => {
                reader.forget();
                return Err(Broken);
            }
        }
    }
}

fn kind(header: &str, may_call: impl Fn(&str) -> bool) -> Kind {
    let word_after = |mark: &str| {
        let rest = &header[header.find(mark)? + mark.len()..];
        let rest = rest.trim_start();
        Some(&rest[..rest.find(|char: char| char.is_whitespace() || char == '<').unwrap_or(rest.len())])
    };
    let called = word_after("to=").and_then(|recipient| recipient.strip_prefix(FUNCTIONS));
    match (called, word_after(CHANNEL)) {
        (Some(name), _) if !name.is_empty() && may_call(name) => Kind::Call(name.into()),
        (None, Some("analysis")) => Kind::Reasoning,
        _ => Kind::Answer,
    }
}

/// Tells a message's text; whether there was any.
async fn words(reader: &Reader, tell: fn(&Reader, &str), has_before: bool) -> bool {
    let mut has_any = false;
    while reader.which(ENDS).await.is_none() && !reader.is_cut(ENDS) {
        let Some(char) = reader.next().await else { break };
        if has_before && !has_any {
            tell(reader, "\n");
        }
        has_any = true;
        tell(reader, char.encode_utf8(&mut [0; 4]));
    }
    has_any
}

/// Tells a message's text as arguments, without the space around it.
async fn arguments(reader: &Reader) {
    reader.space().await;
    loop {
        let space = reader.space().await;
        if reader.which(ENDS).await.is_some() || reader.is_cut(ENDS) {
            return;
        }
        let Some(char) = reader.next().await else { return };
        reader.arguments(&space);
        reader.arguments(char.encode_utf8(&mut [0; 4]));
    }
}
