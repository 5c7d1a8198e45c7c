//! Python's methods on text, lists and dictionaries, as far as chat templates call them.
//!
//! `minijinja-contrib` has most; here are those it lacks, and those where it differs from Python: what counts as space,
//! `split` with keywords, `splitlines`, `title`.

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::python::is_space;

/// Answers a method call that the value itself does not know.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(text) => on_text(text, method, args)?,
        None => on_container(value, method, args)?,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn on_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "strip" => Value::from(strip(text, args, true, true)?),
        "lstrip" => Value::from(strip(text, args, true, false)?),
        "rstrip" => Value::from(strip(text, args, false, true)?),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            three(
                text.split_once(separator)
                    .map(|(head, tail)| [head, separator, tail])
                    .unwrap_or([text, "", ""]),
            )
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            three(
                text.rsplit_once(separator)
                    .map(|(head, tail)| [head, separator, tail])
                    .unwrap_or(["", "", text]),
            )
        }
        "split" | "rsplit" => split(text, args, method == "rsplit")?,
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            lines(text, keep_ends.unwrap_or(false)).into_iter().map(Value::from).collect()
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let at = text
                .find(part)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "casefold" => Value::from(text.to_lowercase()),
        "swapcase" => Value::from(text.chars().flat_map(swap_case).collect::<String>()),
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing(text, width)?)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let (num, fill) = (missing(text, width)?, fill.unwrap_or(" "));
            let left = match method {
                "ljust" => 0,
                "rjust" => num,
                // CPython puts the odd one to the left if the width is odd.
                _ => num / 2 + (num & width & 1),
            };
            Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(num - left)))
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn on_container(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match (value.kind(), method) {
        // The sandbox of transformers allows no method that changes a value; a copy is the value.
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            let () = from_args(args)?;
            value.clone()
        }
        (ValueKind::Seq, "index") => {
            let (item,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|other| other == *item);
            Value::from(at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "value is not in list"))?)
        }
        (
            ValueKind::Seq,
            "append" | "extend" | "insert" | "pop" | "remove" | "sort" | "reverse" | "clear",
        )
        | (ValueKind::Map, "update" | "pop" | "popitem" | "setdefault" | "clear") => {
            let why = format!("`{method}` would change a value, which chat templates may not");
            return Err(Error::new(ErrorKind::InvalidOperation, why));
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn strip<'a>(text: &'a str, args: &[Value], start: bool, end: bool) -> Result<&'a str, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let is_cut = |char: char| chars.map_or_else(|| is_space(char), |chars| chars.contains(char));
    let text = if start { text.trim_start_matches(is_cut) } else { text };
    Ok(if end { text.trim_end_matches(is_cut) } else { text })
}

fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let argument = |index: usize, name: &str| match positional.get(index) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let separator = argument(0, "sep")?.filter(|value| !value.is_none());
    let max =
        argument(1, "maxsplit")?.and_then(|value| usize::try_from(value).ok()).unwrap_or(usize::MAX - 1);
    kwargs.assert_all_used()?;
    let mut parts: Vec<&str> = match &separator {
        None => split_at_space(text, max, from_end),
        Some(separator) => {
            let separator = separator.as_str().filter(|text| !text.is_empty());
            let separator = separator.ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "the separator of split must be text, and not empty")
            })?;
            match from_end {
                true => text.rsplitn(max + 1, separator).collect(),
                false => text.splitn(max + 1, separator).collect(),
            }
        }
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words between runs of space; what is left after `max` splits stays as it is.
fn split_at_space(text: &str, max: usize, from_end: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = if from_end { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        if words.len() == max {
            words.push(rest);
            break;
        }
        if from_end {
            let start =
                rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
            words.push(&rest[start..]);
            rest = rest[..start].trim_end_matches(is_space);
        } else {
            let end = rest.find(is_space).unwrap_or(rest.len());
            words.push(&rest[..end]);
            rest = rest[end..].trim_start_matches(is_space);
        }
    }
    words
}

fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |char| {
        matches!(
            char,
            '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let ending = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(0, char::len_utf8)
        };
        lines.push(if keep_ends { &rest[..end + ending] } else { &rest[..end] });
        rest = &rest[end + ending..];
    }
    lines
}

/// How many characters are missing to a width; a width that would fill memory is refused.
fn missing(text: &str, width: usize) -> Result<usize, Error> {
    if width > 1 << 20 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the width is too large"));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

/// A capital after whatever is no letter, small letters after letters.
fn title(text: &str) -> String {
    let mut is_inside = false;
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match is_inside {
            true => out.extend(char.to_lowercase()),
            false => out.extend(char.to_uppercase()),
        }
        is_inside = char.is_lowercase() || char.is_uppercase();
    }
    out
}

fn swap_case(char: char) -> Vec<char> {
    if char.is_uppercase() { char.to_lowercase().collect() } else { char.to_uppercase().collect() }
}

fn three(parts: [&str; 3]) -> Value {
    Value::from(Tuple::new(parts.into_iter().map(Value::from).collect()))
}
