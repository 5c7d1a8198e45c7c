//! The input of a response: items, as they are kept, and the conversation that they make.
//!
//! Items stay the client's JSON until they are put into messages: they are stored, listed and referred to as they came,
//! and what is kept of one turn is read again in the next.

use candlewick_protocol::{Content, ContentPart, Message, ToolCall, quoted};
use serde_json::{Map, Value, json};

use super::fields::{Fields, wrong_type};
use super::messages::{read_arguments, read_content};
use crate::error::ApiError;

/// Types of content parts: a list that begins with one is the content of one user message, as `transformers serve` has it.
const PARTS: [&str; 9] = [
    "text",
    "input_text",
    "output_text",
    "input_image",
    "image_url",
    "input_audio",
    "audio_url",
    "video_url",
    "input_file",
];

/// Items that say something to the tools of other servers, and nothing to a model here: kept, and left out of the prompt.
const OPAQUE: [&str; 18] = [
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "compaction",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "tool_search_call",
    "tool_search_output",
];

const CALL_ID_CHARS_MAX: usize = 64;
const OUTPUT_CHARS_MAX: usize = 10_485_760;

/// Reads `input` as a list of items: a text is one user message, and so is a bare list of parts.
pub fn read_input(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let path = fields.path("input");
    let items = match fields.take("input") {
        None => {
            let mut error = ApiError::missing(path);
            if fields.take("messages").is_some() {
                error.message.push_str("; `messages` belongs to /v1/chat/completions");
            }
            return Err(error);
        }
        Some(text @ Value::String(_)) => vec![json!({"type": "message", "role": "user", "content": text})],
        Some(Value::Array(items)) if items.is_empty() => {
            return Err(ApiError::invalid(path, "`input` must hold at least one item"));
        }
        Some(Value::Array(items)) if is_part(&items[0]) => {
            // Faults are named where the client wrote them.
            let content = json!({"content": items});
            read_content(&mut Fields::at(String::new(), content)?, false)
                .map_err(|error| error.below("content", &path))?;
            vec![json!({"type": "message", "role": "user", "content": items})]
        }
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type(&path, "a string or a list of items", &other)),
    };
    Ok(items)
}

fn is_part(item: &Value) -> bool {
    item.get("role").is_none()
        && item.get("type").and_then(Value::as_str).is_some_and(|class| PARTS.contains(&class))
}

/// What an item is.
fn class(item: &Value) -> Option<&str> {
    match item.get("type").and_then(Value::as_str) {
        Some(class) => Some(class),
        // A message need not say so.
        None => item.get("role").map(|_| "message"),
    }
}

/// The item that an `item_reference` stands for, by its id; `None` for other items.
pub fn referred(item: &Value) -> Option<&str> {
    (class(item) == Some("item_reference"))
        .then(|| item.get("id").and_then(Value::as_str).unwrap_or_default())
}

/// An item as it is kept and listed: with its type, a status, and an id made by `new_id` of the right prefix.
pub fn kept(item: Value, new_id: impl FnOnce(&str) -> String) -> Value {
    let class = class(&item).unwrap_or_default().to_owned();
    let Value::Object(mut fields) = item else { return item };
    let prefix = match class.as_str() {
        "message" => "msg",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        "reasoning" => "rs",
        _ => "item",
    };
    let mut kept = Map::new();
    let id = fields.swap_remove("id").filter(Value::is_string).unwrap_or_else(|| new_id(prefix).into());
    kept.insert("id".into(), id);
    kept.insert("type".into(), class.as_str().into());
    kept.extend(fields);
    if class == "message"
        && let Some(text) = kept.get("content").filter(|content| content.is_string()).cloned()
    {
        let part = match kept.get("role").and_then(Value::as_str) {
            Some("assistant") => json!({"type": "output_text", "text": text, "annotations": []}),
            _ => json!({"type": "input_text", "text": text}),
        };
        kept.insert("content".into(), json!([part]));
    }
    kept.entry("status").or_insert_with(|| "completed".into());
    Value::Object(kept)
}

/// Puts items into the messages of a chat.
#[derive(Debug, Default)]
pub struct Conversation {
    messages: Vec<Message>,
    /// Thoughts that belong to the assistant's next message.
    reasoning: Option<String>,
}

impl Conversation {
    /// Adds an item that stands at a path.
    pub fn push(&mut self, path: &str, item: Value) -> Result<(), ApiError> {
        let named = class(&item).map(str::to_owned);
        let mut fields = Fields::at(path, item)?;
        let Some(class) = named else {
            return Err(ApiError::missing(fields.path("type")));
        };
        match class.as_str() {
            "message" => self.message(&mut fields)?,
            "function_call" => {
                let at = fields.path("arguments");
                let sent = fields.take("arguments");
                let arguments = read_arguments(at, Some(fields.require("arguments", sent)?))?;
                self.call(&mut fields, arguments)?;
            }
            "custom_tool_call" => {
                let input = fields.string("input")?;
                let arguments = json!({"input": fields.require("input", input)?});
                self.call(&mut fields, arguments)?;
            }
            "function_call_output" | "custom_tool_call_output" => self.call_output(&mut fields)?,
            "mcp_call" => self.mcp_call(&mut fields)?,
            "reasoning" => self.reasoning(&mut fields)?,
            opaque if OPAQUE.contains(&opaque) => {}
            other => {
                let path = fields.path("type");
                let message = format!(
                    "`{path}` is {}, which is no item that is known; send message, function_call, function_call_output, \
                     reasoning or item_reference",
                    quoted(other)
                );
                return Err(ApiError::invalid(path, message));
            }
        }
        Ok(())
    }

    /// The messages, after the instructions of this turn. A system message that they begin with becomes one with the
    /// instructions: many templates know only one, and only in front.
    pub fn into_messages(mut self, instructions: Option<&str>) -> Vec<Message> {
        self.flush_reasoning();
        let mut messages = self.messages;
        if let Some(instructions) = instructions {
            let is_system = |message: &&Message| matches!(message.role.as_str(), "system" | "developer");
            let text = match messages.first().filter(is_system).and_then(|first| first.content.as_ref()) {
                Some(content) => {
                    let text = format!("{instructions}\n\n{}", plain(content));
                    messages.remove(0);
                    text
                }
                None => instructions.to_owned(),
            };
            let content = Some(Content::Text(text));
            messages.insert(0, Message { role: "system".into(), content, ..Message::default() });
        }
        messages
    }

    fn message(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let role = fields.word("role", &["user", "assistant", "system", "developer"])?;
        let role = fields.require("role", role)?;
        let is_assistant = role == "assistant";
        let content = read_content(fields, is_assistant)?;
        let content = Some(fields.require("content", content)?);
        if !is_assistant {
            self.flush_reasoning();
        }
        let reasoning_content = self.reasoning.take();
        let name = fields.string("name")?;
        self.messages.push(Message {
            role: role.into(),
            content,
            name,
            reasoning_content,
            ..Message::default()
        });
        Ok(())
    }

    /// Calls of one turn stand in one message, with what was said before them.
    fn call(&mut self, fields: &mut Fields, arguments: Value) -> Result<(), ApiError> {
        let id = read_call_id(fields)?;
        let name = fields.string("name")?;
        let name = fields.require("name", name)?;
        self.add_call(ToolCall { id, name, arguments });
        Ok(())
    }

    fn add_call(&mut self, call: ToolCall) {
        let reasoning_content = self.reasoning.take();
        match self.messages.last_mut() {
            Some(last) if last.role == "assistant" && reasoning_content.is_none() => {
                last.tool_calls.push(call)
            }
            _ => self.messages.push(Message {
                role: "assistant".into(),
                reasoning_content,
                tool_calls: vec![call],
                ..Message::default()
            }),
        }
    }

    fn call_output(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let id = read_call_id(fields)?;
        let path = fields.path("output");
        let output = fields.take("output");
        let output = fields.require("output", output)?;
        if output.as_str().is_some_and(|text| text.len() > OUTPUT_CHARS_MAX) {
            return Err(ApiError::invalid(
                path.as_str(),
                format!("`{path}` has at most {OUTPUT_CHARS_MAX} characters"),
            ));
        }
        // An output is written like the content of a message.
        let content = read_content(&mut Fields::at(String::new(), json!({"content": output}))?, false)
            .map_err(|error| error.below("content", &path))?;
        self.add_output(id, content);
        Ok(())
    }

    fn add_output(&mut self, call_id: String, content: Option<Content>) {
        self.flush_reasoning();
        self.messages.push(Message {
            role: "tool".into(),
            content,
            tool_call_id: Some(call_id),
            ..Message::default()
        });
    }

    /// A call that another server made and answered by itself.
    fn mcp_call(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let id = fields.string("id")?;
        let id = fields.require("id", id)?;
        let name = fields.string("name")?;
        let name = fields.require("name", name)?;
        let path = fields.path("arguments");
        let arguments = read_arguments(path, fields.take("arguments"))?;
        let output = fields.take("output").or_else(|| fields.take("error"));
        let output = match output {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        self.add_call(ToolCall { id: id.clone(), name, arguments });
        self.add_output(id, Some(Content::Text(output)));
        Ok(())
    }

    /// The thoughts themselves, or what there is of a summary.
    fn reasoning(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let content = read_texts(fields, "content", "reasoning_text")?;
        let summary = read_texts(fields, "summary", "summary_text")?;
        let text = if content.is_empty() { summary } else { content };
        if !text.is_empty() {
            let before = self.reasoning.take().map(|before| before + "\n");
            self.reasoning = Some(before.unwrap_or_default() + &text.join("\n"));
        }
        Ok(())
    }

    /// Thoughts that nothing came of are a message of their own.
    fn flush_reasoning(&mut self) {
        if let Some(reasoning) = self.reasoning.take() {
            self.messages.push(Message {
                role: "assistant".into(),
                content: Some(Content::Text(String::new())),
                reasoning_content: Some(reasoning),
                ..Message::default()
            });
        }
    }
}

fn read_call_id(fields: &mut Fields) -> Result<String, ApiError> {
    let id = fields.string("call_id")?;
    let id = fields.require("call_id", id)?;
    let num_chars = id.chars().count();
    if (1..=CALL_ID_CHARS_MAX).contains(&num_chars) {
        return Ok(id);
    }
    let path = fields.path("call_id");
    let message = format!("`{path}` has 1 to {CALL_ID_CHARS_MAX} characters, not {num_chars}");
    Err(ApiError::invalid(path, message))
}

/// The texts of a list of parts of one type.
fn read_texts(fields: &mut Fields, name: &str, class: &'static str) -> Result<Vec<String>, ApiError> {
    let path = fields.path(name);
    let parts = fields.list(name)?.unwrap_or_default().into_iter().enumerate();
    parts
        .map(|(index, part)| {
            let mut part = Fields::at(format!("{path}.{index}"), part)?;
            part.word("type", &[class])?;
            let text = part.string("text")?;
            part.require("text", text)
        })
        .collect()
}

fn plain(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            let texts: Vec<&str> = parts.iter().map(|ContentPart::Text { text }| text.as_str()).collect();
            texts.join("\n")
        }
    }
}
