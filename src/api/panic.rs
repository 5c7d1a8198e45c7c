//! A panic of a handler becomes an answer.
//!
//! It goes up as an error, for the request went down with the handler. The layers above give that answer its id and what
//! CORS wants, like any other; so this layer must be the innermost.

use std::panic::AssertUnwindSafe;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use futures::FutureExt;

use crate::error::ApiError;
use crate::request_id;

/// Answers 500 where a handler panics.
pub async fn catch<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    // A panic leaves nothing half done that a later request could see: handlers share only the backend, which is made
    // of channels, and settings, which do not change.
    let id = request_id::of(request.request());
    AssertUnwindSafe(next.call(request)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(request_id = %id, "a handler panicked");
        let message = format!("the server failed while handling this request (request {id})");
        Err(ApiError::internal(message).into())
    })
}
