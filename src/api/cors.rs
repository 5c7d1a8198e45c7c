//! What web pages may do, by settings that change while the server runs.

use std::rc::Rc;

use actix_cors::Cors as Rules;
use actix_web::Error;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::header::HeaderValue;
use actix_web::http::{Method, header};
use futures::future::{FutureExt, LocalBoxFuture};

use crate::live::LiveApi;
use crate::request_id;
use crate::settings::Cors;

/// Lets web pages in, or behaves as if it were not there.
pub struct CrossOrigin {
    live: LiveApi,
}

impl CrossOrigin {
    /// By these settings, as they are when a request comes.
    pub fn new(live: LiveApi) -> Self {
        Self { live }
    }
}

/// Whether pages of this origin may ask.
fn allows(cors: &Cors, origin: &HeaderValue) -> bool {
    match cors {
        Cors::Off => false,
        Cors::AnyOrigin => true,
        Cors::Origins(origins) => origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()),
    }
}

/// What they may do, and that they may read what clients look for in an answer's head.
fn rules(live: LiveApi) -> Rules {
    Rules::default()
        .allowed_origin_fn(move |origin, _| allows(&live.settings().cors, origin))
        // A page of another origin is not told why; its browser says so.
        .block_on_origin_mismatch(false)
        .allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_any_header()
        .expose_headers([request_id::HEADER, header::RETRY_AFTER])
        .supports_credentials()
        .max_age(600)
}

impl<S, B> Transform<S, ServiceRequest> for CrossOrigin
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = EitherWay<S, <Rules as Transform<Rc<S>, ServiceRequest>>::Transform>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (live, plain) = (self.live.clone(), Rc::new(service));
        let ruled = rules(live.clone()).new_transform(plain.clone());
        async move { Ok(EitherWay { plain, ruled: ruled.await?, live }) }.boxed_local()
    }
}

/// The service behind, with and without rules.
pub struct EitherWay<S, R> {
    plain: Rc<S>,
    ruled: R,
    live: LiveApi,
}

impl<S, R, B> Service<ServiceRequest> for EitherWay<S, R>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    R: Service<ServiceRequest, Response = ServiceResponse<EitherBody<B>>, Error = Error>,
    S::Future: 'static,
    R::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(ruled);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        if self.live.settings().cors == Cors::Off {
            let plain = self.plain.call(request);
            return async move { Ok(plain.await?.map_into_left_body()) }.boxed_local();
        }
        self.ruled.call(request).boxed_local()
    }
}
