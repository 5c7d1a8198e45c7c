//! JSON Schemas at random, and whether a value obeys one: just the keywords that are generated.
//!
//! Every value of such a schema is short, so that a model without a clue comes to its end.

use serde_json::{Map, Value, json};

/// Random numbers that are the same on every machine: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Rng(pub u64);

impl Rng {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// An object's schema, with definitions that its parts refer to.
pub fn any_object(rng: &mut Rng) -> Value {
    let mut schema = object(rng, 2);
    schema["$defs"] = json!({"leaf": leaf(rng), "pair": {"type": "array", "items": leaf(rng), "minItems": 2, "maxItems": 2}});
    schema
}

fn any(rng: &mut Rng, depth: usize) -> Value {
    match rng.below(if depth == 0 { 6 } else { 10 }) {
        0..5 => leaf(rng),
        5 => json!({"$ref": if rng.below(2) == 0 { "#/$defs/leaf" } else { "#/$defs/pair" }}),
        6 => object(rng, depth - 1),
        7 => json!({"type": "array", "items": any(rng, depth - 1), "maxItems": 1 + rng.below(3)}),
        8 => json!({"anyOf": [any(rng, depth - 1), {"type": "null"}]}),
        _ => json!({"anyOf": [leaf(rng), leaf(rng)]}),
    }
}

fn object(rng: &mut Rng, depth: usize) -> Value {
    let names = ["a", "city", "größe", "two words", "x_1"];
    let num = 1 + rng.below(4);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for name in &names[..num] {
        properties.insert((*name).into(), any(rng, depth));
        if rng.below(3) > 0 {
            required.push(*name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn leaf(rng: &mut Rng) -> Value {
    match rng.below(8) {
        0 => json!({"type": "boolean"}),
        1 => json!({"enum": ["red", "grün", 7, null, true]}),
        2 => json!({"type": "integer", "minimum": -20, "maximum": rng.below(1000)}),
        3 => json!({"type": "number", "minimum": 0, "maximum": 1}),
        4 => json!({"type": "string", "maxLength": 1 + rng.below(6)}),
        5 => json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}),
        6 => json!({"type": ["string", "null"], "minLength": 1, "maxLength": 4}),
        _ => json!({"const": "fixed"}),
    }
}

/// Whether a value obeys a schema. `root` is the whole schema.
pub fn obeys(value: &Value, schema: &Value, root: &Value) -> bool {
    if let Some(target) = schema["$ref"].as_str() {
        return obeys(value, root.pointer(&target[1..]).expect("it refers to something"), root);
    }
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| obeys(value, option, root));
    }
    if let Some(only) = schema.get("const") {
        return value == only;
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    kinds.iter().any(|kind| is_of(value, kind, schema, root))
}

fn is_of(value: &Value, kind: &str, schema: &Value, root: &Value) -> bool {
    let number = |key: &str| schema[key].as_f64();
    match (kind, value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) => true,
        ("integer" | "number", Value::Number(found)) => {
            let found = found.as_f64().expect("it is finite");
            (kind == "number" || found.fract() == 0.0)
                && number("minimum").is_none_or(|min| found >= min)
                && number("maximum").is_none_or(|max| found <= max)
        }
        ("string", Value::String(text)) => {
            let length = text.chars().count() as f64;
            number("minLength").is_none_or(|min| length >= min)
                && number("maxLength").is_none_or(|max| length <= max)
                && (schema["pattern"].is_null() || is_code(text))
        }
        ("array", Value::Array(items)) => {
            number("minItems").is_none_or(|min| items.len() as f64 >= min)
                && number("maxItems").is_none_or(|max| items.len() as f64 <= max)
                && items.iter().all(|item| obeys(item, &schema["items"], root))
        }
        ("object", Value::Object(map)) => {
            let required = schema["required"].as_array().into_iter().flatten();
            required.filter_map(Value::as_str).all(|name| map.contains_key(name))
                && map.iter().all(|(name, value)| {
                    schema["properties"].get(name).is_some_and(|schema| obeys(value, schema, root))
                })
        }
        _ => false,
    }
}

/// The one pattern that is generated.
fn is_code(text: &str) -> bool {
    let (letters, digits) = text.split_once('-').unwrap_or_default();
    letters.len() == 2
        && letters.bytes().all(|byte| byte.is_ascii_uppercase())
        && (1..=3).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}
