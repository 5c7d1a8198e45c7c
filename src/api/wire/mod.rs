//! OpenAI's JSON, answer side: types that serde writes, and nothing else. No room below `api` sees them.
//!
//! Requests have no types here: `from_wire` reads them field by field, so that a fault is named by its path.

pub mod chat;
pub mod completions;
pub mod encoding;
pub mod error;
pub mod models;
pub mod prompt;
pub mod responses;
pub mod text;
pub mod usage;
