//! OpenAI's JSON → `protocol`: what a client asked, checked as far as that can be done without its model.
//!
//! Everything that a client may have sent is in one of four classes: understood, harmless (checked and not needed here),
//! known but not supported (refused by name, never dropped in silence), unknown (ignored, and logged).

mod chat;
mod completions;
mod fields;
mod messages;
mod sampling;
mod shared;
mod tools;

#[cfg(test)]
mod tests;

pub use chat::{ChatCall, read_chat};
pub use completions::{CompletionsCall, read_completions};
pub use fields::{Fields, describe};
pub use shared::{ReplyOptions, read_model};
