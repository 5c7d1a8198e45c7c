//! API keys: who may ask.
//!
//! Keys are compared as SHA-256 digests in constant time, all of them always, so that neither a key's length nor its
//! place in the list can be measured.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, ResponseError, web};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::ApiState;
use crate::error::ApiError;
use crate::wire::error::Fault;

/// Digests of the keys.
pub struct KeyRing {
    digests: Vec<[u8; 32]>,
}

impl KeyRing {
    /// Of these keys; none leaves the server open.
    pub fn new(keys: &[String]) -> Self {
        Self { digests: keys.iter().map(|key| Sha256::digest(key).into()).collect() }
    }

    /// Whether anybody may ask.
    pub fn is_open(&self) -> bool {
        self.digests.is_empty()
    }

    fn holds(&self, key: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let found = self.digests.iter().fold(Choice::from(0), |found, own| found | own.ct_eq(&digest));
        found.into()
    }

    /// Checks an `Authorization` header. Some documents print `Bearer: key`; that is taken too.
    fn check(&self, header: Option<&str>) -> Result<(), &'static str> {
        let Some(header) = header else {
            return Err("an API key is required: send the header `Authorization: Bearer <key>`");
        };
        let (scheme, key) = header.trim().split_once(char::is_whitespace).unwrap_or((header, ""));
        if !scheme.trim_end_matches(':').eq_ignore_ascii_case("bearer") {
            return Err("the `Authorization` header must be of the form `Bearer <key>`");
        }
        if self.holds(key.trim()) { Ok(()) } else { Err("the API key is not one of this server's keys") }
    }
}

/// Refuses requests without a key, except where none is needed.
pub async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    if let Err(why) = check(&request) {
        let response: HttpResponse = ApiError::new(Fault::ApiKey, why).error_response();
        return Ok(request.into_response(response).map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

fn check(request: &ServiceRequest) -> Result<(), &'static str> {
    let state = request.app_data::<web::Data<ApiState>>().expect("the app is made with its state");
    let is_public = match request.path() {
        "/health" | "/ping" => true,
        "/metrics" | "/v1/metrics" => state.settings().metrics_public,
        _ => request.method() == Method::OPTIONS,
    };
    if is_public || state.keys().is_open() {
        return Ok(());
    }
    let header = request.headers().get(header::AUTHORIZATION);
    state.keys().check(header.and_then(|value| value.to_str().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_keys_opens_and_nothing_else_does() {
        let keys = KeyRing::new(&["first".to_owned(), "second".to_owned()]);
        assert_eq!(keys.check(Some("Bearer first")), Ok(()));
        assert_eq!(keys.check(Some("bearer second")), Ok(()));
        assert_eq!(keys.check(Some("Bearer: second")), Ok(()));
        for refused in ["Bearer third", "Bearer ", "Bearer", "Basic first", "first", "Bearer firs", ""] {
            assert!(keys.check(Some(refused)).is_err(), "{refused:?} must not open");
        }
        assert!(keys.check(None).is_err());
    }
}
