//! Tool calls as Mistral's models write them, in two ways: `[TOOL_CALLS]` and a JSON array of calls (tokenizers up to
//! version 7), or for each call `[TOOL_CALLS]NAME[ARGS]{…}`, with `[CALL_ID]ID` between the two where the tokenizer has
//! it (versions 11 and 13). The ids are the model's own words and are not used.
//!
//! Source: `mistral_common` (instruct tokenizers v3 to v13) and the chat templates on the Hub.

use super::json_call::{Marked, arguments, array, object};
use super::reader::{Broken, Reader};

const OPEN: &str = "[TOOL_CALLS]";
const ARGS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, ARGS, CALL_ID];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    while reader.text_until(&[OPEN]).await.is_some() {
        match calls(reader).await {
            Ok(()) => {
                reader.end_call();
                reader.forget();
                reader.space().await;
            }
            Err(Broken) => reader.give_up(),
        }
    }
}

async fn calls(reader: &Reader) -> Result<(), Broken> {
    reader.space().await;
    match reader.peek().await {
        Some('[') => array(reader).await,
        Some('{') => object(reader, Marked::Yes).await,
        _ => named(reader).await,
    }
}

async fn named(reader: &Reader) -> Result<(), Broken> {
    let name = reader.name().await?;
    reader.space().await;
    if reader.take(CALL_ID).await {
        reader.name().await?;
    }
    if !reader.take(ARGS).await && reader.peek().await != Some('{') {
        return Err(Broken);
    }
    reader.call(name)?;
    arguments(reader).await
}
