//! Log lines: to standard error, so that standard output holds only what was asked for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings};

/// Begins to log. Called once, by `main`; where something else logs already (a test), that is left alone.
pub fn init(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.filter).expect("settings are checked before they are used");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let result = match settings.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if result.is_err() {
        tracing::debug!("something logs already");
    }
}
