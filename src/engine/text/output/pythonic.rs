//! Tool calls as Llama 3.2 and 4 write them in Python: `[get_weather(city="Paris"), now()]`, at the start of the answer
//! or behind `<|python_start|>`; and as LFM 2 writes them, behind `<|tool_call_start|>`. Arguments have names, and are
//! literals.
//!
//! At the start of an answer nothing marks a call: there it counts only with the name of a tool.
//!
//! Source: Meta's prompt formats for Llama 3.2 and 4; vLLM's `pythonic` and `llama4_pythonic` parsers; the model card of
//! `LiquidAI/LFM2-1.2B`.

use super::literal::{self, Mapping, PYTHON};
use super::reader::{Broken, Reader};

/// How a list begins, and in the same place of [`CLOSE`] how it ends.
const OPEN: &[&str] = &["<|python_start|>", "<|tool_call_start|>"];
const CLOSE: &[&str] = &["<|python_end|>", "<|tool_call_end|>"];

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] =
    &["<|python_start|>", "<|python_end|>", "<|tool_call_start|>", "<|tool_call_end|>"];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    let space = reader.space().await;
    if reader.peek().await == Some('[') {
        reader.attempt(space);
        list(reader, None).await;
    } else {
        reader.unread(&space);
    }
    while let Some(mark) = reader.text_until(OPEN).await {
        list(reader, Some(CLOSE[mark])).await;
    }
}

async fn list(reader: &Reader, close: Option<&str>) {
    if calls(reader).await.is_err() {
        return reader.give_up();
    }
    reader.end_call();
    reader.forget();
    reader.space().await;
    if let Some(close) = close
        && reader.close(close).await
    {
        reader.space().await;
    }
}

async fn calls(reader: &Reader) -> Result<(), Broken> {
    reader.space().await;
    reader.expect("[").await?;
    loop {
        reader.space().await;
        let name = reader.name().await?;
        if !reader.knows(&name) {
            return Err(Broken);
        }
        reader.expect("(").await?;
        literal::arguments(reader, &PYTHON, Mapping { colon: "=", close: ")" }, name).await?;
        reader.end_call();
        reader.space().await;
        let goes_on = reader.take(",").await;
        reader.attempt(String::new());
        if !goes_on || reader.which(&["]"]).await.is_some() {
            return if reader.close("]").await || reader.peek().await.is_none() {
                Ok(())
            } else {
                Err(Broken)
            };
        }
    }
}
