//! JSON Schemas on their way to llguidance: what it cannot guarantee is named and refused, layout is added.

use candlewick_protocol::{Failure, JsonLayout, quoted};
use llguidance::api::GrammarWithLexer;
use serde_json::{Map, Value, json};

/// White space where JSON allows it: at most this much at a time, for a model that has lost the thread would write it
/// for ever.
const SPACE: &str = r"[ \t\n\r]{1,40}";

/// Keywords of JSON Schema that constrain, and that no grammar here keeps to.
const NOT_KEPT: &[&str] = &[
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// Keywords whose value is a schema, a list of them, or an object of them.
const ONE: &[&str] = &["additionalItems", "additionalProperties", "items"];
const LISTS: &[&str] = &["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const MAPS: &[&str] = &["$defs", "definitions", "patternProperties", "properties"];

/// How strictly a schema is kept to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Every word of it; what cannot be kept to is refused.
    Exact,
    /// As far as is possible.
    Lenient,
}

/// A schema as a grammar. `path` is where the request has it.
pub(super) fn grammar(
    schema: &Value,
    layout: &JsonLayout,
    strictness: Strictness,
    path: &str,
) -> Result<GrammarWithLexer, Failure> {
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(Failure::invalid(path, format!("`{path}` must be a JSON Schema: an object"))),
    };
    if strictness == Strictness::Exact {
        check(&schema, path)?;
    }
    let mut options = json!({"lenient": strictness == Strictness::Lenient});
    match layout {
        JsonLayout::Free => options["whitespace_pattern"] = SPACE.into(),
        JsonLayout::Compact => options["whitespace_flexible"] = false.into(),
        JsonLayout::Pattern(pattern) => options["whitespace_pattern"] = pattern.as_str().into(),
    }
    // Options of llguidance's own; a client has other ways to say how its JSON is laid out.
    schema.insert("x-guidance".into(), options);
    Ok(GrammarWithLexer::from_json_schema(Value::Object(schema)))
}

/// Refuses the first keyword that cannot be kept to, by its path.
fn check(schema: &Map<String, Value>, path: &str) -> Result<(), Failure> {
    for (key, value) in schema {
        let at = format!("{path}.{key}");
        // `uniqueItems: false` and its like ask for nothing.
        if NOT_KEPT.contains(&key.as_str()) && !matches!(value, Value::Bool(false)) {
            let message = format!("{} in a schema cannot be guaranteed here; leave it out", quoted(key));
            return Err(Failure::invalid(at, message));
        }
        match value {
            Value::Object(inner) if MAPS.contains(&key.as_str()) => {
                for (name, schema) in inner {
                    if let Value::Object(schema) = schema {
                        check(schema, &format!("{at}.{name}"))?;
                    }
                }
            }
            Value::Object(inner) if ONE.contains(&key.as_str()) => check(inner, &at)?,
            Value::Array(items) if LISTS.contains(&key.as_str()) => {
                for (index, schema) in items.iter().enumerate() {
                    if let Value::Object(schema) = schema {
                        check(schema, &format!("{at}.{index}"))?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
