//! The sources of models, against a Hub that the tests themselves serve on loopback.

#[path = "../support/hub.rs"]
mod hub;

mod cached;
mod download;
mod gguf_ahead;
mod listing;
mod refusals;
mod transfer;
mod world;
