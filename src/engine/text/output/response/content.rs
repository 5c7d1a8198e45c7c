//! What stands between the delimiters of a field, as a value: the content parsers of response templates, and the
//! transforms that bring a value into the shape of a message.

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::super::number;
use super::super::reader::Broken;
use super::pattern::translated;

/// Parsers within parsers nested deeper than this are refused.
const MAX_DEPTH: usize = 8;

/// How a text is read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) kind: Kind,
    /// Space around a text is not part of it.
    pub(super) strip: bool,
}

/// The parsers there are.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    Int,
    Float,
    Bool,
    Json(Json),
    Tags { pattern: Box<Regex>, value: Option<Box<Content>>, merge: bool },
    Lines { line_end: String, colon: String, value: Option<Box<Content>> },
}

/// How JSON departs from JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Json {
    /// Keys may lack their quotes.
    pub(super) unquoted_keys: bool,
    /// What may stand around a string in place of quotes.
    pub(super) string_delims: Vec<(String, String)>,
    /// What is no JSON is a text.
    pub(super) allow_non_json: bool,
}

impl Content {
    /// By its name and its arguments.
    pub(super) fn new(name: Option<&Value>, args: Option<&Value>) -> Result<Self, String> {
        let name = match name {
            None => "text",
            Some(name) => name.as_str().ok_or("`content` is not a text")?,
        };
        let empty = Map::new();
        let args = match args {
            None | Some(Value::Null) => &empty,
            Some(args) => args.as_object().ok_or("`content_args` is not an object")?,
        };
        Self::of(name, args, 0)
    }

    fn of(name: &str, args: &Map<String, Value>, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err("its parsers are nested too deeply".into());
        }
        let flag = |key: &str, default: bool| args.get(key).map_or(default, truthy);
        let text =
            |key: &str, default: &str| args.get(key).and_then(Value::as_str).unwrap_or(default).to_owned();
        let inner = || match args.get("value_parser").and_then(Value::as_object) {
            None => Ok(None),
            Some(parser) => {
                let empty = Map::new();
                let name = parser.get("name").and_then(Value::as_str).unwrap_or("text");
                let args = parser.get("args").and_then(Value::as_object).unwrap_or(&empty);
                Self::of(name, args, depth + 1).map(|content| Some(Box::new(content)))
            }
        };
        let kind = match name {
            "text" => Kind::Text,
            "int" => Kind::Int,
            "float" => Kind::Float,
            "bool" => Kind::Bool,
            "json" => Kind::Json(Json {
                unquoted_keys: flag("unquoted_keys", false),
                string_delims: string_delims(args.get("string_delims"))?,
                allow_non_json: flag("allow_non_json", false),
            }),
            "xml-inline" => {
                let pattern = args.get("tag_pattern").and_then(Value::as_str);
                let pattern = translated(pattern.ok_or("`xml-inline` takes a `tag_pattern`")?);
                let pattern = Regex::new(&format!("(?s){pattern}")).map_err(|error| error.to_string())?;
                if !pattern.capture_names().flatten().any(|name| name == "key") {
                    return Err("`tag_pattern` has no group `key`".into());
                }
                Kind::Tags {
                    pattern: Box::new(pattern),
                    value: inner()?,
                    merge: flag("merge_duplicates", false),
                }
            }
            "kv-lines" => {
                let (line_end, colon) = (text("line_sep", "\n"), text("kv_sep", ":"));
                if line_end.is_empty() || colon.is_empty() {
                    return Err("what separates lines, or keys from values, is empty".into());
                }
                Kind::Lines { line_end, colon, value: inner()? }
            }
            other => return Err(format!("there is no content parser `{other}`")),
        };
        Ok(Self { kind, strip: flag("strip", true) })
    }

    /// A text as a value.
    pub(super) fn parse(&self, text: &str) -> Result<Value, Broken> {
        let stripped = self.stripped(text);
        let number = |text: Option<String>| {
            text.and_then(|text| serde_json::from_str(&text).ok()).map(Value::Number).ok_or(Broken)
        };
        match &self.kind {
            Kind::Text => Ok(stripped.into()),
            Kind::Int => number(number::integer(stripped)),
            Kind::Float => number(number::number(stripped)),
            Kind::Bool => Ok(matches!(stripped.to_lowercase().as_str(), "true" | "1").into()),
            Kind::Json(json) => match json.parse(text) {
                Err(Broken) if json.allow_non_json => Ok(stripped.into()),
                parsed => parsed,
            },
            Kind::Tags { pattern, value, merge } => tags(pattern, value.as_deref(), *merge, text),
            Kind::Lines { line_end, colon, value } => {
                let mut map = Map::new();
                for line in text.split(line_end.as_str()) {
                    let Some((key, text)) = self.stripped(line).split_once(colon.as_str()) else { continue };
                    let text = sub_parse(value.as_deref(), self.stripped(text))?;
                    map.insert(self.stripped(key).into(), text);
                }
                Ok(map.into())
            }
        }
    }

    fn stripped<'a>(&self, text: &'a str) -> &'a str {
        if self.strip { text.trim() } else { text }
    }
}

impl Json {
    fn parse(&self, text: &str) -> Result<Value, Broken> {
        let mut text = text.to_owned();
        let mut strings = Vec::new();
        for (open, close) in &self.string_delims {
            text = without_strings(&text, open, close, &mut strings)?;
        }
        if self.unquoted_keys {
            text = quoted_keys(&text);
        }
        for (index, string) in strings.iter().enumerate() {
            text = text.replace(&hole(index), &Value::from(string.as_str()).to_string());
        }
        serde_json::from_str(&text).map_err(|_| Broken)
    }
}

/// Stands in a text where a string was; what the model writes holds no such characters.
fn hole(index: usize) -> String {
    format!("\u{1}{index}\u{2}")
}

fn without_strings(text: &str, open: &str, close: &str, strings: &mut Vec<String>) -> Result<String, Broken> {
    if strings.is_empty() && text.contains(['\u{1}', '\u{2}']) {
        return Err(Broken);
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(open) {
        let Some((string, after)) = after.split_once(close) else { break };
        out.push_str(before);
        out.push_str(&hole(strings.len()));
        strings.push(string.to_owned());
        rest = after;
    }
    Ok(out + rest)
}

/// Puts quotes around words between `{` or `,` and `:`.
fn quoted_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', ',']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let end = after.find(|char| !is_word(char)).unwrap_or(after.len());
        rest = after;
        if end > 0 && after[end..].starts_with(':') {
            out.push_str(&format!("\"{}\"", &after[..end]));
            rest = &after[end..];
        }
    }
    out + rest
}

fn tags(pattern: &Regex, value: Option<&Content>, merge: bool, text: &str) -> Result<Value, Broken> {
    let mut map = Map::new();
    for captures in pattern.captures_iter(text) {
        let captures = captures.map_err(|_| Broken)?;
        let Some(key) = captures.name("key") else { return Err(Broken) };
        let text = captures.name("value").map_or("", |value| value.as_str());
        let value = sub_parse(value, text)?;
        match map.get_mut(key.as_str()) {
            Some(Value::Array(list)) if merge => list.push(value),
            Some(old) if merge => *old = vec![old.take(), value].into(),
            _ => drop(map.insert(key.as_str().into(), value)),
        }
    }
    Ok(map.into())
}

fn sub_parse(content: Option<&Content>, text: &str) -> Result<Value, Broken> {
    content.map_or_else(|| Ok(text.into()), |content| content.parse(text))
}

fn string_delims(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let pairs = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let pair = |pair: &Value| {
        let text = |index: usize| Some(pair.get(index)?.as_str()?.to_owned()).filter(|text| !text.is_empty());
        text(0).zip(text(1)).ok_or_else(|| "`string_delims` is not a list of pairs of texts".to_owned())
    };
    pairs.iter().map(pair).collect()
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Whether a text is one placeholder (`{a.b}`), or merely has one in it; `None` if it has none.
pub(super) fn is_placeholder(text: &str) -> Option<bool> {
    let is_path = |path: &str| {
        let is_word =
            |word: &str| !word.is_empty() && word.chars().all(|char| char.is_alphanumeric() || char == '_');
        path.split('.').all(is_word)
    };
    let is_whole = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).is_some_and(is_path);
    if is_whole {
        return Some(true);
    }
    let has_any = text
        .match_indices('{')
        .any(|(at, _)| text[at + 1..].split_once('}').is_some_and(|(path, _)| is_path(path)));
    has_any.then_some(false)
}

/// Puts values in the place of a transform's placeholders.
pub(super) fn transformed(transform: &Value, scope: &Map<String, Value>) -> Result<Value, Broken> {
    Ok(match transform {
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| Ok((key.clone(), transformed(value, scope)?)));
            Value::Object(pairs.collect::<Result<_, Broken>>()?)
        }
        Value::Array(list) => {
            list.iter().map(|value| transformed(value, scope)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::String(text) if is_placeholder(text) == Some(true) => {
            let mut path = text[1..text.len() - 1].split('.');
            let root = path.next().and_then(|root| scope.get(root));
            path.try_fold(root.ok_or(Broken)?, |value, key| value.get(key).ok_or(Broken))?.clone()
        }
        other => other.clone(),
    })
}
