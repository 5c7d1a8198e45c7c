//! A body that keeps something until the last byte of its answer is handed over, or nobody is there any more to take it.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use bytes::Bytes;

/// A body, and what goes when it does.
pub struct Keeping<T> {
    body: BoxBody,
    _kept: T,
}

/// The same answer, whose body keeps this.
pub fn keeping<B: MessageBody + 'static, T>(
    response: ServiceResponse<B>,
    kept: T,
) -> ServiceResponse<Keeping<T>> {
    response.map_body(|_, body| Keeping { body: body.boxed(), _kept: kept })
}

impl<T: Unpin> MessageBody for Keeping<T> {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
