//! What is done with an input, by the fuzz targets and by the test that runs their corpora. Each function panics where
//! something is wrong, and only there.

use candlewick_api::check_body;
use candlewick_engine::text::{
    read_with_parser, read_with_template, render_chat_template, tool_call_parsers,
};
use candlewick_protocol::{ChatPrompt, Content, Delta, Message, ToolCall};
use serde_json::{Value, json};

/// A line that is a path, then a body.
pub fn request_body(data: &[u8]) {
    let (path, body) = split(data, b"\n");
    let path = String::from_utf8_lossy(path);
    if let Err(message) = check_body(path.trim(), body) {
        assert!(!message.is_empty() && message.chars().count() < 2000, "{message}");
    }
}

/// A template, which is given a conversation of every kind of message.
pub fn chat_template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let text = |role: &str, text: &str| Message {
        role: role.into(),
        content: Some(Content::Text(text.into())),
        ..Message::default()
    };
    let call = ToolCall { id: "call_1".into(), name: "f".into(), arguments: json!({"city": "Zürich"}) };
    let asked = Message { role: "assistant".into(), tool_calls: vec![call], ..Message::default() };
    let answered = Message { tool_call_id: Some("call_1".into()), ..text("tool", "sunny") };
    let prompt = ChatPrompt {
        messages: vec![
            text("system", "Be brief."),
            text("user", "Hi <b>"),
            asked,
            answered,
            text("user", "🕯"),
        ],
        tools: tools(),
        add_generation_prompt: true,
        ..ChatPrompt::default()
    };
    match render_chat_template(source, &prompt) {
        Ok(_) => {}
        Err(message) => assert!(!message.is_empty()),
    }
}

/// A line that names a parser (or any byte that picks one), then an answer.
pub fn tool_calls(data: &[u8]) {
    let (name, text) = split(data, b"\n");
    let names: Vec<&str> = tool_call_parsers().collect();
    let named = names.iter().find(|known| known.as_bytes() == name);
    let picked = names[name.first().copied().unwrap_or_default() as usize % names.len()];
    let parser = named.copied().unwrap_or(picked);
    let text = String::from_utf8_lossy(text);
    let read = |pieces: &[&str]| read_with_parser(parser, &tools(), pieces).expect("the parser is known");
    check(&text, read);
}

/// A response template, an empty line, the end of a prompt, an empty line, and an answer.
pub fn response_template(data: &[u8]) {
    let (template, rest) = split(data, b"\n\n");
    let (prompt, answer) = split(rest, b"\n\n");
    let Ok(template) = serde_json::from_slice::<Value>(template) else { return };
    let (prompt, answer) = (String::from_utf8_lossy(prompt), String::from_utf8_lossy(answer));
    let read = |pieces: &[&str]| read_with_template(&template, &prompt, &tools(), pieces);
    if let Err(message) = read(&[]) {
        assert!(!message.is_empty());
        return;
    }
    check(&answer, |pieces| read(pieces).expect("it was good before"));
}

/// However an answer is cut, the same is told, in the order that events have.
fn check(text: &str, read: impl Fn(&[&str]) -> Vec<Delta>) {
    let whole = read(&[text]);
    let chars: Vec<String> = text.chars().map(String::from).collect();
    let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
    assert_eq!(read(&chars), whole, "character by character");
    for (at, _) in text.char_indices().take(64) {
        assert_eq!(read(&[&text[..at], &text[at..]]), whole, "cut at {at}");
    }
    let mut num_calls = 0;
    for delta in &whole {
        match delta {
            Delta::Text(text) | Delta::Reasoning(text) => assert!(!text.is_empty(), "an empty delta"),
            Delta::ToolCall { index, name, .. } => {
                assert!(
                    *index == num_calls && !name.is_empty(),
                    "call {index} of `{name}` after {num_calls}"
                );
                num_calls += 1;
            }
            Delta::ToolArguments { index, fragment } => {
                assert!(*index < num_calls && !fragment.is_empty(), "arguments of call {index}");
            }
        }
    }
}

fn tools() -> Vec<Value> {
    let properties = json!({
        "city": {"type": "string"}, "n": {"type": "integer"}, "x": {"type": ["number", "null"]}, "o": {"type": "object"},
    });
    let parameters = json!({"type": "object", "properties": properties});
    vec![json!({"type": "function", "function": {"name": "f", "parameters": parameters}})]
}

/// What stands before a mark, and what behind it.
fn split<'a>(data: &'a [u8], mark: &[u8]) -> (&'a [u8], &'a [u8]) {
    match data.windows(mark.len()).position(|window| window == mark) {
        Some(at) => (&data[..at], &data[at + mark.len()..]),
        None => (data, &[]),
    }
}
