//! What OpenAI demands of schemas: how deep they may be, and what `strict: true` takes.

use serde_json::Value;

use crate::error::ApiError;

/// Objects and lists within one another, at most.
const NESTING_MAX: usize = 64;

/// Refuses a schema that is nested too deep.
pub fn check_nesting(path: &str, schema: &Value) -> Result<(), ApiError> {
    if depth(schema, NESTING_MAX + 1) > NESTING_MAX {
        return Err(ApiError::invalid(
            path,
            format!("`{path}` is nested more than {NESTING_MAX} levels deep"),
        ));
    }
    Ok(())
}

/// How deep a value is, looking no deeper than `limit`.
fn depth(value: &Value, limit: usize) -> usize {
    let inner = |values: &mut dyn Iterator<Item = &Value>| {
        if limit == 0 { 0 } else { values.map(|value| depth(value, limit - 1)).max().unwrap_or(0) }
    };
    match value {
        Value::Object(map) => 1 + inner(&mut map.values()),
        Value::Array(items) => 1 + inner(&mut items.iter()),
        _ => 0,
    }
}

/// Refuses what `strict: true` does not allow: every object names all its properties, requires them, and has no others.
pub fn check_strict(path: &str, schema: &Value) -> Result<(), ApiError> {
    let Value::Object(map) = schema else { return Ok(()) };
    let is_object = match map.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => map.contains_key("properties"),
    };
    if is_object {
        if map.get("additionalProperties") != Some(&Value::Bool(false)) {
            let at = format!("{path}.additionalProperties");
            let message = format!("with `strict: true`, `{at}` must be there and be false");
            return Err(ApiError::invalid(at, message));
        }
        let required = map.get("required").and_then(Value::as_array);
        let names = map.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.keys());
        for name in names {
            if !required.is_some_and(|required| required.iter().any(|entry| entry == name)) {
                let at = format!("{path}.required");
                let message =
                    format!("with `strict: true`, `{at}` must name every property; {name:?} is missing");
                return Err(ApiError::invalid(at, message));
            }
        }
    }
    for (key, value) in map {
        let at = format!("{path}.{key}");
        match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    check_strict(&format!("{at}.{name}"), schema)?;
                }
            }
            ("items", Value::Object(_)) => check_strict(&at, value)?,
            ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    check_strict(&format!("{at}.{index}"), schema)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
