//! `protocol` → OpenAI's JSON: answers whole and in chunks, from the same events.

mod chat;
mod completions;
mod head;
mod logprobs;
mod models;

#[cfg(test)]
mod tests;

pub use chat::{ChatChunks, chat_completion};
pub use completions::{CompletionChunks, completion};
pub use head::Head;
pub use models::{load_frame, model, stage};
