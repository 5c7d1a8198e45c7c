//! The `tojson` filter of chat templates: Python's `json.dumps`, not Jinja's HTML-safe one.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::python;

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| -> Result<Value, Error> {
        match positional.get(index) {
            Some(value) => Ok(value.clone()),
            None => Ok(kwargs.get::<Option<Value>>(name)?.unwrap_or(Value::from(()))),
        }
    };
    let ascii = argument(0, "ensure_ascii")?;
    let indent = argument(1, "indent")?;
    let separators = argument(2, "separators")?;
    let sort_keys = argument(3, "sort_keys")?;
    kwargs.assert_all_used()?;
    let indent = match indent.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        ValueKind::String => Some(indent.as_str().unwrap_or_default().to_owned()),
        _ => Some(" ".repeat(usize::try_from(indent.clone()).unwrap_or(0).min(MAX_INDENT))),
    };
    let separator = |index: usize| {
        separators.get_item_by_index(index).ok().and_then(|text| Some(text.as_str()?.to_owned()))
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let mut writer = Writer {
        out: String::new(),
        ensure_ascii: ascii.is_true(),
        indent,
        item_separator: separator(0).unwrap_or_else(|| comma.into()),
        key_separator: separator(1).unwrap_or_else(|| ": ".into()),
        sort_keys: sort_keys.is_true(),
    };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

/// A value as `json.dumps` writes it by itself, with characters as they are.
pub(crate) fn text(value: &serde_json::Value) -> String {
    let mut writer = Writer {
        out: String::new(),
        ensure_ascii: false,
        indent: None,
        item_separator: ", ".into(),
        key_separator: ": ".into(),
        sort_keys: false,
    };
    match writer.value(&Value::from(minijinja::value::Serde(value)), 0) {
        Ok(()) => writer.out,
        // Too deep for Python's rules; it is JSON all the same.
        Err(_) => value.to_string(),
    }
}

/// An indent beyond this is a template that wants to fill memory.
const MAX_INDENT: usize = 64;

/// Deeper values are refused, as Python refuses them.
const MAX_DEPTH: usize = 200;

struct Writer {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', items, depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let object = value.as_object().and_then(|object| object.try_iter_pairs());
                let mut pairs = Vec::new();
                for (key, item) in object.into_iter().flatten() {
                    pairs.push((key_text(&key)?, item));
                }
                if self.sort_keys {
                    pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.container('{', '}', pairs, depth, |writer, (key, item)| {
                    writer.string(&key);
                    writer.out.push_str(&writer.key_separator);
                    writer.value(&item, depth + 1)
                })?;
            }
            _ => return Err(not_serializable(value)),
        }
        Ok(())
    }

    fn container<T>(
        &mut self,
        open: char,
        close: char,
        items: Vec<T>,
        depth: usize,
        mut item: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let is_empty = items.is_empty();
        for (index, content) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item_separator);
            }
            self.new_line(depth + 1);
            item(self, content)?;
        }
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                char if char < ' ' || (self.ensure_ascii && !matches!(char, ' '..='~')) => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                char => self.out.push(char),
            }
        }
        self.out.push('"');
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match python::float(number).as_str() {
            "nan" => "NaN".into(),
            "inf" => "Infinity".into(),
            "-inf" => "-Infinity".into(),
            text => text.into(),
        },
        _ => value.to_string(),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => number(key),
        _ => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "keys must be str, int, float, bool or None",
            ));
        }
    })
}

fn not_serializable(value: &Value) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("a value of type {} is not JSON serializable", value.kind()),
    )
}
