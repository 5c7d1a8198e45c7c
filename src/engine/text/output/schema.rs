//! Values that a model writes as plain text, made what the tool's JSON schema says they are.
//!
//! The first type that the schema names and the text fits, in the schema's order; else the text is a string. The rules
//! are those of transformers' `parse_response`; beyond them, `$ref`, `allOf` and `enum` are followed.

use serde_json::Value;

use super::json_text::quote;
use super::number;

/// References and alternatives nested deeper than this are not followed.
const MAX_DEPTH: usize = 16;

/// The types that a parameter may have beside string, in order.
#[derive(Debug, Default, Clone)]
pub(super) struct Types(Vec<Type>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Integer,
    Number,
    Boolean,
    Null,
    Object,
    Array,
}

impl Types {
    /// Those of one parameter. `parameters` is the schema of all of them.
    pub(super) fn of(parameters: Option<&Value>, name: &str) -> Self {
        let mut types = Self::default();
        if let Some(parameters) = parameters
            && let Some(schema) = parameters.get("properties").and_then(|properties| properties.get(name))
        {
            types.add(schema, parameters, 0);
        }
        types
    }

    /// Whether a value can be nothing but a string.
    pub(super) fn is_string(&self) -> bool {
        self.0.is_empty()
    }

    /// A value as JSON.
    pub(super) fn cast(&self, text: &str) -> String {
        self.0.iter().find_map(|kind| fit(text, *kind)).unwrap_or_else(|| quote(text))
    }

    /// A value whose texts are made what the schema says. A list in the place of something else holds the values of a
    /// key that came more than once.
    pub(super) fn cast_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => serde_json::from_str(&self.cast(text)).unwrap_or_else(|_| value.clone()),
            Value::Array(list) if !self.0.contains(&Type::Array) => {
                let cast = |item: &Value| if item.is_string() { self.cast_value(item) } else { item.clone() };
                list.iter().map(cast).collect()
            }
            _ => value.clone(),
        }
    }

    fn add(&mut self, schema: &Value, root: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match &schema["type"] {
            Value::String(name) => self.0.extend(named(name)),
            Value::Array(names) => self.0.extend(names.iter().filter_map(|name| named(name.as_str()?))),
            // A schema that says what is in a value says what the value is.
            _ if schema.get("properties").is_some() => self.0.push(Type::Object),
            _ if schema.get("items").is_some() => self.0.push(Type::Array),
            _ => {
                let values =
                    schema.get("const").into_iter().chain(schema["enum"].as_array().into_iter().flatten());
                self.0.extend(values.filter_map(type_of));
            }
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            for part in schema[key].as_array().into_iter().flatten() {
                self.add(part, root, depth + 1);
            }
        }
        let target = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
        if let Some(target) = target.and_then(|path| root.pointer(path)) {
            self.add(target, root, depth + 1);
        }
        if schema["nullable"] == Value::Bool(true) {
            self.0.push(Type::Null);
        }
    }
}

fn named(name: &str) -> Option<Type> {
    Some(match name {
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        "null" => Type::Null,
        "object" => Type::Object,
        "array" => Type::Array,
        _ => return None,
    })
}

fn type_of(value: &Value) -> Option<Type> {
    Some(match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Boolean,
        Value::Number(number) if number.is_f64() => Type::Number,
        Value::Number(_) => Type::Integer,
        Value::String(_) => return None,
        Value::Array(_) => Type::Array,
        Value::Object(_) => Type::Object,
    })
}

/// A text as a JSON value of one type, if it is one. What is nested stays as the model wrote it.
fn fit(text: &str, kind: Type) -> Option<String> {
    let text = text.trim();
    let parsed = || serde_json::from_str::<Value>(text).ok();
    let is_same = match kind {
        Type::Integer => return number::whole(text),
        Type::Number => return number::number(text),
        Type::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => return Some("true".into()),
            "false" | "0" => return Some("false".into()),
            _ => false,
        },
        Type::Null => return matches!(text, "null" | "None").then(|| "null".into()),
        Type::Object => parsed()?.is_object(),
        Type::Array => parsed()?.is_array(),
    };
    is_same.then(|| text.into())
}
