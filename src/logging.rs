//! Log lines: to standard error, so that standard output holds only what was asked for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings};

/// Libraries that tell at `info` what only their authors want to know, and at `error` what we report ourselves or what a
/// client has done: the dispatcher's errors are requests that it could not read.
const QUIETER: &str = "actix_server=warn,actix_http::h1::dispatcher=off,hf_hub=off";

/// Begins to log. Called once, by `main`; where something else logs already (a test), that is left alone.
pub fn init(settings: &LogSettings) {
    // Who asks for details, or writes directives, gets all of them.
    let filter = match settings.filter.as_str() {
        level @ ("error" | "warn" | "info") => format!("{level},{QUIETER}"),
        filter => filter.to_owned(),
    };
    let filter = EnvFilter::try_new(filter).expect("settings are checked before they are used");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let result = match settings.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if result.is_err() {
        tracing::debug!("something logs already");
    }
}
