//! `X-Request-Id` on every answer, whatever becomes of the request: errors, unknown routes and panics included. Only what
//! actix answers by itself, because it could not read a request, has none.
//!
//! A client's own id is used if it is sane. It is a name for people and logs; two clients may send the same, so nothing
//! is ever looked up by it.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest};
use candlewick_protocol::RequestId;
use tracing::Instrument;

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

/// Gives the request its id and its span.
pub async fn attach<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let id = choose(&request);
    let value = HeaderValue::from_str(id.as_str()).expect("a sane id is a header value");
    let span = tracing::info_span!(
        "http", request_id = %id, method = %request.method(), path = %request.path(), api_key = tracing::field::Empty
    );
    request.extensions_mut().insert(id);

    let mut outcome = next.call(request).instrument(span.clone()).await;
    let _in_span = span.enter();
    match &mut outcome {
        Ok(response) => {
            response.headers_mut().insert(HEADER, value);
            tracing::debug!(status = response.status().as_u16(), "answered");
        }
        Err(error) => error.add_response_mapper(move |mut response| {
            response.headers_mut().insert(HEADER, value.clone());
            response
        }),
    }
    outcome
}
