//! A conversation as templates see it: plain JSON, in the shape that transformers hands to its renderer.

use candlewick_protocol::{Content, ContentPart, Message};
use serde_json::{Map, Value, json};

use super::content::ContentFormat;

/// The messages as the template wants them. Fields without a value are left out, as transformers leaves them out.
pub(super) fn values(messages: &[Message], format: ContentFormat, knows_developer: bool) -> Vec<Value> {
    messages.iter().map(|message| value(message, format, knows_developer)).collect()
}

fn value(message: &Message, format: ContentFormat, knows_developer: bool) -> Value {
    let mut fields = Map::new();
    if let Some(reasoning) = &message.reasoning_content {
        // The older name, which templates of gpt-oss read.
        fields.insert("thinking".into(), json!(reasoning));
    }
    let role = match message.role.as_str() {
        "developer" if !knows_developer => "system",
        role => role,
    };
    fields.insert("role".into(), json!(role));
    if let Some(content) = &message.content {
        fields.insert("content".into(), self::content(content, format));
    }
    if let Some(name) = &message.name {
        fields.insert("name".into(), json!(name));
    }
    if let Some(reasoning) = &message.reasoning_content {
        fields.insert("reasoning_content".into(), json!(reasoning));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            json!({"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}})
        });
        fields.insert("tool_calls".into(), calls.collect());
    }
    if let Some(id) = &message.tool_call_id {
        fields.insert("tool_call_id".into(), json!(id));
    }
    Value::Object(fields)
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
