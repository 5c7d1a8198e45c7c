//! The arguments of a tool one by one, for families that do not write them as one piece of JSON.

use candlewick_protocol::{Failure, JsonLayout};
use serde_json::{Map, Value};

use super::Tool;
use crate::grammar::lark::{Lark, one_of};
use crate::grammar::schema::{self, Strictness};

/// References and alternatives nested deeper than this are not followed.
const MAX_DEPTH: usize = 16;

/// One argument.
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) is_required: bool,
    /// What its value may be.
    pub(super) values: Vec<Shape>,
    strictness: Strictness,
    path: String,
}

/// One of the things that a value may be.
pub(super) enum Shape {
    /// A string, which is written without quotes.
    Text(Text),
    /// Anything else, which is written as JSON of this schema.
    Json(Value),
}

/// What a string is held to.
pub(super) enum Text {
    OneOf(Vec<String>),
    /// By patterns that hold all at once; may be empty only if `may_be_empty`.
    Matching {
        patterns: Vec<String>,
        may_be_empty: bool,
    },
}

/// What a tool's arguments are.
pub(super) enum Arguments<'a> {
    /// These.
    Fields(Vec<Field<'a>>),
    /// Any.
    Open,
}

/// The arguments of a tool, by its schema.
pub(super) fn arguments<'a>(tool: &Tool<'a>) -> Result<Arguments<'a>, Failure> {
    let Some(root) = tool.parameters else { return Ok(Arguments::Fields(Vec::new())) };
    let object = resolved(root, root);
    let Some(properties) = object["properties"].as_object() else {
        let is_closed = object["additionalProperties"] == Value::Bool(false);
        return Ok(if is_closed { Arguments::Fields(Vec::new()) } else { Arguments::Open });
    };
    let required: Vec<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = properties.iter().map(|(name, schema)| {
        let path = format!("{}.properties.{name}", tool.path);
        let mut values = Vec::new();
        shapes(schema, root, tool.strictness, &path, 0, &mut values)?;
        let is_required = required.contains(&name.as_str());
        Ok(Field { name, is_required, values, strictness: tool.strictness, path })
    });
    Ok(Arguments::Fields(fields.collect::<Result<_, Failure>>()?))
}

impl Field<'_> {
    /// The value as an expression that ends with its closing mark. `taken` is a pattern that no text may hold, since the
    /// parser would take it for that mark.
    pub(super) fn value(
        &self,
        lark: &mut Lark<'_>,
        before_text: &str,
        end: &str,
        taken: &str,
        after_json: &str,
    ) -> Result<String, Failure> {
        let mut options = Vec::new();
        for shape in &self.values {
            options.push(match shape {
                Shape::Text(text) => format!("{before_text} {}", text.up_to(lark, end, taken)),
                Shape::Json(schema) => {
                    let grammar = schema::grammar(schema, &JsonLayout::Free, self.strictness, &self.path)?;
                    format!("{} {after_json}", lark.nested(grammar))
                }
            });
        }
        Ok(lark.rule(&options.join(" | ")))
    }

    /// The value as JSON.
    pub(super) fn json(&self, lark: &mut Lark<'_>, tool: &Tool<'_>) -> Result<String, Failure> {
        let root = tool.parameters.unwrap_or(&Value::Null);
        let schema = with_definitions(&resolved(root, root)["properties"][self.name], root);
        Ok(lark.nested(schema::grammar(&schema, &JsonLayout::Free, self.strictness, &self.path)?))
    }
}

impl Text {
    /// Any text.
    pub(super) fn any() -> Self {
        Self::Matching { patterns: Vec::new(), may_be_empty: true }
    }

    /// The text and the mark behind it.
    pub(super) fn up_to(&self, lark: &mut Lark<'_>, end: &str, taken: &str) -> String {
        match self {
            Self::OneOf(texts) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                format!("{} {}", one_of(texts), lark.mark(end))
            }
            Self::Matching { patterns, may_be_empty } => {
                let mut body = format!("/(?s:.*)/ & ~/(?s:.*)({taken})(?s:.*)/");
                patterns.iter().for_each(|pattern| body.push_str(&format!(" & /{pattern}/")));
                if lark.starts_special(end) {
                    let text = lark.terminal(&format!("{body} & /(?s:.+)/"));
                    let maybe = if *may_be_empty { "?" } else { "" };
                    return format!("{text}{maybe} {}", lark.mark(end));
                }
                lark.up_to(&body, end)
            }
        }
    }
}

/// What a schema's values may be, alternatives taken apart.
fn shapes(
    schema: &Value,
    root: &Value,
    strictness: Strictness,
    path: &str,
    depth: usize,
    found: &mut Vec<Shape>,
) -> Result<(), Failure> {
    let schema = resolved(schema, root);
    let alternatives = ["anyOf", "oneOf"].into_iter().find_map(|key| schema[key].as_array());
    if let Some(alternatives) = alternatives.filter(|_| depth < MAX_DEPTH) {
        for alternative in alternatives {
            shapes(alternative, root, strictness, path, depth + 1, found)?;
        }
        return Ok(());
    }
    if let Some(types) = schema["type"].as_array() {
        for kind in types {
            let mut one = schema.clone();
            one["type"] = kind.clone();
            shapes(&one, root, strictness, path, depth + 1, found)?;
        }
        return Ok(());
    }
    let literals: Option<Vec<&Value>> = match (schema.get("const"), schema["enum"].as_array()) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => Some(values.iter().collect()),
        _ => None,
    };
    if let Some(literals) = literals {
        let (texts, others): (Vec<&Value>, Vec<&Value>) =
            literals.into_iter().partition(|value| value.as_str().is_some_and(|text| !text.is_empty()));
        let texts: Vec<String> = texts.into_iter().filter_map(Value::as_str).map(Into::into).collect();
        found.extend((!texts.is_empty()).then_some(Shape::Text(Text::OneOf(texts))));
        let others: Vec<Value> = others.into_iter().cloned().collect();
        found.extend((!others.is_empty()).then(|| Shape::Json(serde_json::json!({"enum": others}))));
        return Ok(());
    }
    match schema["type"].as_str() {
        Some("string") => found.push(Shape::Text(text(schema, strictness, path)?)),
        Some(_) => found.push(Shape::Json(with_definitions(schema, root))),
        // What is not said to be something else is read as it stands.
        None if schema.get("properties").is_some() || schema.get("items").is_some() => {
            found.push(Shape::Json(with_definitions(schema, root)));
        }
        None => found.push(Shape::Text(Text::any())),
    }
    Ok(())
}

/// What a string's schema holds it to.
fn text(schema: &Value, strictness: Strictness, path: &str) -> Result<Text, Failure> {
    let mut patterns = Vec::new();
    let count = |key: &str| schema[key].as_u64();
    let (min, max) = (count("minLength").unwrap_or(0), count("maxLength"));
    if min > 0 || max.is_some() {
        let max = max.map_or_else(String::new, |max| max.to_string());
        patterns.push(format!("(?s:.{{{min},{max}}})"));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let start = if pattern.starts_with('^') { "" } else { "(?s:.*)" };
        let end = if pattern.ends_with('$') { "" } else { "(?s:.*)" };
        let inner = pattern.trim_start_matches('^').trim_end_matches('$');
        patterns.push(format!("{start}({}){end}", llguidance::regex_to_lark(inner, "dw")));
    }
    if let Some(format) = schema["format"].as_str() {
        match (format_pattern(format), strictness) {
            (Some(pattern), _) => patterns.push(pattern.into()),
            (None, Strictness::Lenient) => {}
            (None, Strictness::Exact) => {
                let message =
                    format!("the format {format} cannot be guaranteed in this model's calls; leave it out");
                return Err(Failure::invalid(format!("{path}.format"), message));
            }
        }
    }
    let may_be_empty =
        patterns.is_empty() || (min == 0 && schema["pattern"].is_null() && schema["format"].is_null());
    Ok(Text::Matching { patterns, may_be_empty })
}

fn format_pattern(format: &str) -> Option<&'static str> {
    Some(match format {
        "date" => r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
        "time" => r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
        "date-time" => {
            r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
        }
        "email" => {
            r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+"
        }
        "uuid" => r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
        "ipv4" => {
            r"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
        }
        _ => return None,
    })
}

/// A schema, or what it refers to.
fn resolved<'a>(mut schema: &'a Value, root: &'a Value) -> &'a Value {
    for _ in 0..MAX_DEPTH {
        let target = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
        match target.and_then(|path| root.pointer(path)) {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// A part of a schema, with what its references lead to.
fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut whole = match schema {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = root.get(key) {
            whole.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    Value::Object(whole)
}
