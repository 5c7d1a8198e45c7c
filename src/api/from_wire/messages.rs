//! The conversation: roles, parts, earlier calls.

use candlewick_protocol::{Content, ContentPart, Message, ToolCall, quoted};
use serde_json::{Map, Value};

use super::fields::{Fields, wrong_type};
use crate::error::ApiError;

/// Reads `messages`.
pub fn read_messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let path = fields.path("messages");
    let items = fields.list("messages")?;
    let items = fields.require("messages", items)?;
    if items.is_empty() {
        return Err(ApiError::invalid(path, "`messages` must hold at least one message"));
    }
    items.into_iter().enumerate().map(|(index, item)| read_message(format!("{path}.{index}"), item)).collect()
}

fn read_message(path: String, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::at(path, value)?;
    let role = fields.string("role")?;
    let role = fields.require("role", role)?;
    let message = match role.as_str() {
        "system" | "developer" | "user" => {
            let content = read_content(&mut fields, false)?;
            Message { content: Some(fields.require("content", content)?), ..Message::default() }
        }
        "assistant" => read_assistant(&mut fields)?,
        "tool" => {
            let content = read_content(&mut fields, false)?;
            let tool_call_id = fields.string("tool_call_id")?;
            Message {
                content: Some(fields.require("content", content)?),
                tool_call_id: Some(fields.require("tool_call_id", tool_call_id)?),
                ..Message::default()
            }
        }
        // The older name of `tool`: it answers the last call of the function that it names.
        "function" => {
            let content = read_content(&mut fields, false)?;
            let name = fields.string("name")?;
            let name = fields.require("name", name)?;
            let message = Message {
                role: "tool".to_owned(),
                tool_call_id: Some(function_call_id(&name)),
                content: Some(content.unwrap_or_else(|| Content::Text(String::new()))),
                name: Some(name),
                ..Message::default()
            };
            fields.finish();
            return Ok(message);
        }
        other => {
            let path = fields.path("role");
            return Err(ApiError::invalid(
                path.as_str(),
                format!(
                    "`{path}` must be one of system, developer, user, assistant, tool, not {}",
                    quoted(other)
                ),
            ));
        }
    };
    let message = Message { role, name: fields.string("name")?, ..message };
    fields.finish();
    Ok(message)
}

fn read_assistant(fields: &mut Fields) -> Result<Message, ApiError> {
    let mut content = read_content(fields, true)?;
    if content.is_none() {
        content = fields.string("refusal")?.map(Content::Text);
    }
    let mut tool_calls = read_tool_calls(fields)?;
    // The older name of a single call, which has no id.
    if let Some(function) = fields.object("function_call")? {
        let (name, arguments) = read_function(function)?;
        tool_calls.push(ToolCall { id: function_call_id(&name), name, arguments });
    }
    fields.refuse("audio", "this server keeps no audio of earlier answers", |_| false)?;
    let reasoning = fields.string("reasoning_content")?;
    let reasoning_content = reasoning.or(fields.string("reasoning")?);
    // Clients send an earlier answer back as they got it, also one that said nothing.
    if content.is_none() && tool_calls.is_empty() {
        content = Some(Content::Text(String::new()));
    }
    Ok(Message { content, tool_calls, reasoning_content, ..Message::default() })
}

/// Reads `content`: text, or parts of which each is text.
pub fn read_content(fields: &mut Fields, is_assistant: bool) -> Result<Option<Content>, ApiError> {
    let path = fields.path("content");
    match fields.take("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(Content::Text(text))),
        Some(Value::Array(items)) => {
            let parts = items.into_iter().enumerate();
            let parts = parts.map(|(index, item)| read_part(format!("{path}.{index}"), item, is_assistant));
            Ok(Some(Content::Parts(parts.collect::<Result<_, _>>()?)))
        }
        Some(other) => Err(wrong_type(&path, "a string or a list of parts", &other)),
    }
}

fn read_part(path: String, value: Value, is_assistant: bool) -> Result<ContentPart, ApiError> {
    if let Value::String(text) = value {
        return Ok(ContentPart::Text { text });
    }
    let mut part = Fields::at(path, value)?;
    let class = part.string("type")?;
    let class = part.require("type", class)?;
    let path = part.path("type");
    // Where the text of a part stands is named by its type.
    let field = match class.as_str() {
        "text" | "input_text" | "output_text" => "text",
        "refusal" if is_assistant => "refusal",
        "thinking" if is_assistant => "thinking",
        "image_url" | "input_image" | "image_embeds" | "image_pil" => return Err(no_media(path, "images")),
        "input_audio" | "audio_url" | "audio_embeds" => return Err(no_media(path, "audio")),
        "video_url" => return Err(no_media(path, "video")),
        "file" | "input_file" => return Err(no_media(path, "files")),
        other => {
            let message = format!("`{path}` must be text, not {}", quoted(other));
            return Err(ApiError::invalid(path, message));
        }
    };
    let text = part.string(field)?;
    let text = part.require(field, text)?;
    part.finish();
    Ok(ContentPart::Text { text })
}

fn no_media(path: String, what: &str) -> ApiError {
    ApiError::unsupported(path, format!("{what} in messages are not supported by this server yet; send text"))
}

fn read_tool_calls(fields: &mut Fields) -> Result<Vec<ToolCall>, ApiError> {
    let path = fields.path("tool_calls");
    let items = fields.list("tool_calls")?.unwrap_or_default();
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read_tool_call(format!("{path}.{index}"), item))
        .collect()
}

fn read_tool_call(path: String, value: Value) -> Result<ToolCall, ApiError> {
    let mut call = Fields::at(path, value)?;
    let id = call.string("id")?;
    let id = call.require("id", id)?;
    call.word("type", &["function"])?;
    let function = call.object("function")?;
    let function = call.require("function", function)?;
    let (name, arguments) = read_function(function)?;
    call.finish();
    Ok(ToolCall { id, name, arguments })
}

/// The id of a call in the older form, in which function and answer find each other by the function's name.
fn function_call_id(name: &str) -> String {
    format!("call_{name}")
}

/// What is called, and with what.
fn read_function(mut function: Fields) -> Result<(String, Value), ApiError> {
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    let path = function.path("arguments");
    let arguments = read_arguments(path, function.take("arguments"))?;
    function.finish();
    Ok((name, arguments))
}

/// The arguments of an earlier call: JSON text, which is decoded because templates print it in their own way.
pub fn read_arguments(path: String, sent: Option<Value>) -> Result<Value, ApiError> {
    match sent {
        None => Ok(Value::Object(Map::new())),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|error| ApiError::invalid(path.as_str(), format!("`{path}` is not JSON: {error}"))),
        // Some clients send what they decoded.
        Some(object @ Value::Object(_)) => Ok(object),
        Some(other) => Err(wrong_type(&path, "a string that holds JSON", &other)),
    }
}
