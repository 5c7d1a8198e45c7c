//! `X-Request-Id` on every answer, whatever becomes of the request: errors, unknown routes and panics included.
//!
//! A client's own id is used if it is sane. It is a name for people and logs; two clients may send the same, so nothing
//! is ever looked up by it.

use std::panic::AssertUnwindSafe;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use candlewick_protocol::RequestId;
use futures::FutureExt;
use tracing::Instrument;

use crate::error::ApiError;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
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

/// Gives the request its id and its span, and turns a panic of its handler into an answer.
pub async fn attach<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let id = choose(&request);
    let value = HeaderValue::from_str(id.as_str()).expect("a sane id is a header value");
    let span =
        tracing::info_span!("http", request_id = %id, method = %request.method(), path = %request.path());
    request.extensions_mut().insert(id);

    // A panic leaves nothing half done that a later request could see: handlers share only the backend, which is made
    // of channels, and settings, which do not change.
    let outcome = AssertUnwindSafe(next.call(request)).catch_unwind().instrument(span.clone()).await;
    let _in_span = span.enter();
    match outcome {
        Ok(Ok(mut response)) => {
            response.headers_mut().insert(HEADER, value);
            tracing::debug!(status = response.status().as_u16(), "answered");
            Ok(response)
        }
        Ok(Err(error)) => Err(answer(error.error_response(), value)),
        Err(_) => {
            tracing::error!("a handler panicked");
            Err(answer(
                ApiError::internal("the server failed while handling this request").error_response(),
                value,
            ))
        }
    }
}

/// The request went down with the failure, so its answer travels as an error.
fn answer(mut response: HttpResponse, id: HeaderValue) -> Error {
    response.headers_mut().insert(HEADER, id);
    InternalError::from_response("answered", response).into()
}
