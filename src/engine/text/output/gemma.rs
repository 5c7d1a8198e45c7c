//! Tool calls as Gemma 4 writes them: `<|tool_call>call:NAME{key:value, …}<tool_call|>`, with keys without quotes and
//! strings between `<|"|>` and `<|"|>`, where nothing is escaped.
//!
//! Source: Google's function calling guide for Gemma 4, and its chat template.

use super::literal::{self, GEMMA, Mapping};
use super::reader::{Broken, Reader};

pub(super) const OPEN: &str = "<|tool_call>";
const CLOSE: &str = "<tool_call|>";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, CLOSE, "<|\"|>"];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    while reader.text_until(&[OPEN]).await.is_some() {
        if call(reader).await.is_err() {
            reader.give_up();
            continue;
        }
        reader.end_call();
        reader.space().await;
        reader.close(CLOSE).await;
        reader.space().await;
    }
}

async fn call(reader: &Reader) -> Result<(), Broken> {
    reader.space().await;
    reader.take("call:").await;
    let name = reader.name().await?;
    reader.expect("{").await?;
    literal::arguments(reader, &GEMMA, Mapping { colon: ":", close: "}" }, name).await
}
