//! Log lines: to standard error, so that standard output holds only what was asked for.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use candlewick_actors::SPANS;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::settings::{LogFormat, LogSettings};
use crate::telemetry::Telemetry;

/// Libraries that tell at `info` what only their authors want to know, and at `error` what we report ourselves or what a
/// client has done: the dispatcher's errors are requests that it could not read.
const QUIETER: &str = "actix_server=warn,actix_http::h1::dispatcher=off,hf_hub=off";

/// At its finest this library tells a prompt letter by letter, which no level brings into the log.
const TELLS_PROMPTS: &str = "tokenizers=info";

/// Changes what is logged while the program runs.
#[derive(Clone)]
pub struct LogControl(Arc<dyn Fn(EnvFilter) + Send + Sync>);

impl LogControl {
    /// From now on, what these settings say. The format of lines stays.
    pub fn set(&self, settings: &LogSettings) {
        (self.0)(filter(settings));
    }
}

/// Begins to log, and to make spans if they are sent. Called once, by `main`; where something else logs already (a test),
/// that is left alone.
pub fn init(settings: &LogSettings, telemetry: Option<&Telemetry>) -> Option<LogControl> {
    let (filter, handle) = reload::Layer::new(filter(settings));
    let lines = fmt::layer().with_writer(io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let layers = [Some(lines), telemetry.map(|telemetry| telemetry.layer().boxed())];
    let layers: Vec<_> = layers.into_iter().flatten().collect();
    if tracing_subscriber::registry().with(layers).try_init().is_err() {
        tracing::debug!("something logs already");
        return None;
    }
    Some(LogControl(Arc::new(move |filter| {
        // An error would mean that the subscriber is gone, and nobody logs.
        let _ = handle.reload(filter);
    })))
}

fn filter(settings: &LogSettings) -> EnvFilter {
    // Who asks for details, or writes directives, gets all of them.
    let filter = match settings.filter.as_str() {
        level @ ("error" | "warn" | "info") => format!("{level},{QUIETER}"),
        filter => filter.to_owned(),
    };
    // Spans for traces say again what the log says in its own words.
    let filter = format!("{filter},{SPANS}=off,{TELLS_PROMPTS}");
    EnvFilter::try_new(filter).expect("settings are checked before they are used")
}
