//! Tool calls as GLM 4.5 and its successors write them: `<tool_call>NAME`, then `<arg_key>KEY</arg_key>` and
//! `<arg_value>VALUE</arg_value>` for each argument, then `</tool_call>`. Values are plain text where they are strings.
//!
//! Source: the chat templates of `zai-org/GLM-4.5` and `-4.7`; vLLM's `glm45` parser.

use super::fields::Fields;
use super::reader::{Broken, Reader};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
pub(super) const KEY: &str = "<arg_key>";
const KEY_CLOSE: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_CLOSE: &str = "</arg_value>";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, CLOSE, KEY, KEY_CLOSE, VALUE, VALUE_CLOSE];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    while reader.text_until(&[OPEN]).await.is_some() {
        match call(reader).await {
            Ok(()) => drop(reader.space().await),
            Err(Broken) => reader.give_up(),
        }
    }
}

async fn call(reader: &Reader) -> Result<(), Broken> {
    reader.space().await;
    let name = reader.name().await?;
    reader.space().await;
    if reader.which(&[KEY, CLOSE]).await.is_none() {
        return Err(Broken);
    }
    let mut fields = Fields::new(reader, name)?;
    while reader.take(KEY).await {
        let Ok(key) = key(reader).await else { break };
        fields.field(key.trim(), &[VALUE_CLOSE]).await?;
        reader.take(VALUE_CLOSE).await;
        reader.space().await;
    }
    fields.close();
    reader.close(CLOSE).await;
    Ok(())
}

/// A key, and the mark before its value.
async fn key(reader: &Reader) -> Result<String, Broken> {
    let mut key = String::new();
    while reader.which(&[KEY_CLOSE]).await.is_none() {
        key.push(reader.next().await.ok_or(Broken)?);
    }
    reader.take(KEY_CLOSE).await;
    reader.space().await;
    reader.expect(VALUE).await?;
    Ok(key)
}
