//! Reasoning between tags before an answer: `<think>` … `</think>` and its relatives.
//!
//! Line ends after the opening tag, before the closing one and after it belong to the markup and are dropped, streamed
//! or not. Reasoning that is never closed is reasoning to the end. The tags count only at the start of an output: a model
//! that explains them in its answer is not misread.

use super::reader::Reader;

/// The tags around reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
    /// What of the opening tag is one token, and shows that a model knows these tags.
    pub(crate) token: &'static str,
    /// A token that ends reasoning as well, though it belongs to what follows.
    pub(crate) next: Option<&'static str>,
}

/// The tags that models are known to use, in the order in which they are looked for. What only one family has comes
/// first.
pub(super) const KNOWN: &[Tags] = &[
    // Gemma 4.
    Tags { open: "<|channel>thought", close: "<channel|>", token: "<|channel>", next: Some("<|tool_call>") },
    // Magistral, Ministral 3.
    Tags { open: "[THINK]", close: "[/THINK]", token: "[THINK]", next: None },
    // Seed-OSS.
    Tags { open: "<seed:think>", close: "</seed:think>", token: "<seed:think>", next: None },
    // Kimi-VL.
    Tags { open: "◁think▷", close: "◁/think▷", token: "◁think▷", next: None },
    // Apertus.
    Tags { open: "<|inner_prefix|>", close: "<|inner_suffix|>", token: "<|inner_prefix|>", next: None },
    // DeepSeek R1, QwQ, Qwen 3, GLM 4.5, SmolLM 3 and most others.
    Tags { open: "<think>", close: "</think>", token: "<think>", next: None },
    // EXAONE 4, and models tuned to it.
    Tags { open: "<thought>", close: "</thought>", token: "<thought>", next: None },
    Tags { open: "<reasoning>", close: "</reasoning>", token: "<reasoning>", next: None },
];

/// Reads reasoning, if there is any, and the markup around it.
pub(super) async fn read(reader: &Reader, tags: Tags, starts_inside: bool) {
    if !starts_inside {
        let space = reader.space().await;
        if !reader.take(tags.open).await {
            return reader.unread(&space);
        }
    }
    reader.set_reasoning(true);
    while reader.take("\n").await {}
    loop {
        let mut line_ends = String::new();
        while reader.take("\n").await {
            line_ends.push('\n');
        }
        if reader.take(tags.close).await || reader.which(tags.next.as_slice()).await.is_some() {
            break;
        }
        reader.reasoning(&line_ends);
        let Some(char) = reader.next().await else { return };
        reader.reasoning(char.encode_utf8(&mut [0; 4]));
    }
    reader.set_reasoning(false);
    while reader.take("\n").await {}
}
