//! Tool calls as Hermes and Qwen write them: `<tool_call>` JSON `</tool_call>`, as often as the model likes.
//!
//! Source: the chat templates of Hermes 2 Pro, Qwen 2.5 and Qwen 3.

use super::json_call::{Marked, object};
use super::reader::Reader;

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

/// Reads to the end of the text.
pub(super) async fn read(reader: &Reader) {
    while reader.text_until(&[OPEN]).await.is_some() {
        if object(reader, Marked::Yes).await.is_err() {
            reader.give_up();
            continue;
        }
        reader.end_call();
        reader.space().await;
        // Models close one bracket too many now and then.
        while reader.take("}").await {
            reader.space().await;
        }
        if reader.close(CLOSE).await {
            reader.space().await;
        }
    }
}
