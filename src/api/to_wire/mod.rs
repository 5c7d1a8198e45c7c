//! `protocol` → OpenAI's JSON: answers whole and in chunks, from the same events.

mod chat;
mod completions;
mod encoding;
mod head;
mod logprobs;
mod models;
mod responses;

#[cfg(test)]
mod tests;

pub use chat::{ChatChunks, chat_completion};
pub use completions::{CompletionChunks, completion};
pub use encoding::{best_first, classified, embeddings, encoded_list, labelled, pooled, ranking, scores};
pub use head::Head;
pub use models::{load_frame, model, stage};
pub use responses::{ItemIds, ResponseHead, ResponseWriter, owner_of};
