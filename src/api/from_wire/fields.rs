//! Reading a JSON object field by field, so that every fault is named by its path and says what would be right.
//!
//! `null` is the same as absent everywhere, as OpenAI's clients send it. What nobody took is left over at the end and is
//! logged: unknown fields are ignored, unless the server was told to be strict about those of the request itself.

use std::ops::RangeInclusive;

use candlewick_protocol::{clipped, quoted};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// An object of the request and where it stands in it.
pub struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// The body of a request.
    pub fn root(map: Map<String, Value>) -> Self {
        Self { map, path: String::new() }
    }

    /// An object at a path.
    pub fn at(path: impl Into<String>, value: Value) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(wrong_type(&path, "an object", &other)),
        }
    }

    /// The dotted path of a field of this object.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Whether a field is there; `null` is absent.
    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Takes a field out; `null` is absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.swap_remove(name).filter(|value| !value.is_null())
    }

    /// Puts a field in, for a reader that knows it by that name.
    pub fn put(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// A field as it is, left in its place; `null` is absent.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Takes a field that must be there.
    pub fn require<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::missing(self.path(name)))
    }

    /// Text.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    /// One of a few words.
    pub fn word(&mut self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        words.iter().copied().find(|word| *word == text).map(Some).ok_or_else(|| {
            let path = self.path(name);
            ApiError::invalid(
                path.as_str(),
                format!("`{path}` must be one of {}, not {}", words.join(", "), quoted(&text)),
            )
        })
    }

    /// True or false.
    pub fn bool(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(name), "true or false", &other)),
        }
    }

    /// True or false, false if absent.
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.bool(name)?.unwrap_or(false))
    }

    /// A number within a range that `allowed` describes.
    pub fn number(
        &mut self,
        name: &str,
        allowed: &str,
        in_range: impl Fn(f64) -> bool,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let path = self.path(name);
        match value.as_f64() {
            Some(number) if in_range(number) && (number as f32).is_finite() => Ok(Some(number as f32)),
            Some(_) => Err(wrong_type(&path, allowed, &value)),
            None => Err(wrong_type(&path, &format!("a number, {allowed}"), &value)),
        }
    }

    /// A whole number within a range.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        integer_at(&self.path(name), &value, range).map(Some)
    }

    /// A whole number that fits u32, from `min`.
    pub fn count(&mut self, name: &str, min: u32) -> Result<Option<u32>, ApiError> {
        let number = self.integer(name, i64::from(min)..=i64::from(u32::MAX))?;
        Ok(number.map(|number| u32::try_from(number).expect("the range is that of u32")))
    }

    /// A list.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.path(name), "a list", &other)),
        }
    }

    /// An object, unread.
    pub fn map(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong_type(&self.path(name), "an object", &other)),
        }
    }

    /// An object, to be read.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = self.path(name);
        Ok(self.map(name)?.map(|map| Fields { map, path }))
    }

    /// A list of token ids.
    pub fn token_ids(&mut self, name: &str) -> Result<Option<Vec<u32>>, ApiError> {
        let Some(items) = self.list(name)? else { return Ok(None) };
        token_ids_at(&self.path(name), &items).map(Some)
    }

    /// Refuses a field that exists elsewhere and not here, unless it is absent or `harmless` says that it asks for nothing.
    pub fn refuse(
        &mut self,
        name: &str,
        why: &str,
        harmless: impl Fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !harmless(&value) => {
                let path = self.path(name);
                Err(ApiError::unsupported(path.as_str(), format!("`{path}` is not supported: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Logs what nobody took, or refuses it if the server is strict.
    pub fn finish_request(self, is_strict: bool) -> Result<(), ApiError> {
        match self.map.keys().next().filter(|_| is_strict) {
            Some(name) => Err(ApiError::unknown(self.path(name))),
            None => {
                self.finish();
                Ok(())
            }
        }
    }

    /// Logs what nobody took.
    pub fn finish(self) {
        if !self.map.is_empty() {
            let names: Vec<&str> = self.map.keys().map(String::as_str).collect();
            tracing::debug!(at = %self.path, fields = ?names, "unknown fields ignored");
        }
    }
}

/// A whole number within a range. A number like `16.0` counts as whole, for clients that have only one kind of number.
pub fn integer_at(path: &str, value: &Value, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
    // A bound that only the width of a number sets is told to those alone who went beyond it.
    let is_large = value.as_f64().is_some_and(|number| number.abs() > f64::from(u32::MAX));
    let allowed = match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) if !is_large => "a whole number".to_owned(),
        (min, max) if max >= i64::from(u32::MAX) && !is_large => format!("a whole number of at least {min}"),
        (min, max) => format!("a whole number from {min} to {max}"),
    };
    let whole = value.as_i64().or_else(|| {
        // Up to 2^53 every whole f64 is exact.
        value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0).map(|n| n as i64)
    });
    match whole {
        Some(number) if range.contains(&number) => Ok(number),
        _ => Err(wrong_type(path, &allowed, value)),
    }
}

/// A list of token ids.
pub fn token_ids_at(path: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    let mut ids = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match item.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => ids.push(id),
            None => return Err(wrong_type(&format!("{path}.{index}"), "a token id", item)),
        }
    }
    Ok(ids)
}

/// The fault of a value that is something else than it should be.
pub fn wrong_type(path: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::invalid(path, format!("`{}` must be {expected}, not {}", clipped(path), describe(found)))
}

/// A value in a few words.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
