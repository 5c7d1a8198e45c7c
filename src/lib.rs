//! Candlewick: Hugging Face models behind the OpenAI HTTP API, from one binary.
//!
//! This package only composes. [`start`] makes a [`Server`] of [`Settings`](settings::Settings); the program, the tests
//! and the benchmarks all begin there. What a server does is in the rooms below: `api` (HTTP), `actors` (who owns what),
//! `engine` (deciding), `models` (computing), `hub` (files), and `protocol` (the words they share).

#[expect(unsafe_code, reason = "a function of the allocator that its crate does not declare as safe")]
mod allocator;
pub mod chat;
pub mod chat_client;
mod chat_input;
mod chat_render;
pub mod chat_sse;
pub mod chat_template;
#[cfg(test)]
mod chat_tests;
pub mod chat_words;
pub mod cli;
pub mod download;
#[cfg(test)]
mod download_tests;
pub mod ember;
pub mod health;
pub mod list_models;
pub mod live_settings;
pub mod logging;
mod memory;
pub mod room_settings;
pub mod serve;
mod server;
pub mod service_manager;
pub mod settings;
mod settings_check;
pub mod settings_effect;
pub mod settings_files;
pub mod settings_layers;
pub mod settings_raw;
#[cfg(test)]
mod settings_tests;
pub mod settings_units;
pub mod show_settings;
pub mod signals;
pub mod sources;
pub mod telemetry;

pub use server::{Server, StartError, start, start_watched, start_with};
