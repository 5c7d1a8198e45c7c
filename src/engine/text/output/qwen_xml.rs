//! Tool calls as Qwen 3 Coder and Qwen 3.5 write them: within `<tool_call>` … `</tool_call>` a `<function=NAME>` with a
//! `<parameter=KEY>` for each argument, whose value stands on lines of its own, as plain text.
//!
//! A value ends at `</parameter>`, or where a line begins the next parameter or ends the function: models forget the
//! first. One line end on each side of it is markup.
//!
//! Source: the chat templates of `Qwen/Qwen3-Coder-30B-A3B-Instruct` and Qwen 3.5; vLLM's `qwen3_coder` parser.

use super::fields::Fields;
use super::reader::{Broken, Reader};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
pub(super) const FUNCTION: &str = "<function=";
const FUNCTION_CLOSE: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_CLOSE: &str = "</parameter>";

/// How a value ends; the first two are read with it.
const ENDS: &[&str] = &["\n</parameter>", PARAMETER_CLOSE, "\n<parameter=", "\n</function>"];

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, CLOSE];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    // Models leave out the outer mark now and then.
    while let Some(mark) = reader.text_until(&[OPEN, FUNCTION]).await {
        reader.space().await;
        if (mark == 1 || reader.take(FUNCTION).await) && function(reader).await.is_ok() {
            reader.space().await;
            reader.close(CLOSE).await;
            reader.space().await;
        } else {
            reader.give_up();
        }
    }
}

async fn function(reader: &Reader) -> Result<(), Broken> {
    let name = reader.name().await?;
    reader.expect(">").await?;
    let mut fields = Fields::new(reader, name)?;
    loop {
        reader.space().await;
        if !reader.take(PARAMETER).await {
            break;
        }
        let Ok(key) = key(reader).await else { break };
        reader.take("\n").await;
        let end = fields.field(&key, ENDS).await?;
        if end < 2 {
            reader.take(ENDS[end]).await;
        }
    }
    fields.close();
    reader.close(FUNCTION_CLOSE).await;
    Ok(())
}

/// A key, and the bracket after it.
async fn key(reader: &Reader) -> Result<String, Broken> {
    let mut key = String::new();
    loop {
        match reader.next().await.ok_or(Broken)? {
            '>' | '\n' => return Ok(key),
            char => key.push(char),
        }
    }
}
