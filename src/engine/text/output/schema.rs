//! Values that a model writes as plain text, made what the tool's JSON schema says they are.
//!
//! The first of integer, number, boolean, null, object, array that the schema allows and the text fits; else the text
//! is a string. This is what transformers' `parse_response` does.

use serde_json::Value;

use super::json_text::quote;

/// The types to try, in order.
const TYPES: [&str; 6] = ["integer", "number", "boolean", "null", "object", "array"];

/// References and alternatives nested deeper than this are not followed.
const MAX_DEPTH: usize = 16;

/// The types that a parameter may have, beside string.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types {
    /// By place in [`TYPES`].
    allowed: [bool; TYPES.len()],
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
    pub(super) fn is_string(self) -> bool {
        self == Self::default()
    }

    /// A value as JSON.
    pub(super) fn cast(self, text: &str) -> String {
        let names = TYPES.into_iter().zip(self.allowed).filter_map(|(name, allowed)| allowed.then_some(name));
        names.into_iter().find_map(|name| fit(text.trim(), name)).unwrap_or_else(|| quote(text))
    }

    fn add(&mut self, schema: &Value, root: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match &schema["type"] {
            Value::String(name) => self.add_name(name),
            Value::Array(names) => {
                names.iter().filter_map(Value::as_str).for_each(|name| self.add_name(name))
            }
            // A schema that says what is in a value says what the value is.
            _ if schema.get("properties").is_some() => self.add_name("object"),
            _ if schema.get("items").is_some() => self.add_name("array"),
            _ => {
                let values =
                    schema.get("const").into_iter().chain(schema["enum"].as_array().into_iter().flatten());
                values.for_each(|value| self.add_name(type_of(value)));
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
    }

    fn add_name(&mut self, name: &str) {
        if let Some(index) = TYPES.iter().position(|known| *known == name) {
            self.allowed[index] = true;
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A text as a JSON value of one type, if it is one. Numbers and what is nested stay as the model wrote them.
fn fit(text: &str, name: &str) -> Option<String> {
    let parsed = || serde_json::from_str::<Value>(text).ok();
    let fits = match name {
        "integer" => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_plain = digits == "0" || !digits.starts_with('0');
            is_plain && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        "number" => parsed()?.is_number(),
        "boolean" => {
            return ["true", "false"].into_iter().find(|word| text.eq_ignore_ascii_case(word)).map(Into::into);
        }
        "null" => return matches!(text, "null" | "None").then(|| "null".into()),
        "object" => parsed()?.is_object(),
        _ => parsed()?.is_array(),
    };
    fits.then(|| text.into())
}
