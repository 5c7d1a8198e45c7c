//! Calls written in JSON: an object with `name` and `arguments` (or `parameters`), in either order, or the arguments
//! alone.
//!
//! Brackets and quotes are matched, no more: a model's slips within its arguments are the client's to see.

use serde_json::{Map, Value};

use super::json_scan::{Scan, Scanned};
use super::reader::{Broken, Reader};
use super::schema::Types;

/// How certain it is that an object is a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    /// A mark said so.
    Yes,
    /// Nothing did: its keys must be those of a call, its name that of a tool.
    No,
}

/// Where a JSON value goes.
enum Sink<'a> {
    /// To the client, as arguments of the call that is open.
    Arguments,
    Text(&'a mut String),
    Nowhere,
}

/// Reads the object of one call. It may lack its closing brace, but nothing else.
pub(super) async fn object(reader: &Reader, marked: Marked) -> Result<(), Broken> {
    reader.space().await;
    reader.expect("{").await?;
    let mut is_announced = false;
    let mut arguments: Option<String> = None;
    loop {
        reader.space().await;
        if reader.take("}").await {
            break;
        }
        if reader.peek().await != Some('"') {
            return Err(Broken);
        }
        let mut key = String::new();
        value(reader, Sink::Text(&mut key)).await?;
        let key = key.trim_matches('"');
        if marked == Marked::No && !is_announced && !is_call_key(key) {
            return Err(Broken);
        }
        reader.space().await;
        reader.expect(":").await?;
        reader.space().await;
        match key {
            "name" if is_announced => return Err(Broken),
            "name" => {
                let name = name(reader).await?;
                if marked == Marked::No && !reader.knows(&name) {
                    return Err(Broken);
                }
                reader.call(name)?;
                is_announced = true;
                match &arguments {
                    Some(held) if serde_json::from_str::<Map<String, Value>>(held).is_ok() => {
                        reader.unread(held);
                        members(reader).await?;
                    }
                    Some(held) => reader.arguments(held),
                    None => {}
                }
            }
            "arguments" | "parameters" if arguments.is_none() => {
                arguments = Some(String::new());
                if is_announced {
                    self::arguments(reader).await?;
                } else {
                    let held = arguments.get_or_insert_default();
                    value(reader, Sink::Text(held)).await?;
                    *held = plain(held);
                }
            }
            _ => value(reader, Sink::Nowhere).await?,
        }
        reader.space().await;
        if !reader.take(",").await && reader.peek().await != Some('}') {
            break;
        }
    }
    if is_announced { Ok(()) } else { Err(Broken) }
}

/// Reads objects of calls in brackets, the opening one included: one at least.
pub(super) async fn array(reader: &Reader) -> Result<(), Broken> {
    reader.expect("[").await?;
    let mut has_any = false;
    loop {
        reader.space().await;
        if reader.take("]").await {
            return if has_any { Ok(()) } else { Err(Broken) };
        }
        object(reader, Marked::Yes).await?;
        reader.end_call();
        has_any = true;
        reader.space().await;
        if !reader.take(",").await && !matches!(reader.peek().await, None | Some(']')) {
            return Err(Broken);
        }
        if reader.peek().await.is_none() {
            return Ok(());
        }
        reader.attempt(String::new());
    }
}

/// Reads the arguments of the call that is open, and tells them while they come.
pub(super) async fn arguments(reader: &Reader) -> Result<(), Broken> {
    reader.space().await;
    match reader.peek().await {
        Some('{') => return members(reader).await,
        Some('[') => return value(reader, Sink::Arguments).await,
        _ => {}
    }
    let mut held = String::new();
    let result = value(reader, Sink::Text(&mut held)).await;
    reader.arguments(&if result.is_ok() { plain(&held) } else { held });
    result
}

/// Reads the object of the arguments, and tells it as it is written, but for texts that the tool's schema says are
/// something else: those are told as what they are, when they are complete.
async fn members(reader: &Reader) -> Result<(), Broken> {
    let mut scan = Scan::default();
    // Of the outermost object: the key, and whether its value comes next.
    let (mut key, mut is_value) = (String::new(), false);
    loop {
        let char = reader.peek().await.ok_or(Broken)?;
        if char == '"' && !scan.is_in_text() && scan.depth() == 1 {
            let types = if is_value { reader.argument_types(&decoded(&key)) } else { Types::default() };
            if !types.is_string() {
                let mut held = String::new();
                let result = value(reader, Sink::Text(&mut held)).await;
                let text = serde_json::from_str::<String>(&held).ok().filter(|_| result.is_ok());
                reader.arguments(&text.map_or(held, |text| types.cast(&text)));
                result?;
                is_value = false;
                continue;
            }
            if !is_value {
                key.clear();
            }
        }
        // Outside quotes it begins a mark.
        if char == '<' && !scan.is_in_text() {
            return Err(Broken);
        }
        let was_in_text = scan.is_in_text();
        let scanned = scan.read(char);
        if scan.depth() == 1 {
            match char {
                char if was_in_text || scan.is_in_text() => key.extend((!is_value).then_some(char)),
                ':' => is_value = true,
                ',' => is_value = false,
                _ => {}
            }
        }
        match scanned {
            Scanned::Inside | Scanned::Ends => reader.next().await,
            Scanned::Ended => return Ok(()),
            Scanned::Bad => return Err(Broken),
        };
        reader.arguments(char.encode_utf8(&mut [0; 4]));
        if let Scanned::Ends = scanned {
            return Ok(());
        }
    }
}

/// A JSON string, without its quotes and escapes.
fn decoded(string: &str) -> String {
    serde_json::from_str(string).unwrap_or_else(|_| string.trim_matches('"').to_owned())
}

/// Reads a value.
async fn value(reader: &Reader, mut sink: Sink<'_>) -> Result<(), Broken> {
    let mut scan = Scan::default();
    loop {
        let char = reader.peek().await.ok_or(Broken)?;
        // Outside quotes it begins a mark.
        if char == '<' && !scan.is_in_text() {
            return Err(Broken);
        }
        let scanned = scan.read(char);
        match scanned {
            Scanned::Inside | Scanned::Ends => reader.next().await,
            Scanned::Ended => return Ok(()),
            Scanned::Bad => return Err(Broken),
        };
        match &mut sink {
            Sink::Arguments => reader.arguments(char.encode_utf8(&mut [0; 4])),
            Sink::Text(text) => text.push(char),
            Sink::Nowhere => {}
        }
        if let Scanned::Ends = scanned {
            return Ok(());
        }
    }
}

async fn name(reader: &Reader) -> Result<String, Broken> {
    if reader.peek().await != Some('"') {
        return Err(Broken);
    }
    let mut name = String::new();
    value(reader, Sink::Text(&mut name)).await?;
    serde_json::from_str(&name).ok().filter(|name: &String| !name.is_empty()).ok_or(Broken)
}

fn is_call_key(key: &str) -> bool {
    matches!(key, "name" | "arguments" | "parameters" | "type" | "id")
}

/// Arguments as told: a text that holds an object is unpacked, `null` is none, anything else stays.
fn plain(value: &str) -> String {
    match serde_json::from_str(value) {
        Ok(Value::String(inner)) => inner,
        Ok(Value::Null) => "{}".into(),
        _ => value.into(),
    }
}
