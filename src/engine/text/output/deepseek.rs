//! Tool calls as DeepSeek writes them, between `<｜tool▁calls▁begin｜>` and `<｜tool▁calls▁end｜>`, each between
//! `<｜tool▁call▁begin｜>` and `<｜tool▁call▁end｜>`. V3 and R1: `function<｜tool▁sep｜>NAME`, and the arguments in a
//! fenced block of JSON; V3.1: `NAME<｜tool▁sep｜>` and the arguments. What follows the separator tells the two apart.
//!
//! Source: the chat templates of `deepseek-ai/DeepSeek-V3`, `-R1` and `-V3.1`.

use super::json_call::arguments;
use super::reader::{Broken, Reader};

const OPEN: &str = "<｜tool▁calls▁begin｜>";
const CLOSE: &str = "<｜tool▁calls▁end｜>";
const CALL_OPEN: &str = "<｜tool▁call▁begin｜>";
const CALL_CLOSE: &str = "<｜tool▁call▁end｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const FENCE: &str = "```";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, CLOSE, CALL_OPEN, CALL_CLOSE, SEPARATOR];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    // Models leave out the outer mark now and then.
    while let Some(mark) = reader.text_until(&[OPEN, CALL_OPEN]).await {
        reader.space().await;
        if (mark == 1 || reader.take(CALL_OPEN).await) && calls(reader).await.is_ok() {
            reader.close(CLOSE).await;
            reader.space().await;
        } else {
            reader.give_up();
        }
    }
}

async fn calls(reader: &Reader) -> Result<(), Broken> {
    loop {
        call(reader).await?;
        reader.end_call();
        reader.space().await;
        if !reader.take(CALL_OPEN).await {
            return Ok(());
        }
        reader.attempt(CALL_OPEN.into());
    }
}

async fn call(reader: &Reader) -> Result<(), Broken> {
    reader.space().await;
    let first = reader.name().await?;
    reader.space().await;
    reader.expect(SEPARATOR).await?;
    reader.space().await;
    if reader.peek().await == Some('{') {
        reader.call(first)?;
        arguments(reader).await?;
    } else {
        let name = reader.name().await?;
        reader.call(name)?;
        reader.space().await;
        let is_fenced = reader.take(FENCE).await;
        if is_fenced {
            reader.take("json").await;
        }
        arguments(reader).await?;
        reader.space().await;
        if is_fenced {
            reader.close(FENCE).await;
        }
    }
    reader.space().await;
    reader.close(CALL_CLOSE).await;
    Ok(())
}
