//! Requests that are answered before their body has come: the connection says that it closes, and is closed if the rest
//! does not come.
//!
//! actix reads on for the end of such a body, for ever if it is chunked, so that a client that falls silent in the middle
//! would hold its connection as long as it likes.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::ConnectionType;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};
use bytes::Bytes;
use futures::Stream;

use crate::ApiState;
use crate::disconnect::{self, HangUp};

/// A body that tells when its end has come.
struct Observed {
    payload: Payload,
    has_ended: Rc<Cell<bool>>,
}

impl Stream for Observed {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.payload).poll_next(context);
        // After an error nothing more comes either, and actix closes the connection by itself.
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.has_ended.set(true);
        }
        polled
    }
}

/// Hangs up a while after it is dropped, unless the body has ended by then.
struct Guard {
    has_ended: Rc<Cell<bool>>,
    hang_up: Option<HangUp>,
    patience: Duration,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(hang_up) = self.hang_up.take().filter(|_| !self.has_ended.get()) {
            hang_up.after(self.patience);
        }
    }
}

/// Watches that a body is read to its end.
pub async fn guard<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let payload = request.take_payload();
    if matches!(payload, Payload::None) {
        return next.call(request).await;
    }
    let state = request.app_data::<web::Data<ApiState>>().expect("the app is made with its state");
    let patience = state.settings().body_timeout;
    let has_ended = Rc::new(Cell::new(false));
    let hang_up = disconnect::hang_up(request.request());
    // Dropped on every way out, a panic included.
    let guard = Guard { has_ended: has_ended.clone(), hang_up, patience };
    let payload: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> =
        Box::pin(Observed { payload, has_ended });
    request.set_payload(payload.into());

    let mut response = next.call(request).await?;
    if !guard.has_ended.get() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}
