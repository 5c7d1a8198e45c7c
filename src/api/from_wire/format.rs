//! What an answer is to be held to, in all the ways that clients know to say it: OpenAI's `response_format` and
//! `text.format`, vLLM's `structured_outputs` and its older `guided_…`, and TGI's `grammar`.

use candlewick_protocol::{Constraint, JsonLayout, OutputForm, TaggedStructure, quoted};
use serde_json::{Value, json};

use super::fields::{Fields, wrong_type};
use super::strict::{check_nesting, check_strict};
use crate::error::ApiError;

/// Longest name of a schema.
const NAME_LENGTH_MAX: usize = 64;
/// Most texts to choose among.
const NUM_CHOICES_MAX: usize = 1024;

/// What a request holds its answers to, if it does, in whichever of its fields.
pub fn read_constraint(fields: &mut Fields) -> Result<Option<Constraint>, ApiError> {
    let mut found: Vec<Constraint> = Vec::new();
    let path = fields.path("response_format");
    if let Some(format) = fields.take("response_format") {
        found.extend(read_format(&path, format)?);
    }
    if let Some(outputs) = fields.object("structured_outputs")? {
        found.extend(read_structured_outputs(outputs)?);
    }
    found.extend(read_guided(fields)?);
    let path = fields.path("grammar");
    if let Some(grammar) = fields.take("grammar") {
        found.extend(read_typed_value(&path, grammar)?);
    }
    if let [first, second, ..] = found.as_slice() {
        let (first, second) = (root(&first.param), root(&second.param));
        let message = format!("`{first}` and `{second}` both hold the answer to a form; send one of them");
        return Err(ApiError::invalid(second, message));
    }
    Ok(found.pop())
}

/// The field of the request that a path begins with.
fn root(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// A format object of OpenAI's: `response_format`, or `text.format` of the Responses API, which has the fields of
/// `json_schema` beside its type. Also what the clients of TGI send in its place.
pub fn read_format(path: &str, format: Value) -> Result<Option<Constraint>, ApiError> {
    const TYPES: [&str; 7] =
        ["text", "json_object", "json_schema", "structural_tag", "json", "regex", "grammar"];
    if format.get("value").is_some_and(|value| !value.is_null()) {
        return read_typed_value(path, format);
    }
    let mut fields = Fields::at(path, format)?;
    let class = fields.word("type", &TYPES)?;
    let form = match fields.require("type", class)? {
        "text" => return Ok(None),
        "json_object" => Some((OutputForm::json_object(), path.to_owned())),
        "json_schema" => Some(read_json_schema(&mut fields)?),
        "structural_tag" => Some((read_structural_tag(&mut fields)?, path.to_owned())),
        // TGI's words, which say nothing without a value.
        _ => return Err(ApiError::missing(fields.path("value"))),
    };
    fields.finish();
    Ok(form.map(|(form, param)| Constraint { form, param }))
}

/// `json_schema: {name, description, schema, strict}`, or the same without the object around it.
fn read_json_schema(fields: &mut Fields) -> Result<(OutputForm, String), ApiError> {
    let nested = fields.object("json_schema")?;
    let is_nested = nested.is_some();
    if !is_nested && fields.peek("schema").is_none() && fields.peek("name").is_none() {
        return Err(ApiError::missing(fields.path("json_schema")));
    }
    let mut taken = nested;
    let inner = taken.as_mut().unwrap_or(fields);
    let name = inner.string("name")?;
    let name = inner.require("name", name)?;
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_name_byte) {
        let path = inner.path("name");
        let message = format!("`{path}` must be 1 to {NAME_LENGTH_MAX} letters, digits, `_` or `-`");
        return Err(ApiError::invalid(path, message));
    }
    inner.string("description")?;
    let is_strict = inner.flag("strict")?;
    let path = inner.path("schema");
    // OpenAI lets the schema out: then any object will do.
    let schema = inner.map("schema")?.map_or_else(|| json!({"type": "object"}), Value::Object);
    check_nesting(&path, &schema)?;
    if is_strict {
        check_strict(&path, &schema)?;
    }
    if let Some(nested) = taken {
        nested.finish();
    }
    Ok((OutputForm::json(schema), path))
}

/// vLLM's `structured_outputs`: exactly one form, and how JSON is laid out.
fn read_structured_outputs(mut fields: Fields) -> Result<Option<Constraint>, ApiError> {
    let path = fields.path("");
    let path = path.trim_end_matches('.').to_owned();
    let layout = read_layout(&mut fields, "disable_any_whitespace", "whitespace_pattern")?;
    let is_closed = fields.flag("disable_additional_properties")?;
    let mut found = Vec::new();
    let at = fields.path("json");
    if let Some(schema) = fields.take("json") {
        let mut schema = schema_of(&at, schema)?;
        if is_closed {
            close(&mut schema);
        }
        found.push((OutputForm::Json { schema, layout: layout.clone() }, at));
    }
    let at = fields.path("json_object");
    match fields.bool("json_object")? {
        Some(true) => {
            found.push((OutputForm::Json { schema: json!({"type": "object"}), layout }, at));
        }
        Some(false) => return Err(ApiError::invalid(at.as_str(), format!("`{at}` can only be true"))),
        None => {}
    }
    found.extend(read_plain_forms(&mut fields, ["regex", "choice", "grammar"])?);
    let at = fields.path("structural_tag");
    if let Some(tag) = fields.take("structural_tag") {
        found.push((read_structural_tag(&mut Fields::at(&at, parsed(&at, tag)?)?)?, at));
    }
    // Which backend does it is nobody's business but the server's.
    fields.take("_backend");
    fields.finish();
    match found.len() {
        0 | 1 => Ok(found.pop().map(|(form, param)| Constraint { form, param })),
        _ => {
            let names = "json, regex, choice, grammar, json_object and structural_tag";
            Err(ApiError::invalid(path.as_str(), format!("`{path}` must have exactly one of {names}")))
        }
    }
}

/// vLLM's older fields, one for each form.
fn read_guided(fields: &mut Fields) -> Result<Option<Constraint>, ApiError> {
    // They chose among programs that do the work; here there is one.
    fields.string("guided_decoding_backend")?;
    let layout = read_layout(fields, "", "guided_whitespace_pattern")?;
    let mut found = Vec::new();
    let at = fields.path("guided_json");
    if let Some(schema) = fields.take("guided_json") {
        found.push((OutputForm::Json { schema: schema_of(&at, schema)?, layout }, at));
    }
    found.extend(read_plain_forms(fields, ["guided_regex", "guided_choice", "guided_grammar"])?);
    let at = fields.path("structural_tag");
    if let Some(tag) = fields.take("structural_tag") {
        found.push((read_structural_tag(&mut Fields::at(&at, parsed(&at, tag)?)?)?, at));
    }
    if let [_, (_, second), ..] = found.as_slice() {
        let message = format!("`{second}` is one form too many: an answer can be held to one");
        return Err(ApiError::invalid(second.as_str(), message));
    }
    if found.iter().any(|(_, param)| param.starts_with("guided")) {
        tracing::debug!("a `guided_…` field is read; its name today is `structured_outputs`");
    }
    Ok(found.pop().map(|(form, param)| Constraint { form, param }))
}

/// `{type, value}`, as TGI has it.
fn read_typed_value(path: &str, typed: Value) -> Result<Option<Constraint>, ApiError> {
    let mut fields = Fields::at(path, typed)?;
    let class = fields.word("type", &["json", "json_object", "json_schema", "regex", "grammar"])?;
    let class = fields.require("type", class)?;
    let at = fields.path("value");
    let value = fields.take("value");
    let value = fields.require("value", value)?;
    let (form, at) = match class {
        "regex" => (OutputForm::Regex(pattern(&at, value)?), at),
        "grammar" => (OutputForm::Grammar(not_empty(&at, value)?), at),
        "json_schema" if value.get("schema").is_some() => {
            let mut named = Fields::at(&at, value)?;
            named.string("name")?;
            let (at, schema) = (named.path("schema"), named.take("schema"));
            (OutputForm::json(schema_of(&at, schema.unwrap_or_default())?), at)
        }
        _ => (OutputForm::json(schema_of(&at, value)?), at),
    };
    fields.finish();
    Ok(Some(Constraint { form, param: at }))
}

/// A pattern, texts to choose among, and a grammar, under these names.
fn read_plain_forms(
    fields: &mut Fields,
    [regex, choice, grammar]: [&str; 3],
) -> Result<Vec<(OutputForm, String)>, ApiError> {
    let mut found = Vec::new();
    let at = fields.path(regex);
    if let Some(text) = fields.take(regex) {
        found.push((OutputForm::Regex(pattern(&at, text)?), at));
    }
    let at = fields.path(choice);
    if let Some(texts) = fields.list(choice)? {
        found.push((OutputForm::Choice(choices(&at, texts)?), at));
    }
    let at = fields.path(grammar);
    if let Some(text) = fields.take(grammar) {
        found.push((OutputForm::Grammar(not_empty(&at, text)?), at));
    }
    Ok(found)
}

fn read_layout(fields: &mut Fields, compact: &str, pattern: &str) -> Result<JsonLayout, ApiError> {
    let is_compact = !compact.is_empty() && fields.flag(compact)?;
    Ok(match fields.string(pattern)? {
        _ if is_compact => JsonLayout::Compact,
        Some(pattern) => JsonLayout::Pattern(pattern),
        None => JsonLayout::Free,
    })
}

/// `{triggers, structures: [{begin, schema, end}]}`.
fn read_structural_tag(fields: &mut Fields) -> Result<OutputForm, ApiError> {
    fields.word("type", &["structural_tag"])?;
    let why = "send `triggers` and `structures`";
    fields.refuse("format", why, |_| false)?;
    let triggers_path = fields.path("triggers");
    let triggers = fields.list("triggers")?;
    let triggers = fields.require("triggers", triggers)?;
    let triggers = triggers.into_iter().enumerate();
    let triggers = triggers.map(|(index, text)| not_empty(&format!("{triggers_path}.{index}"), text));
    let triggers = triggers.collect::<Result<Vec<String>, ApiError>>()?;
    let path = fields.path("structures");
    let structures = fields.list("structures")?;
    let structures = fields.require("structures", structures)?;
    let mut read = Vec::new();
    for (index, structure) in structures.into_iter().enumerate() {
        let mut structure = Fields::at(format!("{path}.{index}"), structure)?;
        let (begin, end) = (structure.string("begin")?, structure.string("end")?);
        let schema = structure.take("schema");
        let schema_path = structure.path("schema");
        let tagged = TaggedStructure {
            begin: structure.require("begin", begin)?,
            schema: schema_of(&schema_path, structure.require("schema", schema)?)?,
            end: structure.require("end", end)?,
        };
        if !triggers.iter().any(|trigger| tagged.begin.starts_with(trigger.as_str())) {
            let at = structure.path("begin");
            let message = format!("`{at}` begins with none of `{triggers_path}`");
            return Err(ApiError::invalid(at, message));
        }
        read.push(tagged);
    }
    let begins = |trigger: &String| read.iter().any(|tagged| tagged.begin.starts_with(trigger.as_str()));
    if let Some(index) = triggers.iter().position(|trigger| !begins(trigger)) {
        let message = format!("no structure begins with {}", quoted(&triggers[index]));
        return Err(ApiError::invalid(format!("{triggers_path}.{index}"), message));
    }
    if triggers.is_empty() {
        return Err(ApiError::invalid(
            triggers_path.as_str(),
            format!("`{triggers_path}` must hold at least one text"),
        ));
    }
    Ok(OutputForm::StructuralTag { triggers, structures: read })
}

/// A schema: an object, or the JSON text of one.
fn schema_of(path: &str, value: Value) -> Result<Value, ApiError> {
    let schema = parsed(path, value)?;
    if !schema.is_object() {
        return Err(wrong_type(path, "a JSON Schema", &schema));
    }
    check_nesting(path, &schema)?;
    Ok(schema)
}

/// A value that may also come as JSON text.
fn parsed(path: &str, value: Value) -> Result<Value, ApiError> {
    let Value::String(text) = value else { return Ok(value) };
    serde_json::from_str(&text)
        .map_err(|error| ApiError::invalid(path, format!("`{path}` is not valid JSON: {error}")))
}

fn pattern(path: &str, value: Value) -> Result<String, ApiError> {
    let pattern = not_empty(path, value)?;
    if pattern.contains('\0') {
        return Err(ApiError::invalid(path, format!("`{path}` must not contain the character NUL")));
    }
    Ok(pattern)
}

fn not_empty(path: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        Value::String(_) => Err(ApiError::invalid(path, format!("`{path}` must not be empty"))),
        other => Err(wrong_type(path, "a string", &other)),
    }
}

fn choices(path: &str, texts: Vec<Value>) -> Result<Vec<String>, ApiError> {
    if texts.is_empty() || texts.len() > NUM_CHOICES_MAX {
        let message = format!("`{path}` must hold 1 to {NUM_CHOICES_MAX} texts");
        return Err(ApiError::invalid(path, message));
    }
    let texts = texts.into_iter().enumerate();
    texts.map(|(index, text)| not_empty(&format!("{path}.{index}"), text)).collect()
}

/// Objects that do not say which further properties they may have are given none.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.contains_key("properties") && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
