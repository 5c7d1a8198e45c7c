//! Spans to a collector, by OpenTelemetry's protocol (OTLP), over gRPC or HTTP.
//!
//! Spans are handed to a thread of their own through a bounded queue: what finds it full is dropped, and no request ever
//! waits. A collector that is away is told of once, and once when it is back.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candlewick_actors::SPANS;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::settings::{OtlpProtocol, TelemetrySettings};

/// How long one batch may take on its way.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last spans may take when the program ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Comes as a text and is a list.
const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";

/// Sends spans until it is shut down.
pub struct Telemetry {
    provider: SdkTracerProvider,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The way to the collector cannot be set up.
    #[error("spans cannot be sent to {endpoint}: {why}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// What is wrong.
        why: ExporterBuildError,
    },
    /// A header cannot be sent.
    #[error("`{0}` in `telemetry.otlp_headers` is no header that can be sent")]
    Header(String),
}

impl Telemetry {
    /// Sets out to send spans to this collector. Must be called where a runtime is; nothing is sent yet.
    pub fn start(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        let exporter = Courier {
            inner: exporter(settings)?,
            endpoint: settings.endpoint.clone(),
            is_away: AtomicBool::new(false),
        };
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", settings.service_name.clone()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", uuid()),
            ])
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// The part of the subscriber that makes the spans.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("candlewick"))
            // Where in our source a span is made, on which thread, and for how long it was polled, is nobody's business.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == SPANS))
    }

    /// Sends what is left, for a moment.
    pub fn shutdown(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::debug!(%error, "the last spans are lost");
        }
    }
}

/// A name for this process among others of the service.
fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn exporter(settings: &TelemetrySettings) -> Result<SpanExporter, TelemetryError> {
    let built = match settings.protocol {
        OtlpProtocol::Grpc => SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&settings.endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .with_metadata(metadata(&settings.headers)?)
            .build(),
        OtlpProtocol::Http => SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(http_endpoint(&settings.endpoint))
            .with_timeout(EXPORT_TIMEOUT)
            .with_headers(settings.headers.clone().into_iter().collect::<HashMap<_, _>>())
            .build(),
    };
    built.map_err(|why| TelemetryError::Exporter { endpoint: settings.endpoint.clone(), why })
}

fn metadata(headers: &[(String, String)]) -> Result<MetadataMap, TelemetryError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = || TelemetryError::Header(name.clone());
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        map.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(MetadataMap::from_headers(map))
}

/// An address without a path is that of a collector, which takes traces at one of its own.
fn http_endpoint(endpoint: &str) -> String {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    match rest.trim_end_matches('/').contains('/') {
        true => endpoint.to_owned(),
        false => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
    }
}

/// Takes spans to the collector, and says when it is away.
struct Courier {
    inner: SpanExporter,
    endpoint: String,
    is_away: AtomicBool,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Courier {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().flat_map(|span| &mut span.attributes).for_each(unfold);
        let result = self.inner.export(batch).await;
        let was_away = self.is_away.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_away => {
                tracing::warn!(
                    "spans cannot be sent to {}, and are dropped until they can: {error}",
                    self.endpoint
                );
            }
            Ok(()) if was_away => tracing::info!("spans are sent to {} again", self.endpoint),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Fields of `tracing` are no lists; this one is to be.
fn unfold(attribute: &mut KeyValue) {
    if attribute.key.as_str() != FINISH_REASONS {
        return;
    }
    if let Value::String(reasons) = &attribute.value {
        let reasons = reasons.as_str().split(',').map(|reason| StringValue::from(reason.to_owned()));
        attribute.value = Value::Array(Array::String(reasons.collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_path_that_it_lacks() {
        for (given, meant) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
        ] {
            assert_eq!(http_endpoint(given), meant);
        }
    }
}
