//! Tool calls as Llama 3.2 and 4 write them in Python: `[get_weather(city="Paris"), now()]`, at the start of the answer
//! or behind `<|python_start|>`. Arguments have names, and are literals.
//!
//! At the start of an answer nothing marks a call: there it counts only with the name of a tool.
//!
//! Source: Meta's prompt formats for Llama 3.2 and 4; vLLM's `pythonic` and `llama4_pythonic` parsers.

use super::literal::{self, Mapping, PYTHON};
use super::reader::{Broken, Reader};

const OPEN: &str = "<|python_start|>";
const CLOSE: &str = "<|python_end|>";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, CLOSE];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    let space = reader.space().await;
    if reader.peek().await == Some('[') {
        reader.attempt(space);
        list(reader).await;
    } else {
        reader.unread(&space);
    }
    while reader.text_until(&[OPEN]).await.is_some() {
        list(reader).await;
    }
}

async fn list(reader: &Reader) {
    if calls(reader).await.is_err() {
        return reader.give_up();
    }
    reader.end_call();
    reader.forget();
    reader.space().await;
    if reader.close(CLOSE).await {
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
