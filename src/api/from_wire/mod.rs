//! OpenAI's JSON → `protocol`: what a client asked, checked as far as that can be done without its model.
//!
//! Everything that a client may have sent is in one of four classes: understood, harmless (checked and not needed here),
//! known but not supported (refused by name, never dropped in silence), unknown (ignored, and logged).

mod chat;
mod compare;
mod completions;
mod encoding;
mod fields;
mod format;
mod items;
mod messages;
mod responses;
mod sampling;
mod shape;
mod shared;
mod strict;
mod tei;
mod text;
mod tools;

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod tests;

pub use chat::{ChatCall, read_chat};
pub use compare::{RerankCall, read_rerank, read_score};
pub use completions::{CompletionsCall, read_completions};
pub use encoding::{EncodeCall, NumberFormat, read_classify, read_embeddings, read_pooling};
pub use fields::{Fields, describe, integer_at};
pub use items::{Conversation, kept, referred};
pub use responses::{ResponsesCall, check_include, read_responses};
pub use shared::{ReplyOptions, read_model};
pub use tei::{
    PredictCall, TeiRerankCall, is_tei_rerank, read_embed, read_predict, read_similarity, read_tei_rerank,
};
pub use text::{TextCall, read_decode, read_detokenize, read_tokenize};
