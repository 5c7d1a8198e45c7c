//! What a response template says: the fields of a message, and how each is delimited and read.
//!
//! The language and what it refuses are those of transformers 5.23 (`utils/chat_parsing`), version 1.

use serde_json::{Map, Value};

use super::content::{Content, is_placeholder};
use super::pattern::Delimiter;

/// A response template, checked.
#[derive(Debug)]
pub(crate) struct ResponseTemplate {
    /// In order of their names, which decides between delimiters of one length at one place.
    pub(super) fields: Vec<Field>,
    /// The field that holds what no other does.
    pub(super) implicit: Option<usize>,
    /// Where the message begins in prompt and answer.
    pub(super) start: Delimiter,
}

/// A field of the message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) role: Role,
    pub(super) open: Option<Delimiter>,
    pub(super) close: Option<Delimiter>,
    pub(super) content: Content,
    /// What stands between two of them.
    pub(super) join: Option<String>,
    pub(super) transform: Option<Value>,
    /// The content is a list, and each of its elements is transformed.
    pub(super) transform_each: bool,
}

/// What a field is to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Answer,
    Reasoning,
    Calls,
    /// Nothing that the API has.
    Other,
}

const TEMPLATE_KEYS: &[&str] = &["version", "defaults", "fields", "start_anchor", "start_anchor_pattern"];
const FIELD_KEYS: &[&str] = &[
    "open",
    "open_pattern",
    "close",
    "close_pattern",
    "content",
    "content_args",
    "repeats",
    "join",
    "optional",
    "transform",
    "transform_each",
];

impl ResponseTemplate {
    /// Reads a template; the text says what is wrong with it.
    pub(crate) fn new(template: &Value) -> Result<Self, String> {
        let template = object("the template", template)?;
        known("the template", template, TEMPLATE_KEYS)?;
        match template.get("version") {
            None => {}
            Some(version) if version == &Value::from(1) => {}
            Some(version) => return Err(format!("its version is {version}; only 1 is known")),
        }
        let start = delimiter("the template", template, "start_anchor", "start_anchor_pattern")?;
        let start = start.ok_or("it has neither `start_anchor` nor `start_anchor_pattern`")?;
        let mut fields = Vec::new();
        for (name, field) in object("`fields`", template.get("fields").unwrap_or(&Value::Null))? {
            fields.push((name, Field::new(name, field)?));
        }
        if fields.is_empty() {
            return Err("it has no fields".into());
        }
        fields.sort_by_key(|(name, _)| *name);
        let fields: Vec<Field> = fields.into_iter().map(|(_, field)| field).collect();
        let mut implicit = fields.iter().enumerate().filter(|(_, field)| field.open.is_none());
        let (first, second) = (implicit.next(), implicit.next());
        if second.is_some() {
            return Err("more than one field has neither `open` nor `open_pattern`".into());
        }
        Ok(Self { implicit: first.map(|(index, _)| index), fields, start })
    }

    /// Whether some delimiter can be decided only when the text is complete.
    pub(super) fn is_held(&self) -> bool {
        let delimiters = self.fields.iter().flat_map(|field| [&field.open, &field.close]).flatten();
        delimiters.into_iter().any(|delimiter| delimiter.automaton().is_none())
    }
}

impl Field {
    fn new(name: &str, field: &Value) -> Result<Self, String> {
        let scope = format!("field `{name}`");
        let field = object(&scope, field)?;
        known(&scope, field, FIELD_KEYS)?;
        let content = Content::new(field.get("content"), field.get("content_args"))
            .map_err(|why| format!("{scope}: {why}"))?;
        let open = delimiter(&scope, field, "open", "open_pattern")?;
        let close = delimiter(&scope, field, "close", "close_pattern")?;
        let flag = |key: &str| match field.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(format!("{scope}: `{key}` is not true or false")),
        };
        let join = match field.get("join") {
            None | Some(Value::Null) => None,
            Some(Value::String(join)) if flag("repeats")? => Some(join.clone()),
            Some(Value::String(_)) => return Err(format!("{scope}: `join` takes `repeats`")),
            Some(_) => return Err(format!("{scope}: `join` is not a text")),
        };
        let transform = field.get("transform").filter(|transform| !transform.is_null()).cloned();
        let transform_each = flag("transform_each")?;
        match &transform {
            Some(transform) => check_transform(&scope, transform)?,
            None if transform_each => return Err(format!("{scope}: `transform_each` takes `transform`")),
            None if open.iter().chain(&close).any(Delimiter::has_names) => {
                return Err(format!("{scope}: what its patterns capture takes a `transform` to be told"));
            }
            None => {}
        }
        let role = match name {
            "content" => Role::Answer,
            "reasoning_content" | "thinking" | "reasoning" => Role::Reasoning,
            "tool_calls" => Role::Calls,
            _ => Role::Other,
        };
        Ok(Self { role, open, close, content, join, transform, transform_each })
    }
}

fn object<'a>(what: &str, value: &'a Value) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{what} is not an object"))
}

fn known(scope: &str, map: &Map<String, Value>, keys: &[&str]) -> Result<(), String> {
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("{scope} has `{key}`, which is not known")),
        None => Ok(()),
    }
}

/// A text, a list of texts, or a pattern.
fn delimiter(
    scope: &str,
    map: &Map<String, Value>,
    texts: &str,
    pattern: &str,
) -> Result<Option<Delimiter>, String> {
    let (text, pattern) = (map.get(texts), map.get(pattern));
    let made = match (text, pattern) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(format!("{scope} has both `{texts}` and `{texts}_pattern`")),
        (None, Some(Value::String(pattern))) => Delimiter::of_pattern(pattern),
        (None, Some(_)) => Err(format!("`{texts}_pattern` is not a text")),
        (Some(text), None) => {
            let list = text.as_array().map_or_else(|| vec![text], |list| list.iter().collect());
            let list: Option<Vec<&str>> = list.into_iter().map(Value::as_str).collect();
            match list {
                Some(list) if !list.is_empty() && !list.contains(&"") => Delimiter::of_texts(&list),
                _ => Err(format!("`{texts}` is neither a text nor a list of texts")),
            }
        }
    };
    made.map(Some).map_err(|why| format!("{scope}: {why}"))
}

/// A text is a placeholder or has none.
fn check_transform(scope: &str, transform: &Value) -> Result<(), String> {
    match transform {
        Value::Object(map) => map.values().try_for_each(|value| check_transform(scope, value)),
        Value::Array(list) => list.iter().try_for_each(|value| check_transform(scope, value)),
        Value::String(text) if is_placeholder(text) == Some(false) => {
            Err(format!("{scope}: `{text}` mixes a placeholder with text"))
        }
        _ => Ok(()),
    }
}
