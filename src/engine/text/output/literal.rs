//! Values in the manner of JSON that are not JSON, told as JSON while they come: Python literals, and Gemma's own.

use std::future::Future;
use std::pin::Pin;

use super::json_text::quote;
use super::number::number;
use super::reader::{Broken, Reader};
use super::schema::Types;

/// Values nested deeper than this are refused.
const MAX_DEPTH: usize = 64;

/// How a language writes strings.
pub(super) struct Dialect {
    /// What may stand on both sides of a string, and whether `\` escapes within it.
    pub(super) quotes: &'static [(&'static str, bool)],
}

/// Python's literals.
pub(super) const PYTHON: Dialect =
    Dialect { quotes: &[("\"\"\"", true), ("'''", true), ("\"", true), ("'", true)] };

/// Gemma's: strings between tokens of their own, keys without quotes.
pub(super) const GEMMA: Dialect = Dialect { quotes: &[("<|\"|>", false), ("\"", true)] };

/// Where the parts of a mapping are.
#[derive(Clone, Copy)]
pub(super) struct Mapping {
    /// Between key and value.
    pub(super) colon: &'static str,
    /// After the last.
    pub(super) close: &'static str,
}

/// Reads the arguments of a call, from behind its opening bracket to the closing one. The call is announced when its
/// first key was read, or when it has none.
pub(super) async fn arguments(
    reader: &Reader,
    dialect: &Dialect,
    mapping: Mapping,
    name: String,
) -> Result<(), Broken> {
    map(reader, dialect, mapping, Some(name), 0).await
}

async fn map(
    reader: &Reader,
    dialect: &Dialect,
    mapping: Mapping,
    mut call: Option<String>,
    depth: usize,
) -> Result<(), Broken> {
    let mut before = "{";
    loop {
        reader.space().await;
        let is_over = reader.take(mapping.close).await;
        let key = if is_over { String::new() } else { key(reader, dialect, mapping).await? };
        if let Some(name) = call.take() {
            reader.call(name)?;
        }
        if is_over {
            reader.arguments(if before == "{" { "{}" } else { "}" });
            return Ok(());
        }
        reader.arguments(&format!("{before}{}: ", quote(&key)));
        let types = if depth == 0 { reader.argument_types(&key) } else { Types::default() };
        value(reader, dialect, &types, depth + 1).await?;
        before = ", ";
        reader.space().await;
        if !reader.take(",").await && reader.which(&[mapping.close]).await.is_none() {
            return Err(Broken);
        }
    }
}

async fn list(reader: &Reader, dialect: &Dialect, close: &'static str, depth: usize) -> Result<(), Broken> {
    let mut before = "";
    reader.arguments("[");
    loop {
        reader.space().await;
        if reader.take(close).await {
            reader.arguments("]");
            return Ok(());
        }
        reader.arguments(before);
        value(reader, dialect, &Types::default(), depth + 1).await?;
        before = ", ";
        reader.space().await;
        if !reader.take(",").await && reader.which(&[close]).await.is_none() {
            return Err(Broken);
        }
    }
}

/// A key, and what stands between it and its value.
async fn key(reader: &Reader, dialect: &Dialect, mapping: Mapping) -> Result<String, Broken> {
    let key = match opened(reader, dialect).await {
        Some((quote, escapes)) => {
            let mut key = String::new();
            while let Some(char) = string_char(reader, quote, escapes).await? {
                key.push(char);
            }
            key
        }
        None => bare_key(reader).await?,
    };
    reader.space().await;
    reader.expect(mapping.colon).await?;
    Ok(key)
}

async fn bare_key(reader: &Reader) -> Result<String, Broken> {
    let mut key = String::new();
    while let Some(char) = reader.peek().await {
        if !char.is_alphanumeric() && !matches!(char, '_' | '-' | '.' | '$' | '@' | '/') {
            break;
        }
        reader.next().await;
        key.push(char);
    }
    if key.is_empty() { Err(Broken) } else { Ok(key) }
}

/// Reads a value. A text is told as what the tool's schema says that it is, and if that is no string, when it is complete.
fn value<'a>(
    reader: &'a Reader,
    dialect: &'a Dialect,
    types: &'a Types,
    depth: usize,
) -> Pin<Box<dyn Future<Output = Result<(), Broken>> + Send + 'a>> {
    Box::pin(async move {
        if depth > MAX_DEPTH {
            return Err(Broken);
        }
        reader.space().await;
        if let Some((quote, escapes)) = opened(reader, dialect).await {
            if !types.is_string() {
                let mut held = String::new();
                while let Some(char) = string_char(reader, quote, escapes).await? {
                    held.push(char);
                }
                reader.arguments(&types.cast(&held));
                return Ok(());
            }
            reader.arguments("\"");
            while let Some(char) = string_char(reader, quote, escapes).await? {
                reader.argument_char(char);
            }
            reader.arguments("\"");
            return Ok(());
        }
        if reader.take("{").await {
            return map(reader, dialect, Mapping { colon: ":", close: "}" }, None, depth).await;
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if reader.take(open).await {
                return list(reader, dialect, close, depth).await;
            }
        }
        word(reader).await
    })
}

/// Whether a string begins: its quotes, and whether it has escapes.
async fn opened(reader: &Reader, dialect: &Dialect) -> Option<(&'static str, bool)> {
    for (quote, escapes) in dialect.quotes {
        if reader.take(quote).await {
            return Some((quote, *escapes));
        }
    }
    None
}

/// The next character of a string; `None` after the closing quotes.
async fn string_char(reader: &Reader, quote: &str, escapes: bool) -> Result<Option<char>, Broken> {
    loop {
        if reader.take(quote).await {
            return Ok(None);
        }
        let char = reader.next().await.ok_or(Broken)?;
        if char != '\\' || !escapes {
            return Ok(Some(char));
        }
        if let Some(char) = escaped(reader).await? {
            return Ok(Some(char));
        }
    }
}

/// What stands behind a backslash; `None` for a line end, which is nothing. What is no escape is left, and the backslash
/// stays.
async fn escaped(reader: &Reader) -> Result<Option<char>, Broken> {
    let kind = reader.peek().await.ok_or(Broken)?;
    let char = match kind {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'v' => '\u{b}',
        'f' => '\u{c}',
        '0' => '\0',
        '\\' | '\'' | '"' | '/' => kind,
        '\n' => {
            reader.next().await;
            return Ok(None);
        }
        'x' => code_point(reader, 2).await,
        'u' => code_point(reader, 4).await,
        'U' => code_point(reader, 8).await,
        _ => return Ok(Some('\\')),
    };
    if !matches!(kind, 'x' | 'u' | 'U') {
        reader.next().await;
    }
    Ok(Some(char))
}

/// A character by its number in hexadecimal digits; two halves of a surrogate pair are one character.
async fn code_point(reader: &Reader, num_digits: usize) -> char {
    reader.next().await;
    let mut number = hex(reader, num_digits).await;
    if (0xD800..0xDC00).contains(&number) && reader.take("\\u").await {
        let low = hex(reader, 4).await;
        number = match low {
            0xDC00..0xE000 => 0x1_0000 + ((number - 0xD800) << 10) + (low - 0xDC00),
            _ => low,
        };
    }
    char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
}

async fn hex(reader: &Reader, num_digits: usize) -> u32 {
    let mut number: u32 = 0;
    for _ in 0..num_digits {
        let Some(digit) = reader.peek().await.and_then(|char| char.to_digit(16)) else { break };
        reader.next().await;
        number = number.wrapping_mul(16).wrapping_add(digit);
    }
    number
}

/// Reads a value without quotes: a number, a constant, or a string that lacks them.
async fn word(reader: &Reader) -> Result<(), Broken> {
    let mut word = String::new();
    while let Some(char) = reader.peek().await {
        if matches!(char, ',' | '}' | ']' | ')' | '<' | '\n') {
            let json = json_word(word.trim()).ok_or(Broken)?;
            reader.arguments(&json);
            return Ok(());
        }
        reader.next().await;
        word.push(char);
    }
    reader.arguments(&word);
    Err(Broken)
}

fn json_word(word: &str) -> Option<String> {
    let constant = match word {
        "" => return None,
        "True" | "true" => "true",
        "False" | "false" => "false",
        "None" | "null" => "null",
        other => return Some(number(other).unwrap_or_else(|| quote(other))),
    };
    Some(constant.into())
}
