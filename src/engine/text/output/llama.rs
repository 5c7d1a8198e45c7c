//! Tool calls as Llama 3 writes them in JSON: `{"name": …, "parameters": {…}}`, at the start of the answer or behind
//! `<|python_tag|>`, several separated by `;`.
//!
//! At the start of an answer nothing marks a call, and an answer may well be JSON: there it counts only with the keys of
//! a call and the name of a tool.
//!
//! Source: Meta's prompt format for Llama 3.1 to 3.3; vLLM's `llama3_json` parser.

use super::json_call::{Marked, object};
use super::reader::Reader;

const TAG: &str = "<|python_tag|>";

/// Tokens that the parser has to see.
pub(super) const MARKS: &[&str] = &[TAG];

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    let space = reader.space().await;
    if reader.peek().await == Some('{') {
        reader.attempt(space);
        calls(reader, Marked::No).await;
    } else {
        reader.unread(&space);
    }
    while reader.text_until(&[TAG]).await.is_some() {
        calls(reader, Marked::Yes).await;
    }
}

async fn calls(reader: &Reader, mut marked: Marked) {
    loop {
        reader.space().await;
        if reader.take(TAG).await {
            marked = Marked::Yes;
        }
        if object(reader, marked).await.is_err() {
            return reader.give_up();
        }
        reader.end_call();
        reader.space().await;
        if !reader.take(";").await && reader.which(&["{", TAG]).await.is_none() {
            return;
        }
        reader.attempt(String::new());
    }
}
