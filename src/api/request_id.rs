//! `X-Request-Id` on every answer, whatever becomes of the request: errors, unknown routes and panics included. Only what
//! actix answers by itself, because it could not read a request, has none.
//!
//! A client's own id is used if it is sane. It is a name for people and logs; two clients may send the same, so nothing
//! is ever looked up by it.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest};
use candlewick_protocol::RequestId;
use tracing::Instrument;

use crate::trace::{ServerSpan, TRACEPARENT};

/// The header, in requests and answers.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const LENGTH_MAX: usize = 128;

/// Whether an id can stand in headers, logs and JSON as it is.
pub fn is_sane(id: &str) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// The id of a request.
pub fn of(request: &HttpRequest) -> RequestId {
    request.extensions().get::<RequestId>().cloned().expect("the middleware gave the request its id")
}

fn choose(request: &ServiceRequest) -> RequestId {
    let sent = request.headers().get(&HEADER).and_then(|value| value.to_str().ok()).map(str::trim);
    match sent.filter(|id| is_sane(id)) {
        Some(id) => RequestId::from(id),
        None => RequestId::from(uuid::Uuid::new_v4().simple().to_string().as_str()),
    }
}

fn mark(headers: &mut HeaderMap, id: HeaderValue, traceparent: Option<HeaderValue>) {
    headers.insert(HEADER, id);
    if let Some(traceparent) = traceparent {
        headers.insert(TRACEPARENT, traceparent);
    }
}

/// Gives the request its id and its spans.
pub async fn attach<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let id = choose(&request);
    let value = HeaderValue::from_str(id.as_str()).expect("a sane id is a header value");
    let traced = ServerSpan::open(&request);
    // Of the highest level, so that whatever is logged has it, however quiet the log is.
    let span = tracing::error_span!(
        parent: &traced.span,
        "http", request_id = %id, method = %request.method(), path = %request.path(), trace_id = tracing::field::Empty,
        api_key = tracing::field::Empty
    );
    if let Some(trace_id) = traced.trace_id() {
        span.record("trace_id", trace_id);
    }
    request.extensions_mut().insert(id);

    // In both: where the log is so quiet that it has no span, the trace goes on.
    let mut outcome = next.call(request).instrument(span.clone()).instrument(traced.span.clone()).await;
    let _in_span = span.enter();
    let traceparent = traced.traceparent();
    let status = match &mut outcome {
        Ok(response) => {
            mark(response.headers_mut(), value, traceparent);
            response.status()
        }
        Err(error) => {
            error.add_response_mapper(move |mut response| {
                mark(response.headers_mut(), value.clone(), traceparent.clone());
                response
            });
            error.as_response_error().status_code()
        }
    };
    traced.answered(status.as_u16());
    tracing::debug!(status = status.as_u16(), "answered");
    outcome
}
