//! A conversation as templates see it: plain JSON, in the shape that transformers hands to its renderer.

use std::borrow::Cow;

use candlewick_protocol::{Content, ContentPart, Message};
use serde_json::{Map, Value, json};

use super::content::ContentFormat;

/// What a template wants of messages.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// What it takes as content.
    pub(super) format: ContentFormat,
    /// What it takes as arguments of a call.
    pub(super) arguments: Arguments,
    /// It has a role `developer`.
    pub(super) knows_developer: bool,
    /// It takes only ids of nine letters and digits.
    pub(super) short_ids: bool,
}

/// What a template takes as arguments of a call.
#[derive(Clone, Copy)]
pub(super) enum Arguments {
    /// What most want.
    Object,
    /// JSON text.
    Text,
}

/// The messages as the template wants them. Fields without a value are left out, as transformers leaves them out.
pub(super) fn values(messages: &[Message], shape: Shape) -> Vec<Value> {
    messages.iter().map(|message| value(message, shape)).collect()
}

fn value(message: &Message, shape: Shape) -> Value {
    let mut fields = Map::new();
    if let Some(reasoning) = &message.reasoning_content {
        // The older name, which templates of gpt-oss read.
        fields.insert("thinking".into(), json!(reasoning));
    }
    let role = match message.role.as_str() {
        "developer" if !shape.knows_developer => "system",
        role => role,
    };
    fields.insert("role".into(), json!(role));
    if let Some(content) = &message.content {
        fields.insert("content".into(), self::content(content, shape.format));
    }
    if let Some(name) = &message.name {
        fields.insert("name".into(), json!(name));
    }
    if let Some(reasoning) = &message.reasoning_content {
        fields.insert("reasoning_content".into(), json!(reasoning));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let arguments = match shape.arguments {
                Arguments::Object => call.arguments.clone(),
                Arguments::Text => Value::String(super::json::text(&call.arguments)),
            };
            let function = json!({"name": call.name, "arguments": arguments});
            json!({"type": "function", "id": id(&call.id, shape), "function": function})
        });
        fields.insert("tool_calls".into(), calls.collect());
    }
    if let Some(answered) = &message.tool_call_id {
        fields.insert("tool_call_id".into(), json!(id(answered, shape)));
    }
    Value::Object(fields)
}

/// An id as the template takes it: where that must be nine letters and digits, others become such, equal ones equal.
fn id(id: &str, shape: Shape) -> Cow<'_, str> {
    const LEN: usize = 9;
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    if !shape.short_ids || (id.len() == LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
        return id.into();
    }
    // FNV-1a, of 64 bits: more than nine digits hold.
    let mut hash = id.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let digit = |_| {
        let digit = DIGITS[(hash % 62) as usize];
        hash /= 62;
        char::from(digit)
    };
    (0..LEN).map(digit).collect()
}

fn content(content: &Content, format: ContentFormat) -> Value {
    match (content, format) {
        (Content::Text(text), ContentFormat::Parts { accepts_text: false }) => json!([text_part(text)]),
        (Content::Text(text), _) => json!(text),
        (Content::Parts(parts), ContentFormat::Parts { .. }) => {
            parts.iter().map(|part| text_part(text_of(part))).collect()
        }
        (Content::Parts(parts), ContentFormat::Text) => {
            let texts: Vec<&str> = parts.iter().map(text_of).collect();
            json!(texts.join("\n"))
        }
    }
}

fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn text_of(part: &ContentPart) -> &str {
    match part {
        ContentPart::Text { text } => text,
    }
}
