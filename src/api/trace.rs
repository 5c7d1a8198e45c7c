//! A request's place in a trace: the W3C context that it came with, the span of the server, and the context that goes back.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderName, HeaderValue};
use candlewick_actors::SPANS;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::routes;

/// The header, in requests and answers.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The span of a request, and the trace that it belongs to.
pub struct ServerSpan {
    pub span: Span,
    context: Option<SpanContext>,
}

impl ServerSpan {
    /// For a request, below the span that its client has named.
    pub fn open(request: &ServiceRequest) -> Self {
        let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let state = header(TRACESTATE).and_then(|state| state.parse().ok()).unwrap_or_default();
        let remote = header(TRACEPARENT).and_then(|text| read_traceparent(text, state));
        let route = routes::template(request);
        let span = info_span!(
            target: SPANS,
            "request",
            otel.name = format!("{} {}", request.method(), route.as_deref().unwrap_or_default()).trim_end(),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = %request.method(),
            http.route = route,
            http.response.status_code = Empty,
            url.path = request.path(),
            error.type = Empty,
        );
        if let Some(remote) = &remote {
            // Refused where nobody takes spans, and then there is nothing to set it on.
            let _ = span.set_parent(Context::new().with_remote_span_context(remote.clone()));
        }
        let own = span.context().span().span_context().clone();
        Self { span, context: Some(own).filter(SpanContext::is_valid).or(remote) }
    }

    /// The name of the trace, for the log.
    pub fn trace_id(&self) -> Option<String> {
        self.context.as_ref().map(|context| context.trace_id().to_string())
    }

    /// What goes back in the header, if this server takes part in the trace.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let context = self.context.as_ref().filter(|context| !context.is_remote())?;
        let flags = context.trace_flags() & TraceFlags::SAMPLED;
        let text = format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8());
        HeaderValue::from_str(&text).ok()
    }

    /// The request was answered so.
    pub fn answered(&self, status: u16) {
        self.span.record("http.response.status_code", i64::from(status));
        if status >= 500 {
            self.span.record("error.type", status.to_string());
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// `00-<trace>-<span>-<flags>`; of later versions the same four are read. (W3C Trace Context, 3.2)
fn read_traceparent(text: &str, state: TraceState) -> Option<SpanContext> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_written_so = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    if !is_written_so || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_as_the_standard_writes_it() {
        let read = |text: &str| read_traceparent(text, TraceState::default());
        let context = read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("it is good");
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(context.is_sampled() && context.is_remote());
        assert!(!read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").expect("good").is_sampled());
        assert!(
            read("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what").is_some(),
            "a later version"
        );
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
