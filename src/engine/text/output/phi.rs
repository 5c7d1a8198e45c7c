//! Tool calls as Phi-4-mini writes them: `<|tool_call|>[{"name": …, "arguments": …}, …]<|/tool_call|>`, or
//! `functools[…]`, which is how it was trained and what it falls back to. Granite 3 writes the first without its end.
//!
//! Source: the model card of `microsoft/Phi-4-mini-instruct`; vLLM's `phi4_mini_json` and `granite` parsers.

use super::json_call::array;
use super::reader::Reader;

const OPEN: &str = "<|tool_call|>";
const CLOSE: &str = "<|/tool_call|>";
const FUNCTOOLS: &str = "functools";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[OPEN, CLOSE];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    while let Some(mark) = reader.text_until(&[OPEN, FUNCTOOLS]).await {
        if mark == 0 {
            reader.space().await;
            reader.take(FUNCTOOLS).await;
        }
        if array(reader).await.is_err() {
            reader.give_up();
            continue;
        }
        reader.end_call();
        reader.forget();
        reader.space().await;
        if reader.close(CLOSE).await {
            reader.space().await;
        }
    }
}
